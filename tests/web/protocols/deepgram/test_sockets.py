"""Deepgram's protocol over real sockets: live, and with a posted file."""

import asyncio
import json
import random

import httpx
import pytest
from support.clips import clip
from support.talk import CLOSE, DEEPGRAM, deepgram_finals, outcome
from support.wire import dial, listen, s16le, send
from websockets.exceptions import InvalidStatus

SPEECH = s16le(clip("doctor").samples)
MESSAGE = s16le(clip("message").samples)


@pytest.mark.parametrize("scheme", ["token", "bearer"])
async def test_a_browser_sends_its_key_as_a_subprotocol_and_the_scheme_is_selected(server, scheme):
    async with dial(f"{server.ws}{DEEPGRAM}", subprotocols=[scheme, "secret"]) as socket:
        assert socket.subprotocol == scheme
        request_id = socket.response.headers["dg-request-id"]
        await send(socket, CLOSE)
        [metadata] = (await listen(socket)).of("Metadata")
        assert metadata["request_id"] == request_id


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("?encoding=linear16", "sample_rate"),
        ("?multichannel=true", "multichannel"),
        ("?language=%E4%B8%AD", "English"),
    ],
)
async def test_a_denied_handshake_has_the_reason_in_body_and_headers(server, query, hint):
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
    ("path", "frame", "variant", "close"),
    [
        (DEEPGRAM, bytes(10_000_000), "too_big", 1009),
        (DEEPGRAM, "x" * 100_000, "too_big", 1009),
        ("/v1/listen", random.Random(3).randbytes(5000), "bad_audio", 1008),
    ],
)
async def test_a_fatal_error_is_named_and_closes(server, path, frame, variant, close):
    result = await outcome(server, path, frame)
    assert result.messages[-1]["variant"] == variant
    assert result.code == close
    await server.until(in_use=0)


@pytest.mark.parametrize("garbage", ["nonsense", "[1]", "{}", '{"type": "stop"}'])
async def test_garbage_is_refused_and_the_session_goes_on(server, garbage):
    result = await outcome(server, DEEPGRAM, garbage, SPEECH, garbage, CLOSE)
    assert [m["variant"] for m in result.of("Error")] == ["SchemaError"] * 2
    assert "doctor" in deepgram_finals(result)


async def test_a_control_message_in_a_binary_frame_of_odd_length_shifts_no_sample(ports_server):
    """As some clients of Deepgram send it: the words after it are those without it."""
    keep = b'{"type":"KeepAlive"} '
    assert len(keep) % 2
    finals = []
    for between in ((), (keep,)):
        close = b'{"type":"CloseStream"}' if between else CLOSE
        speech = MESSAGE[:32_000], *between, MESSAGE[32_000:]
        result = await outcome(ports_server, DEEPGRAM, *speech, close)
        assert result.code == 1000
        finals.append(deepgram_finals(result))
    assert {"message", "telephone"} <= set(finals[0].split())
    assert finals[0] == finals[1]


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
