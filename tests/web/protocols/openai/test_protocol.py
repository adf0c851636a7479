"""OpenAI's realtime protocol: audio, updates after audio, and ends."""

import json

import pytest
from support.conversations import POLYGLOT
from support.openai_realtime import (
    COMMIT,
    MANUAL,
    SECOND,
    TRANSCRIPTION,
    append,
    client,
    decoded,
    frame,
    in_force,
    kinds,
    one,
    samples,
    update,
    word,
)

from voxlive.streaming.events import (
    Flushed,
    SessionClosed,
    SessionError,
    SpeechStarted,
    SpeechStopped,
)
from voxlive.vad.gate import GateOptions
from voxlive.web.protocols.contract import AudioFrame, CloseSocket, OpenSession

# Audio.


def test_audio_opens_the_session_once_and_is_split_into_frames():
    protocol = client()
    assert protocol.received(append(b"")) == []
    first, audio = protocol.received(append(b"\1\2\3"))
    assert isinstance(first, OpenSession)
    assert audio == AudioFrame(b"\1\2\3")
    pieces = protocol.received(append(bytes(15 << 20)))
    assert all(isinstance(piece, AudioFrame) for piece in pieces)
    assert sum(len(piece.data) for piece in pieces) == 15 << 20
    assert max(len(piece.data) for piece in pieces) == 1 << 20
    assert len(append(bytes(15 << 20))) <= protocol.max_text


@pytest.mark.conforms(
    "OpenAI",
    "`response.*`, `conversation.item.*` and unknown events",
    "refused: `error` `invalid_event`, the session goes on",
)
@pytest.mark.parametrize(
    "bad",
    [
        "not json",
        "[]",
        "{}",
        frame("input_audio_buffer.append"),
        frame("input_audio_buffer.append", audio=5),
        frame("input_audio_buffer.append", audio="not base64!"),
        frame("response.create"),
        frame("conversation.item.create", item={}),
        frame("nonsense", event_id=7),
        b"\0\0",
    ],
)
def test_an_invalid_event_is_refused_and_the_session_goes_on(bad):
    protocol = client()
    error = one(protocol.received(bad))
    assert error["type"] == "error"
    assert error["error"]["code"] == "invalid_event"
    assert error["error"]["event_id"] is None
    assert isinstance(protocol.received(append(bytes(2)))[0], OpenSession)


def test_an_error_has_the_event_id_if_it_is_valid():
    protocol = client()
    assert one(protocol.received(frame("x", event_id="e1")))["error"]["event_id"] == "e1"
    for invalid in ("\ud800", "", "e" * 1000, {"e": 1}):
        error = protocol.received(frame("x", event_id=invalid))[0].frame
        assert json.loads(error.encode())["error"]["event_id"] is None


# Updates after audio.


@pytest.mark.conforms(
    "OpenAI",
    "`session.update` after it",
    "works for format and turn detection: what came before is brought out first, nothing "
    "is lost; language and delay stay and `session.updated` says so",
)
def test_an_update_after_audio_takes_effect_from_there_on():
    protocol = client(append(bytes(2 * SECOND)))
    protocol.on_event(SpeechStarted(0))
    eager = {"type": "server_vad", "silence_duration_ms": 200}
    updated, reconfiguration = protocol.received(
        update({"audio": {"input": {"turn_detection": eager}}})
    )
    assert kinds([updated]) == ["updated"]
    assert reconfiguration.options.gate == GateOptions(min_silence_ms=200)
    outs = protocol.on_event(SpeechStopped(samples(2)))
    assert kinds(outs) == ["speech_stopped", "committed", "added"]
    assert kinds(protocol.on_event(Flushed(reconfiguration.marker))) == ["completed", "done"]
    protocol.received(append(bytes(2 * SECOND)))
    protocol.on_event(SpeechStarted(samples(2.5)))
    assert decoded(protocol.on_event(SpeechStopped(samples(3))))[0]["audio_end_ms"] == 3200


def test_an_update_of_other_fields_does_not_reconfigure_the_session():
    protocol = client(update({"audio": {"input": {"transcription": {"language": "en"}}}}))
    protocol.received(append(bytes(SECOND)))
    session = {"audio": {"input": {"transcription": {"model": "b"}, "noise_reduction": None}}}
    assert kinds(protocol.received(update(session))) == ["updated"]


def test_language_stays_as_the_stream_was_opened_and_is_returned():
    protocol = client(append(bytes(SECOND)), info=POLYGLOT)
    assert in_force(protocol, transcription={"language": "de"})["transcription"]["language"] is None


