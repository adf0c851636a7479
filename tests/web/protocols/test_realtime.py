import json

import pytest
from support.conversations import ENGLISH

from voxlive.streaming.events import Words
from voxlive.values import Word
from voxlive.web.protocols.contract import CloseSocket, HandshakeResponse, OpenSession
from voxlive.web.protocols.realtime import RealtimeProtocol

SAID = Words(0, (Word("hi", 0, 800),))
APPEND = '{"type": "input_audio_buffer.append", "audio": "AAAA"}'


def client() -> RealtimeProtocol:
    protocol = RealtimeProtocol({}, ENGLISH)
    protocol.connected()
    return protocol


def kind_of_delta(protocol: RealtimeProtocol) -> str:
    messages = [json.loads(out) for out in protocol.on_event(SAID)]
    return next(m["type"] for m in messages if m["type"].endswith("delta"))


def test_the_first_message_suits_both():
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
def test_vllm_is_known_by_its_first_message(first):
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
def test_everyone_else_is_openais(first):
    protocol = client()
    protocol.received(json.dumps(first))
    protocol.received(json.dumps({"type": "session.update", "model": "too late"}))
    opening, _ = protocol.received(APPEND)
    assert isinstance(opening, OpenSession)
    assert opening.options.audio.rate == 24_000
    assert kind_of_delta(protocol).startswith("conversation.item")


def test_audio_may_come_first_and_nonsense_decides_nothing():
    protocol = client()
    for nonsense in ("no json", b"\0", "[]"):
        assert protocol.received(nonsense)
    protocol.received(json.dumps({"type": "session.update", "model": "x"}))
    protocol.received(APPEND)
    assert kind_of_delta(protocol) == "transcription.delta"
    protocol = client()
    assert protocol.received(APPEND)[0].options.audio.rate == 24_000


def test_before_anything_was_said_the_end_is_openais():
    protocol = client()
    assert protocol.handshake_response(
        ["realtime", "openai-insecure-api-key.x"]
    ) == HandshakeResponse("realtime")
    error, close = protocol.failed("server_full", "all are in use")
    assert json.loads(error)["error"]["message"] == "all are in use"
    assert close == CloseSocket(1013)
