"""A server with keys through client libraries: their errors, and what the server logs."""

import asyncio
import base64
import contextlib
import json

import httpx
import pytest
from deepgram import AsyncDeepgramClient, DeepgramClientEnvironment
from deepgram.core.api_error import ApiError
from mistralai.client import Mistral
from mistralai.client.errors import SDKError
from openai import AsyncOpenAI, AuthenticationError, PermissionDeniedError, RateLimitError
from support.clips import clip
from support.keys import bearer
from support.server import serving
from support.wire import START, ServerOutput, dial, listen, play, s16le, send
from websockets.exceptions import ConnectionClosed, InvalidStatus

from voxlive.web.access.keys import digest

KEY, FILES = "the-key-for-all-of-it", "the-key-for-files-alone"
SLOW = "the-key-for-once-a-minute"
WRONG = "no-key-of-this-server"
SPEECH = s16le(clip("doctor").samples)
TABLES = f"""
[all]
sha256 = "{digest(KEY).hex()}"
[files]
key = "{FILES}"
scopes = ["files"]
sessions = 1
[slow]
key = "{SLOW}"
rate = 1
"""


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(TABLES)
    keys.chmod(0o600)
    options = ("--max-session-minutes", "0.15", "--max-sessions", "4", "--log-level", "debug")
    with serving("--keys", str(keys), *options, key=KEY) as server:
        yield server


