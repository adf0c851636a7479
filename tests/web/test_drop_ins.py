"""Deepgram's and Mistral's protocols over real sockets: handshakes, abuse, the server's end."""

import asyncio
import base64
import json
import os
import signal

import httpx
import pytest
from support.clips import clip
from support.server import serving
from support.wire import START, Heard, dial, listen, live, receive, receive_until, s16le, send
from websockets.exceptions import InvalidStatus

SPEECH = s16le(clip("doctor").samples)
LISTEN = "/v1/listen?encoding=linear16&sample_rate=16000"
MISTRAL = "/v1/audio/transcriptions/realtime?model=voxtral"
FLUSH = {"type": "input_audio.flush"}
END = {"type": "input_audio.end"}
FINALIZE = {"type": "Finalize"}
CLOSE = {"type": "CloseStream"}


def append(audio: bytes) -> dict:
    return {"type": "input_audio.append", "audio": base64.b64encode(audio).decode()}


async def outcome(server, path: str, *frames) -> Heard:
    """What a client hears that sends these frames and then listens."""
    async with dial(f"{server.ws}{path}") as socket:
        await send(socket, *frames)
        return await listen(socket)


def finals(heard: Heard) -> str:
    results = [m for m in heard.of("Results") if m["is_final"]]
    return " ".join(filter(None, (m["channel"]["alternatives"][0]["transcript"] for m in results)))


async def test_one_text_through_every_protocol(server):
    native = await live(server.ws, SPEECH)
    text = native.of("done")[0]["text"]
    deepgram = await outcome(server, LISTEN, SPEECH, CLOSE)
    assert finals(deepgram) == text
    mistral = await outcome(server, MISTRAL, append(SPEECH), END)
    assert mistral.of("transcription.done")[0]["text"] == text
    assert deepgram.code == mistral.code == 1000
    posted = await asyncio.to_thread(
        httpx.post, f"{server.url}/v1/listen", content=clip("doctor").path.read_bytes(), timeout=60
    )
    [channel] = posted.json()["results"]["channels"]
    assert channel["alternatives"][0]["transcript"] == text


@pytest.mark.parametrize("scheme", ["token", "bearer"])
async def test_a_browsers_key_is_a_subprotocol_and_the_scheme_alone_is_selected(server, scheme):
    async with dial(f"{server.ws}{LISTEN}", subprotocols=[scheme, "secret"]) as socket:
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
        (LISTEN, [bytes(10_000_000)], "too_big", 1009),
        (LISTEN, ["x" * 100_000], "too_big", 1009),
        ("/v1/listen", [os.urandom(5000)], "bad_audio", 1008),
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
    deepgram = await outcome(server, LISTEN, garbage, SPEECH, garbage, CLOSE)
    assert [m["variant"] for m in deepgram.of("Error")] == ["SchemaError"] * 2
    assert "doctor" in finals(deepgram)
    mistral = await outcome(server, MISTRAL, garbage, append(SPEECH), garbage, END)
    assert [m["error"]["code"] for m in mistral.of("error")] == [400] * 2
    assert "doctor" in mistral.of("transcription.done")[0]["text"]


STATES = [
    (LISTEN,),
    (LISTEN, SPEECH),
    (LISTEN, SPEECH[: len(SPEECH) // 3], FINALIZE),
    (LISTEN, SPEECH, FINALIZE, CLOSE),
    ("/v1/listen", b"\x1a\x45\xdf\xa3"),
    (MISTRAL,),
    (MISTRAL, {"type": "session.update", "session": {}}),
    (MISTRAL, append(SPEECH)),
    (MISTRAL, append(SPEECH[: len(SPEECH) // 3]), FLUSH),
    (MISTRAL, append(SPEECH), FLUSH, END),
]


async def test_a_neighbour_is_not_disturbed_by_clients_that_vanish_in_every_state(server):
    alone = await live(server.ws, SPEECH)
    await server.until(in_use=0)
    neighbour = asyncio.create_task(live(server.ws, SPEECH, pace=1.0))
    await asyncio.sleep(0.5)
    for path, *frames in STATES:
        async with dial(f"{server.ws}{path}") as socket:
            await send(socket, *frames)
            socket.transport.abort()
    heard = await neighbour
    assert heard.of("done")[0]["text"] == alone.of("done")[0]["text"]
    assert not heard.errors
    await server.until(in_use=0)


async def test_a_full_server_refuses_in_each_protocols_own_words():
    with serving("--max-sessions", "1") as server:
        async with (
            dial(f"{server.ws}{MISTRAL}") as waiting,
            dial(f"{server.ws}/v1/live") as first,
        ):
            assert (await receive(waiting))["type"] == "session.created"
            await send(first, START)
            await receive(first)
            with pytest.raises(InvalidStatus) as refused:
                async with dial(f"{server.ws}{LISTEN}"):
                    pass
            response = refused.value.response
            assert response.status_code == 503
            assert json.loads(response.body)["err_code"] == "SERVICE_UNAVAILABLE"
            assert int(response.headers["retry-after"]) > 0
            # One that connected before learns it with its first audio, a new one at once.
            await send(waiting, append(SPEECH))
            for heard in (await listen(waiting), await outcome(server, MISTRAL)):
                assert heard.messages[-1]["error"]["code"] == 503
                assert heard.code == 1013
            await send(first, SPEECH, {"type": "stop"})
            assert "doctor" in (await listen(first)).of("done")[0]["text"]


async def test_sigterm_lets_the_tail_out_and_closes_with_1012():
    speech = SPEECH[: 32_000 * 4]
    with serving("--max-sessions", "2") as server:
        async with (
            dial(f"{server.ws}{LISTEN}&vad_events=true") as deepgram,
            dial(f"{server.ws}{MISTRAL}") as mistral,
        ):
            turns = {"type": "session.update", "session": {"turn_detection": {}}}
            await send(deepgram, speech)
            await send(mistral, turns, append(speech))
            await receive_until(deepgram, "SpeechStarted")
            await receive_until(mistral, "turn.start")
            server.process.send_signal(signal.SIGTERM)
            theirs, other = await asyncio.gather(listen(deepgram), listen(mistral))
        assert "doctor" in finals(theirs)
        assert theirs.messages[-1]["type"] == "Metadata"
        [done] = other.of("transcription.done")
        assert done["text"] == finals(theirs)
        assert not other.of("error")
        assert theirs.code == other.code == 1012
        assert server.process.wait(30) == 0


def test_a_posted_file_that_is_too_long_is_a_413(server):
    posted = httpx.post(f"{server.url}/v1/listen", content=bytes(50_000_001), timeout=60)
    assert posted.status_code == 413
    assert posted.json()["err_code"] == "PAYLOAD_TOO_LARGE"
    assert posted.json()["request_id"] == posted.headers["dg-request-id"]


async def test_a_client_that_leaves_its_file_frees_the_slot(server):
    data = clip("minute").path.read_bytes()
    await server.until(in_use=0)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as leaver:
        request = asyncio.create_task(leaver.post("/v1/listen", content=data))
        await server.until(in_use=1)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    await server.until(in_use=0)