def test_audio_is_counted_over_a_change_of_format():
    protocol = client(update(MANUAL), append(bytes(SECOND)))
    slow = {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}
    _, reconfiguration = protocol.received(update(slow))
    assert reconfiguration.options.audio.encoding == "mulaw"
    assert one(protocol.on_event(word("one", 0.5)))["delta"] == "one"
    assert protocol.on_event(Flushed(reconfiguration.marker)) == []
    protocol.received(append(bytes(8000)))
    *_, flush = protocol.received(COMMIT)
    completed, _ = decoded(protocol.on_event(Flushed(flush.marker)))
    assert completed["transcript"] == "one"
    assert completed["usage"]["seconds"] == 2


def test_turns_change_from_the_detector_to_the_client_between_items():
    protocol = client(append(bytes(SECOND)))
    first_item = one(protocol.on_event(SpeechStarted(0)))["item_id"]
    _, reconfiguration = protocol.received(update(MANUAL))
    protocol.received(append(bytes(SECOND)))
    [flush] = protocol.received(COMMIT)
    assert one(protocol.on_event(word("a", 0.5)))["item_id"] == first_item
    protocol.on_event(SpeechStopped(samples(1)))
    completed, _, following, _ = decoded(protocol.on_event(Flushed(reconfiguration.marker)))
    assert completed["item_id"] == following["previous_item_id"] == first_item
    committed = following["item_id"]
    assert one(protocol.on_event(word(" b", 1.5)))["item_id"] == committed
    completed, _ = decoded(protocol.on_event(Flushed(flush.marker)))
    assert (completed["item_id"], completed["transcript"]) == (committed, "b")
    assert completed["usage"]["seconds"] == 1


def test_uncommitted_words_are_an_item_when_the_detector_takes_over():
    protocol = client(update(MANUAL), append(bytes(SECOND)))
    early = one(protocol.on_event(word("left", 0.5)))["item_id"]
    vad = {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
    _, reconfiguration = protocol.received(update(vad))
    outs = protocol.on_event(Flushed(reconfiguration.marker))
    assert kinds(outs) == ["committed", "added", "completed", "done"]
    assert decoded(outs)[2]["item_id"] == early
    assert kinds(protocol.on_event(SpeechStarted(samples(1)))) == ["speech_started"]


# Ends.


@pytest.mark.conforms(
    "OpenAI",
    "a failure",
    "`…transcription.failed` for items that wait, `error`, close 1011; full 1013, going "
    "down 1012 without an `error`",
)
def test_a_failure_fails_the_open_items_and_closes():
    protocol = client(append(bytes(4 * SECOND)))
    item = one(protocol.on_event(SpeechStarted(0)))["item_id"]
    protocol.on_event(SpeechStopped(samples(1)))
    outs = protocol.on_event(SessionError("engine_failed", "it broke"))
    failed, error = decoded(outs)
    assert failed["type"] == f"{TRANSCRIPTION}.failed"
    assert (failed["item_id"], failed["error"]["code"]) == (item, "engine_failed")
    assert (error["error"]["type"], error["error"]["code"]) == ("server_error", "engine_failed")
    assert outs[-1] == CloseSocket(1011)


@pytest.mark.parametrize(
    ("code", "kind", "close"),
    [
        ("server_full", "server_error", 1013),
        ("too_big", "invalid_request_error", 1009),
        ("slow_client", "invalid_request_error", 1008),
    ],
)
def test_a_fatal_error_has_a_type_a_code_and_a_close(code, kind, close):
    outs = client().failed(code, "why")
    assert one(outs)["error"]["type"] == kind
    assert one(outs)["error"]["code"] == code
    assert outs[-1] == CloseSocket(close)


def test_a_shutdown_is_no_error_and_closes_with_1012():
    protocol = client(append(bytes(4 * SECOND)))
    protocol.on_event(SpeechStarted(0))
    protocol.on_event(word("tail", 0.5))
    assert protocol.on_event(SessionError("shutting_down", "soon", fatal=False)) == []
    protocol.on_event(SpeechStopped(samples(4)))
    outs = protocol.on_event(SessionClosed(samples(4)))
    assert kinds(outs) == ["completed", "done"]
    assert outs[-1] == CloseSocket(1012)


def test_a_commit_that_a_shutdown_overtakes_fails():
    protocol = client(update(MANUAL), append(bytes(4 * SECOND)))
    item = decoded(protocol.received(COMMIT)[:2])[0]["item_id"]
    protocol.on_event(word("half of it", 0.5))
    outs = protocol.on_event(SessionClosed(samples(1)))
    failed = one(outs)
    assert failed["type"] == f"{TRANSCRIPTION}.failed"
    assert (failed["item_id"], failed["error"]["code"]) == (item, "shutting_down")
    assert outs[-1] == CloseSocket(1012)