def openai(server, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(api_key=key, base_url=f"{server.url}/v1", max_retries=0)


def environment(server) -> DeepgramClientEnvironment:
    return DeepgramClientEnvironment(
        base=server.url, production=server.ws, agent=server.ws, agent_rest=server.url
    )


def deepgram(server, key: str) -> AsyncDeepgramClient:
    return AsyncDeepgramClient(api_key=key, environment=environment(server))


async def test_openai_client_raises_for_refusals(keyed):
    upload = clip("yes").path
    with pytest.raises(AuthenticationError) as wrong:
        await openai(keyed, WRONG).audio.transcriptions.create(model="whisper-1", file=upload)
    assert (wrong.value.code, wrong.value.status_code) == ("invalid_api_key", 401)
    assert WRONG not in str(wrong.value)
    with pytest.raises(PermissionDeniedError):
        await openai(keyed, FILES).realtime.client_secrets.create()
    said = await openai(keyed, FILES).audio.transcriptions.create(model="whisper-1", file=upload)
    assert said.text
    with pytest.raises(InvalidStatus) as refused:
        async with openai(keyed, WRONG).realtime.connect(model="any"):
            pass
    assert refused.value.response.status_code == 401
    secret = await openai(keyed, KEY).realtime.client_secrets.create(
        session={"type": "transcription", "audio": {"input": {"turn_detection": None}}}
    )
    async with openai(keyed, secret.value).realtime.connect(model="any") as connection:
        created = await connection.recv()
        assert created.session.audio.input.turn_detection is None


async def test_openai_client_gets_retry_after(keyed):
    client = openai(keyed, SLOW)
    assert (await client.models.list()).data
    with pytest.raises(RateLimitError) as limit:
        await client.models.list()
    assert limit.value.code == "rate_limit_exceeded"
    assert int(limit.value.response.headers["retry-after"]) > 0
    assert (await openai(keyed, KEY).models.list()).data


@pytest.mark.endurance
async def test_deepgram_client_raises_for_refusals(keyed):
    pcm = {"model": "nova-3", "encoding": "linear16", "sample_rate": 16_000}
    with pytest.raises(ApiError) as wrong:
        async with deepgram(keyed, WRONG).listen.v1.connect(**pcm):
            pass
    assert wrong.value.status_code == 401
    with pytest.raises(ApiError) as wrong:
        await deepgram(keyed, WRONG).listen.v1.media.transcribe_file(request=b"")
    assert (wrong.value.status_code, wrong.value.body["err_code"]) == (401, "INVALID_AUTH")
    client = deepgram(keyed, KEY)
    grant = await client.auth.v1.tokens.grant(ttl_seconds=60)
    assert grant.expires_in == 60
    short = AsyncDeepgramClient(access_token=grant.access_token, environment=environment(keyed))
    async with short.listen.v1.connect(**pcm) as connection:
        await connection.send_media(SPEECH)
        await connection.send_close_stream()
        results = [m async for m in connection if m.type == "Results"]
    assert "doctor" in " ".join(r.channel.alternatives[0].transcript for r in results)


@pytest.mark.endurance
async def test_mistral_client_raises_for_refusals(keyed):
    wrong, right = (Mistral(api_key=key, server_url=keyed.url) for key in (WRONG, KEY))
    with pytest.raises(Exception, match="401"):
        await wrong.audio.realtime.connect(model="any")
    with pytest.raises(SDKError) as refused:
        await wrong.realtime.sessions.create_async(request={"model": "any"})
    assert refused.value.status_code == 401
    made = await right.realtime.sessions.create_async(request={"model": "any"})
    short = Mistral(api_key=made.client_secret.value, server_url=keyed.url)
    async with await short.audio.realtime.connect(model="any") as connection:
        assert connection.request_id


APPEND = {"type": "input_audio.append", "audio": base64.b64encode(SPEECH).decode()}
TURNS = {"type": "audio/pcm", "rate": 16_000}
UPDATE = {"type": "session.update", "session": {"audio": {"input": {"format": TURNS}}}}
SPOKEN = [
    ("/v1/live", [START, SPEECH]),
    ("/v1/listen?encoding=linear16&sample_rate=16000", [SPEECH]),
    ("/v1/audio/transcriptions/realtime?model=any", [APPEND]),
    ("/v1/realtime", [UPDATE, APPEND | {"type": "input_audio_buffer.append"}]),
]


async def until_expired(server, path: str, frames: list) -> ServerOutput:
    """A client that keeps the connection alive and never says that it is done."""
    async with dial(f"{server.ws}{path}", additional_headers=server.headers) as socket:
        await send(socket, *frames)
        listening = asyncio.create_task(listen(socket))
        while not listening.done():
            if "listen" in path:
                with contextlib.suppress(ConnectionClosed):
                    await send(socket, {"type": "KeepAlive"})
            await asyncio.wait([listening], timeout=2)
        return listening.result()


async def test_a_session_that_expires_has_all_its_words(keyed):
    ends = await asyncio.gather(*(until_expired(keyed, *spoken) for spoken in SPOKEN))
    for (path, _), heard in zip(SPOKEN, ends, strict=True):
        said = json.dumps(heard.messages)
        assert "doctor" in said, path
        assert "a session may last 0.15 min" in said, path
        assert heard.code == 1001, path
    await keyed.until(in_use=0)


async def test_refusals_do_not_affect_other_sessions_and_take_no_slot(keyed):
    neighbour = asyncio.create_task(spoken(keyed, pace=2.0))
    for n in range(4 * len(SPOKEN)):
        path, _ = SPOKEN[n % len(SPOKEN)]
        with contextlib.suppress(InvalidStatus):
            async with dial(f"{keyed.ws}{path}", additional_headers=bearer(WRONG)) as socket:
                assert (await listen(socket)).code in (4401, 4429)
    heard = await neighbour
    assert "doctor" in heard.of("done")[0]["text"]
    assert not heard.errors
    await keyed.until(in_use=0)


async def spoken(server, pace: float) -> ServerOutput:
    headers = server.headers
    async with dial(f"{server.ws}/v1/live", additional_headers=headers) as socket:
        await send(socket, START)
        await play(socket, SPEECH, pace, 3200)
        await send(socket, {"type": "stop"})
        return await listen(socket)


async def test_no_key_is_logged_even_at_debug(keyed):
    for secret in (KEY, WRONG):
        for options in (
            {"additional_headers": bearer(secret)},
            {"additional_headers": {"x-api-key": secret}},
            {"subprotocols": ["token", secret]},
            {"subprotocols": ["realtime", f"openai-insecure-api-key.{secret}"]},
        ):
            with contextlib.suppress(InvalidStatus):
                async with dial(f"{keyed.ws}/v1/realtime", **options):
                    pass
        for path in (f"/asr?token={secret}", f"/v1/realtime?intent=x&api_key={secret}"):
            with contextlib.suppress(InvalidStatus):
                async with dial(f"{keyed.ws}{path}"):
                    pass
        async with httpx.AsyncClient(base_url=keyed.url) as http:
            await http.get("/captions", params={"token": secret})
            await http.get(f"/{secret}/", params={"api_key": secret})
            made = await http.post("/v1/auth/grant", headers=bearer(secret))
            if made.status_code == 200:
                short = made.json()["access_token"]
                async with dial(f"{keyed.ws}/asr?token={short}"):
                    pass
    logged = keyed.logged()
    assert "/asr" in logged
    for secret in (KEY, FILES, WRONG, short):
        assert secret not in logged
