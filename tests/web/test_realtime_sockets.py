"""``/v1/realtime`` over raw sockets: vLLM's dialect, browsers, odd handshakes, limits."""

import asyncio
import base64
import json
from urllib.parse import urlsplit

import pytest
from support.clips import clip
from support.wire import START, dial, listen, live, receive, receive_until, s16le, send

SPEECH = s16le(clip("doctor").samples)
UPDATE = {"type": "session.update", "model": "mistralai/Voxtral-Mini-4B-Realtime-2602"}
BEGIN = {"type": "input_audio_buffer.commit", "final": False}
END = {"type": "input_audio_buffer.commit", "final": True}


def appends(audio: bytes, chunk: int = 3200) -> list[dict]:
    return [
        {
            "type": "input_audio_buffer.append",
            "audio": base64.b64encode(audio[at : at + chunk]).decode(),
        }
        for at in range(0, len(audio), chunk)
    ]


@pytest.fixture
def url(server) -> str:
    return f"{server.ws}/v1/realtime"


async def transcribed(socket, *frames: dict) -> str:
    """The text of a done, after checking that it is the deltas before it."""
    await send(socket, *frames)
    messages = await receive_until(socket, "transcription.done")
    deltas = [m["delta"] for m in messages if m["type"] == "transcription.delta"]
    assert "".join(deltas) == messages[-1]["text"]
    assert not [m for m in messages if m["type"] == "error"]
    return messages[-1]["text"]


async def test_vllms_dialect_in_either_order_and_again_on_the_same_socket(server, url):
    [done] = (await live(server.ws, SPEECH)).of("done")
    async with dial(url) as socket:
        created = await receive(socket)
        assert created["type"] == "session.created"
        assert created["id"]
        assert created["created"]
        first = await transcribed(socket, UPDATE, BEGIN, *appends(SPEECH), END)
        again = await transcribed(socket, *appends(SPEECH), BEGIN, END)
        assert first.split() == again.split() == done["text"].split()
        assert {"doctor", "tomorrow", "results"} <= set(first.split())


async def test_vllms_errors_are_plain_strings(url):
    async with dial(url) as socket:
        await receive(socket)
        await send(socket, UPDATE, "nonsense", {"type": "x"}, *appends(b"\0\0"), END)
        messages = await receive_until(socket, "transcription.done")
        errors = [m for m in messages if m["type"] == "error"]
        assert [error["code"] for error in errors] == ["invalid_json", "unknown_event"]
        assert all(isinstance(error["error"], str) for error in errors)


async def test_a_browser_is_given_back_the_protocols_name(url):
    key = "openai-insecure-api-key.ek_any"
    for offered in (["realtime", key], ["realtime", key, "openai-agents-sdk.0.20.0"]):
        async with dial(url, subprotocols=offered) as socket:
            assert socket.subprotocol == "realtime"
    async with dial(url) as socket:
        assert socket.subprotocol is None


@pytest.mark.parametrize(
    "connection", [["Upgrade", "keep-alive"], ["keep-alive", "Upgrade"], ["keep-alive, upgrade"]]
)
async def test_a_handshake_may_have_several_connection_headers(server, connection):
    address = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    lines = [
        "GET /v1/realtime?intent=transcription HTTP/1.1",
        f"Host: {address.netloc}",
        *(f"Connection: {value}" for value in connection),
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 101")
    writer.close()


async def test_a_request_that_only_names_an_upgrade_is_plain_http(server):
    address = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    lines = ["GET /health HTTP/1.1", f"Host: {address.netloc}", "Upgrade: websocket"]
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_one_append_may_carry_fifteen_mebibytes(small):
    recording = bytes(15 * 2**20 - len(SPEECH)) + SPEECH
    async with dial(f"{small.ws}/v1/realtime") as socket:
        await receive(socket)
        text = await transcribed(socket, UPDATE, *appends(recording, len(recording)), END)
        assert "doctor" in text.split()


async def test_a_larger_one_is_too_big(url):
    async with dial(url) as socket:
        await receive(socket)
        await send(socket, json.dumps({"type": "x", "audio": "A" * 22 * 2**20}))
        heard = await listen(socket)
        assert heard.messages[0]["error"]["code"] == "too_big"
        assert heard.code == 1009


async def test_the_last_place_taken_between_handshake_and_audio(small):
    async with dial(f"{small.ws}/v1/realtime") as late:
        await receive(late)
        async with dial(f"{small.ws}/v1/live") as first:
            await send(first, START)
            await receive(first)
            await send(late, *appends(SPEECH))
            heard = await listen(late)
            assert heard.messages[0]["error"]["code"] == "server_full"
            assert heard.code == 1013
