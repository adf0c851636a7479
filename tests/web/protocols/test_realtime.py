"""The path that OpenAI's and vLLM's protocols share: which one a client uses, and real sockets."""

import json

import pytest
from support.clips import clip
from support.conversations import ENGLISH
from support.talk import append
from support.wire import START, dial, listen, receive, s16le, send

from voxlive.streaming.events import Words
from voxlive.values import Word
from voxlive.web.protocols.contract import CloseSocket, HandshakeResponse, OpenSession
from voxlive.web.protocols.realtime import RealtimeProtocol

SPEECH = s16le(clip("doctor").samples)
WORDS = Words(0, (Word("hi", 0, 800),))
APPEND = '{"type": "input_audio_buffer.append", "audio": "AAAA"}'


def client() -> RealtimeProtocol:
    protocol = RealtimeProtocol({}, ENGLISH)
    protocol.connected()
    return protocol


def kind_of_delta(protocol: RealtimeProtocol) -> str:
    messages = [json.loads(out) for out in protocol.on_event(WORDS)]
    return next(m["type"] for m in messages if m["type"].endswith("delta"))


def test_session_created_is_valid_in_both_protocols():
    [created] = RealtimeProtocol({}, ENGLISH).connected()
    message = json.loads(created)
    assert message["type"] == "session.created"
    assert message["id"].startswith("sess-")
    assert isinstance(message["created"], int)
    assert message["session"]["type"] == "transcription"
    assert message["event_id"]


@pytest.mark.conforms(
    "vLLM",
    "known by its first message: `session.update` with a `model` and no `session`, or a "
    "commit with `final`",
    "works on one path with OpenAI's",
)
@pytest.mark.parametrize(
    "first",
    [
        {"type": "session.update", "model": "mistralai/Voxtral"},
        {"type": "input_audio_buffer.commit", "final": False},
    ],
)
def test_vllm_is_detected_by_its_first_message(first):
    protocol = client()
    protocol.received(json.dumps(first))
    protocol.received(APPEND)
    assert kind_of_delta(protocol) == "transcription.delta"
    [error] = protocol.failed("server_full", "all are in use")[:1]
    assert json.loads(error)["error"] == "all are in use"


@pytest.mark.parametrize(
    "first",
    [
        {"type": "session.update", "session": {"type": "transcription"}},
        {"type": "session.update", "session": {}, "model": "gpt-4o-transcribe"},
        {"type": "transcription_session.update", "session": {}},
        {"type": "session.update"},
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.clear"},
    ],
)
def test_all_other_clients_are_openais(first):
    protocol = client()
    protocol.received(json.dumps(first))
    protocol.received(json.dumps({"type": "session.update", "model": "too late"}))
    opening, _ = protocol.received(APPEND)
    assert isinstance(opening, OpenSession)
    assert opening.options.audio.rate == 24_000
    assert kind_of_delta(protocol).startswith("conversation.item")


def test_audio_may_come_first_and_invalid_messages_decide_nothing():
    protocol = client()
    for invalid in ("no json", b"\0", "[]"):
        assert protocol.received(invalid)
    protocol.received(json.dumps({"type": "session.update", "model": "x"}))
    protocol.received(APPEND)
    assert kind_of_delta(protocol) == "transcription.delta"
    protocol = client()
    assert protocol.received(APPEND)[0].options.audio.rate == 24_000


def test_before_the_first_message_an_error_is_openais():
    protocol = client()
    assert protocol.handshake_response(
        ["realtime", "openai-insecure-api-key.x"]
    ) == HandshakeResponse("realtime")
    error, close = protocol.failed("server_full", "all are in use")
    assert json.loads(error)["error"]["message"] == "all are in use"
    assert close == CloseSocket(1013)


@pytest.fixture
def url(server) -> str:
    return f"{server.ws}/v1/realtime"


async def test_a_browser_gets_the_protocols_name_as_subprotocol(url):
    key = "openai-insecure-api-key.ek_any"
    for offered in (["realtime", key], ["realtime", key, "openai-agents-sdk.0.20.0"]):
        async with dial(url, subprotocols=offered) as socket:
            assert socket.subprotocol == "realtime"
    async with dial(url) as socket:
        assert socket.subprotocol is None


async def test_a_message_of_22_mebibytes_is_too_big(url):
    async with dial(url) as socket:
        await receive(socket)
        await send(socket, json.dumps({"type": "x", "audio": "A" * 22 * 2**20}))
        result = await listen(socket)
        assert result.messages[0]["error"]["code"] == "too_big"
        assert result.code == 1009


async def test_the_server_fills_up_between_handshake_and_audio(small):
    async with dial(f"{small.ws}/v1/realtime") as late:
        await receive(late)
        async with dial(f"{small.ws}/v1/live") as first:
            await send(first, START)
            await receive(first)
            await send(late, append(SPEECH))
            result = await listen(late)
            assert result.messages[0]["error"]["code"] == "server_full"
            assert result.code == 1013
