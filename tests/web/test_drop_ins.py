"""Deepgram's and Mistral's protocols over real sockets: handshakes, abuse, the server's end."""

import asyncio
import json
import random
import signal

import httpx
import pytest
from support.clips import clip
from support.server import serving
from support.talk import CLOSE, DEEPGRAM, END, MISTRAL, deepgram_finals, mistral_append, outcome
from support.wire import START, dial, listen, receive, receive_until, s16le, send
from websockets.exceptions import InvalidStatus

SPEECH = s16le(clip("doctor").samples)


@pytest.mark.parametrize("scheme", ["token", "bearer"])
async def test_a_browsers_key_is_a_subprotocol_and_the_scheme_alone_is_selected(server, scheme):
    async with dial(f"{server.ws}{DEEPGRAM}", subprotocols=[scheme, "secret"]) as socket:
        assert socket.subprotocol == scheme
        request = socket.response.headers["dg-request-id"]
        await send(socket, CLOSE)
        [metadata] = (await listen(socket)).of("Metadata")
        assert metadata["request_id"] == request


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("?encoding=linear16", "sample_rate"),
        ("?multichannel=true", "multichannel"),
        ("?language=%E4%B8%AD", "English"),
    ],
)
async def test_a_refused_handshake_says_why_in_its_body_and_headers(server, query, hint):
    with pytest.raises(InvalidStatus) as refused:
        async with dial(f"{server.ws}/v1/listen{query}"):
            pass
    response = refused.value.response
    body = json.loads(response.body)
    assert response.status_code == 400
    assert body["err_code"] == "Bad Request"
    assert hint in body["err_msg"]
    assert hint in response.headers["dg-error"]
    assert body["request_id"] == response.headers["dg-request-id"]


@pytest.mark.parametrize(
    ("path", "frames", "error", "close"),
    [
        (DEEPGRAM, [bytes(10_000_000)], "too_big", 1009),
        (DEEPGRAM, ["x" * 100_000], "too_big", 1009),
        ("/v1/listen", [random.Random(3).randbytes(5000)], "bad_audio", 1008),
        (MISTRAL, ["x" * 23_000_000], 413, 1009),
        (MISTRAL, [bytes(10_000_000)], 413, 1009),
        ("/v1/audio/transcriptions/realtime", [], 400, 4400),
    ],
)
async def test_fatal_mistakes_are_named_and_closed(server, path, frames, error, close):
    heard = await outcome(server, path, *frames)
    said = heard.messages[-1]
    assert error in (said.get("variant"), said.get("error", {"code": None}).get("code"))
    assert heard.code == close
    await server.until(in_use=0)


@pytest.mark.parametrize("garbage", ["nonsense", "[1]", "{}", '{"type": "stop"}'])
async def test_garbage_is_refused_and_the_session_goes_on(server, garbage):
    deepgram = await outcome(server, DEEPGRAM, garbage, SPEECH, garbage, CLOSE)
    assert [m["variant"] for m in deepgram.of("Error")] == ["SchemaError"] * 2
    assert "doctor" in deepgram_finals(deepgram)
    mistral = await outcome(server, MISTRAL, garbage, mistral_append(SPEECH), garbage, END)
    assert [m["error"]["code"] for m in mistral.of("error")] == [400] * 2
    assert "doctor" in mistral.of("transcription.done")[0]["text"]


async def test_a_full_server_refuses_in_each_protocols_own_words(small):
    async with (
        dial(f"{small.ws}{MISTRAL}") as waiting,
        dial(f"{small.ws}/v1/live") as first,
    ):
        assert (await receive(waiting))["type"] == "session.created"
        await send(first, START)
        await receive(first)
        with pytest.raises(InvalidStatus) as refused:
            async with dial(f"{small.ws}{DEEPGRAM}"):
                pass
        response = refused.value.response
        assert response.status_code == 503
        assert json.loads(response.body)["err_code"] == "SERVICE_UNAVAILABLE"
        assert int(response.headers["retry-after"]) > 0
        # One that connected before learns it with its first audio, a new one at once.
        await send(waiting, mistral_append(SPEECH))
        for heard in (await listen(waiting), await outcome(small, MISTRAL)):
            assert heard.messages[-1]["error"]["code"] == 503
            assert heard.code == 1013
        await send(first, SPEECH, {"type": "stop"})
        assert "doctor" in (await listen(first)).of("done")[0]["text"]


async def test_sigterm_lets_the_tail_out_and_closes_with_1012():
    speech = SPEECH[: 32_000 * 4]
    with serving("--max-sessions", "2") as server:
        async with (
            dial(f"{server.ws}{DEEPGRAM}&vad_events=true") as deepgram,
            dial(f"{server.ws}{MISTRAL}") as mistral,
        ):
            turns = {"type": "session.update", "session": {"turn_detection": {}}}
            await send(deepgram, speech)
            await send(mistral, turns, mistral_append(speech))
            await receive_until(deepgram, "SpeechStarted")
            await receive_until(mistral, "turn.start")
            server.process.send_signal(signal.SIGTERM)
            theirs, other = await asyncio.gather(listen(deepgram), listen(mistral))
        assert "doctor" in deepgram_finals(theirs)
        assert theirs.messages[-1]["type"] == "Metadata"
        [done] = other.of("transcription.done")
        assert done["text"] == deepgram_finals(theirs)
        assert not other.of("error")
        assert theirs.code == other.code == 1012
        assert server.process.wait(30) == 0


def test_a_posted_file_that_is_too_long_is_a_413(server):
    posted = httpx.post(f"{server.url}/v1/listen", content=bytes(50_000_001), timeout=60)
    assert posted.status_code == 413
    assert posted.json()["err_code"] == "PAYLOAD_TOO_LARGE"
    assert posted.json()["request_id"] == posted.headers["dg-request-id"]


async def test_a_client_that_leaves_its_file_ends_its_transcription(server):
    data = clip("minute").path.read_bytes()
    await server.until(files=0)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as leaver:
        request = asyncio.create_task(leaver.post("/v1/listen", content=data))
        await server.until(files=1)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    await server.until(files=0)


async def test_a_control_in_a_binary_frame_of_odd_length_moves_no_sample(server):
    """As some clients of Deepgram send it: the words after it are those without it."""
    audio = s16le(clip("doctor").samples)
    keep = b'{"type":"KeepAlive"} '
    assert len(keep) % 2
    heard = []
    for between in ((), (keep,)):
        close = b'{"type":"CloseStream"}' if between else CLOSE
        said = await outcome(server, DEEPGRAM, audio[:32_000], *between, audio[32_000:], close)
        assert said.code == 1000
        heard.append(deepgram_finals(said))
    assert {"doctor", "tomorrow"} <= set(heard[0].split())
    assert heard[0] == heard[1]
