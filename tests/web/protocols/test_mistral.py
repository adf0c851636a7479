"""Mistral's realtime transcription: the translator alone, then over real sockets."""

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given
from support.clips import clip
from support.conversations import ENGLISH, POLYGLOT, conversations
from support.talk import END, MISTRAL, mistral_append, outcome
from support.wire import s16le

from voxlive.errors import ProtocolError
from voxlive.streaming.events import (
    Draft,
    Flushed,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
    Words,
)
from voxlive.vad.gate import GateOptions
from voxlive.values import Word
from voxlive.web.protocols.contract import (
    AudioFrame,
    CloseSocket,
    FlushSession,
    OpenSession,
    Refuse,
    Reply,
    StopSession,
)
from voxlive.web.protocols.mistral import MistralProtocol

SPEECH = s16le(clip("doctor").samples)
DELAYS = replace(POLYGLOT, delays_ms=range(80, 2401, 80))


def connected(info=ENGLISH) -> MistralProtocol:
    protocol = MistralProtocol({"model": "voxtral-mini-transcribe-realtime-2602"}, info)
    protocol.connected()
    return protocol


def opened(info=ENGLISH, **session) -> MistralProtocol:
    protocol = connected(info)
    if session:
        update(protocol, **session)
    [opening, _] = protocol.received(append(bytes(2)))
    protocol.opened("id", opening.options)
    return protocol


def append(audio: bytes) -> str:
    audio_base64 = base64.b64encode(audio).decode()
    return json.dumps({"type": "input_audio.append", "audio": audio_base64})


def command(protocol, kind, **fields):
    return protocol.received(json.dumps({"type": kind, **fields}))


def update(protocol, **session) -> dict:
    """The session in ``session.updated``."""
    [reply] = command(protocol, "session.update", session=session)
    assert isinstance(reply, Reply)
    message = json.loads(reply.frame)
    assert message["type"] == "session.updated"
    return message["session"]


def options(info=ENGLISH, **session):
    """What a session with this configuration opens with."""
    protocol = connected(info)
    update(protocol, **session)
    [opening, _] = protocol.received(append(bytes(2)))
    assert isinstance(opening, OpenSession)
    return opening.options


def decoded(outs) -> list[dict]:
    return [json.loads(out) for out in outs if isinstance(out, str)]


def on_events(protocol, *events) -> list[dict]:
    return [message for event in events for message in decoded(protocol.on_event(event))]


def test_session_created_comes_first_with_the_options_in_force():
    protocol = MistralProtocol({"model": "whatever"}, POLYGLOT)
    [created] = decoded(protocol.connected())
    assert created["session"].pop("request_id")
    assert created == {
        "type": "session.created",
        "session": {
            "model": "model-b",
            "audio_format": {"encoding": "pcm_s16le", "sample_rate": 16_000},
            "target_streaming_delay_ms": 480,
            "language": None,
            "diarize": False,
            "turn_detection": None,
        },
    }


@pytest.mark.conforms(
    "Mistral",
    "no `?model=`",
    "refused: `error` 400, close 4400",
)
def test_the_url_must_name_a_model():
    protocol = MistralProtocol({}, ENGLISH)
    with pytest.raises(ProtocolError, match="model") as raised:
        protocol.connected()
    [error] = decoded(protocol.failed(raised.value.code, raised.value.message))
    assert error["error"]["code"] == 400


def test_the_defaults_are_16_khz_pcm_and_no_drafts():
    [opening, audio] = connected().received(append(b"ab"))
    assert (opening.options.audio.encoding, opening.options.audio.rate) == ("s16le", 16_000)
    assert opening.options.gate == GateOptions()
    assert not opening.options.stream.drafts
    assert audio == AudioFrame(b"ab")


@pytest.mark.conforms(
    "Mistral",
    "`pcm_s16le`, `pcm_s32le`, `pcm_f16le`, `pcm_f32le`, `pcm_mulaw`, `pcm_alaw`, 8 to 96 kHz",
    "works",
)
@pytest.mark.parametrize("encoding", ["s16le", "s32le", "f16le", "f32le", "mulaw", "alaw"])
def test_every_encoding_at_any_rate(encoding):
    audio = options(audio_format={"encoding": f"pcm_{encoding}", "sample_rate": 44_100}).audio
    assert (audio.encoding, audio.rate, audio.channels) == (encoding, 44_100, 1)


@pytest.mark.conforms(
    "Mistral",
    "`target_streaming_delay_ms`",
    "the model's nearest delay; `session.updated` has it, null where the engine has none",
)
@pytest.mark.parametrize(
    ("delay_ms", "effective"), [(480, 480), (0, 80), (1000, 960), (1001, 1040), (30_000, 2400)]
)
def test_the_nearest_delay_of_the_model_is_taken_and_reported(delay_ms, effective):
    protocol = connected(DELAYS)
    session = update(protocol, target_streaming_delay_ms=delay_ms)
    assert session["target_streaming_delay_ms"] == effective
    [opening, _] = protocol.received(append(bytes(2)))
    assert opening.options.stream.delay_ms == effective


def test_a_delay_has_no_effect_where_the_engine_has_none():
    assert update(connected(), target_streaming_delay_ms=480)["target_streaming_delay_ms"] is None
    assert options(target_streaming_delay_ms=480).stream.delay_ms is None


@pytest.mark.conforms(
    "Mistral",
    "`session.update` before the first audio",
    "works; a field left out stays, null is the default",
)
def test_updates_add_up_and_null_is_the_default():
    protocol = connected(DELAYS)
    update(protocol, language="fr", context_bias=["Voxtral"], diarize=False)
    update(protocol, audio_format={"encoding": "pcm_alaw", "sample_rate": 8000})
    session = update(protocol, target_streaming_delay_ms=800, not_invented_yet=1)
    assert (session["language"], session["target_streaming_delay_ms"]) == ("fr", 800)
    assert session["audio_format"] == {"encoding": "pcm_alaw", "sample_rate": 8000}
    cleared = dict.fromkeys(("audio_format", "language", "target_streaming_delay_ms"))
    session = update(protocol, **cleared, turn_detection=None)
    assert (session["language"], session["target_streaming_delay_ms"]) == (None, 480)
    assert session["audio_format"] == {"encoding": "pcm_s16le", "sample_rate": 16_000}


@pytest.mark.conforms(
    "Mistral",
    "`turn_detection`",
    "`turn.start` and `turn.end` from this server's voice detector; with `end_timeout_ms`, and "
    "`voxlive models fetch smart-turn`, turns end by what was said and how, at the latest then, "
    "with `turn.eager_end` and `turn.resume`",
)
def test_turns_are_the_voice_detectors_and_sent_if_requested():
    protocol = connected()
    delay_ms = {"start_threshold": 0.6, "end_threshold": 0.4, "min_silence_ms": 800}
    session = update(protocol, turn_detection={**delay_ms, "eager_end_threshold": 0.5})
    assert session["turn_detection"] == delay_ms
    [opening, _] = protocol.received(append(bytes(2)))
    assert opening.options.gate == GateOptions(0.6, 0.4, min_silence_ms=800)
    assert on_events(protocol, SpeechStarted(8000), SpeechStopped(24_000)) == [
        {"type": "turn.start", "time_s": 0.5},
        {"type": "turn.end", "time_s": 1.5, "end_reason": "threshold"},
    ]
    assert on_events(opened(), SpeechStarted(8000), SpeechStopped(24_000)) == []


@pytest.mark.conforms(
    "Mistral",
    "`speaker_references`",
    "refused: `error` 400, the update as a whole has no effect",
)
@pytest.mark.parametrize(
    "session",
    [
        None,
        [],
        {"audio_format": "pcm_s16le"},
        {"audio_format": {"encoding": "pcm_s24le", "sample_rate": 16_000}},
        {"audio_format": {"encoding": ["pcm_s16le"], "sample_rate": 16_000}},
        {"audio_format": {"encoding": "pcm_s16le", "sample_rate": 100}},
        {"audio_format": {"encoding": "pcm_s16le", "sample_rate": "16000"}},
        {"target_streaming_delay_ms": -1},
        {"target_streaming_delay_ms": 480.5},
        {"language": 5},
        {"turn_detection": True},
        {"turn_detection": {"start_threshold": 2}},
        {"turn_detection": {"start_threshold": 0.2, "end_threshold": 0.33}},
        {"diarize": 1},
        {"speaker_references": {"alice": "UklGRg=="}},
    ],
)
def test_a_bad_update_is_refused_and_changes_nothing(session):
    protocol = connected()
    [refusal] = command(protocol, "session.update", session=session)
    assert isinstance(refusal, Refuse)
    [error] = decoded(protocol.refused(refusal.code, refusal.message))
    assert error == {"type": "error", "error": {"message": refusal.message, "code": 400}}
    [opening, _] = protocol.received(append(bytes(2)))
    assert opening.options.audio.encoding == "s16le"


@pytest.mark.conforms(
    "Mistral",
    "`session.update` after it",
    "`error` 409, the session goes on",
)
@pytest.mark.parametrize("first", ["input_audio.append", "input_audio.flush"])
def test_an_update_after_the_first_audio_is_rejected(first):
    protocol = connected()
    assert isinstance(command(protocol, first, audio="AAA=")[0], OpenSession)
    [refusal] = command(protocol, "session.update", session={"language": "en"})
    [error] = decoded(protocol.refused(refusal.code, refusal.message))
    assert error["error"]["code"] == 409
    assert protocol.received(append(b"\1\2")) == [AudioFrame(b"\1\2")]


@pytest.mark.parametrize(
    "frame",
    [
        "nonsense",
        "[]",
        "{}",
        b"\0\0",
        '{"type": "input_audio.commit"}',
        '{"type": "input_audio.append"}',
        '{"type": "input_audio.append", "audio": 5}',
        '{"type": "input_audio.append", "audio": "not base64"}',
        '{"type": "input_audio.append", "audio": "é"}',
    ],
)
def test_an_invalid_message_is_refused_and_the_session_goes_on(frame):
    protocol = opened()
    [refusal] = protocol.received(frame)
    assert isinstance(refusal, Refuse)
    assert protocol.received(append(b"\1\2")) == [AudioFrame(b"\1\2")]


@pytest.mark.conforms(
    "Mistral",
    "`input_audio.end`",
    "works: a last `transcription.done`, close 1000",
)
def test_flush_and_end():
    protocol = connected()
    [opening, flush] = command(protocol, "input_audio.flush")
    assert isinstance(opening, OpenSession)
    assert isinstance(flush, FlushSession)
    assert protocol.received(append(b"\1\2")) == [AudioFrame(b"\1\2")]
    assert command(protocol, "input_audio.end") == [StopSession()]
    assert protocol.received(append(b"\1\2")) == []
    assert command(protocol, "input_audio.end") == []
    [opening, stop] = command(connected(), "input_audio.end")
    assert (type(opening), stop) == (OpenSession, StopSession())


@pytest.mark.conforms(
    "Mistral",
    "`transcription.language`, `language` of a done",
    "left out and null: no live engine says which language it recognises",
)
def test_a_requested_language_is_not_a_recognised_one():
    for info in (ENGLISH, POLYGLOT):
        protocol = connected(info)
        update(protocol, language="en")
        [opening, _] = protocol.received(append(bytes(2)))
        assert opening.options.stream.language == "en"
        assert protocol.opened("id", opening.options) == []
        assert on_events(protocol, Flushed("0"))[0]["language"] is None


@pytest.mark.conforms(
    "Mistral",
    "`input_audio.flush`",
    "works: `transcription.done` with the text since the last one, and the session stays open",
)
@pytest.mark.conforms(
    "Mistral",
    "`usage`",
    "seconds of audio; tokens are left out",
)
def test_words_are_deltas_and_a_flush_is_answered_with_their_text():
    protocol = opened()
    protocol.received(append(bytes(32_000 * 2)))
    [flush] = command(protocol, "input_audio.flush")
    delta, segment, done = on_events(
        protocol,
        Words(0, (Word("Hello", 1600, 8000), Word(" you", 8000, 16_000))),
        Draft(0, ""),
        SegmentClosed(0, 1600, 16_000, "Hello you"),
        UtteranceEnded(30_000),
        Flushed(flush.marker),
    )
    assert delta == {"type": "transcription.text.delta", "text": "Hello you"}
    assert segment == {
        "type": "transcription.segment",
        "text": "Hello you",
        "start": 0.1,
        "end": 1.0,
    }
    assert done == {
        "type": "transcription.done",
        "model": "model-a",
        "text": "Hello you",
        "language": None,
        "segments": [{**segment, "type": "transcription_segment"}],
        "usage": {"prompt_audio_seconds": 3},
    }
    on_events(protocol, Words(1, (Word(" there", 40_000, 48_000),)))
    protocol.received(append(bytes(32_000)))
    protocol.received('{"type": "input_audio.end"}')
    *outs, close = protocol.on_event(SessionClosed(48_000))
    [last] = decoded(outs)
    assert (last["text"], last["usage"]) == (" there", {"prompt_audio_seconds": 1})
    assert close == CloseSocket(1000)


@pytest.mark.parametrize(
    ("code", "number", "close"),
    [
        ("server_full", 503, 1013),
        ("unsupported_option", 422, 4400),
        ("too_big", 413, 1009),
        ("engine_failed", 500, 1011),
    ],
)
def test_a_failure_is_an_error_with_a_number_and_the_close(code, number, close):
    *outs, end = opened().on_event(SessionError(code, "why"))
    assert decoded(outs) == [{"type": "error", "error": {"message": "why", "code": number}}]
    assert end == CloseSocket(close)


def test_shutdown_sends_the_last_words_and_closes_with_1012():
    for ended, close in [(False, 1012), (True, 1000)]:
        protocol = opened()
        if ended:
            command(protocol, "input_audio.end")
        assert protocol.on_event(SessionError("shutting_down", "soon", fatal=False)) == []
        *outs, end = protocol.on_event(SessionClosed(0))
        assert [message["type"] for message in decoded(outs)] == ["transcription.done"]
        assert end == CloseSocket(close)


@pytest.mark.conforms(
    "Mistral",
    "`transcription.text.delta`, `transcription.segment`",
    "work; the deltas since a done are the text of the next",
)
@given(conversations())
def test_dones_have_the_deltas_since_the_one_before(events):
    protocol = opened()
    flushes = [replace(e, marker="0") if isinstance(e, Flushed) else e for e in events]
    outs = [out for event in flushes for out in protocol.on_event(event)]
    assert outs.pop() == CloseSocket(1000)
    since, segments = "", []
    for message in decoded(outs):
        match message["type"]:
            case "transcription.text.delta":
                assert message["text"]
                since += message["text"]
            case "transcription.segment":
                segments.append(message)
            case "transcription.done":
                assert message["text"] == since
                since = ""
    assert message["type"] == "transcription.done"
    text = "".join(event.text for event in events if isinstance(event, Words))
    dones = [m for m in decoded(outs) if m["type"] == "transcription.done"]
    assert "".join(done["text"] for done in dones) == text
    assert "".join(segment["text"] for segment in segments) == text
    assert [s["text"] for s in segments] == [s["text"] for d in dones for s in d["segments"]]
    assert len(dones) == 1 + sum(isinstance(event, Flushed) for event in events)


@pytest.mark.parametrize(
    ("path", "frames", "error", "close"),
    [
        (MISTRAL, ["x" * 23_000_000], 413, 1009),
        (MISTRAL, [bytes(10_000_000)], 413, 1009),
        ("/v1/audio/transcriptions/realtime", [], 400, 4400),
    ],
)
async def test_a_fatal_error_has_a_number_and_closes(server, path, frames, error, close):
    result = await outcome(server, path, *frames)
    assert result.messages[-1]["error"]["code"] == error
    assert result.code == close
    await server.until(in_use=0)


@pytest.mark.parametrize("garbage", ["nonsense", "[1]", "{}", '{"type": "stop"}'])
async def test_garbage_is_refused_and_the_session_goes_on(server, garbage):
    result = await outcome(server, MISTRAL, garbage, mistral_append(SPEECH), garbage, END)
    assert [m["error"]["code"] for m in result.of("error")] == [400] * 2
    assert "doctor" in result.of("transcription.done")[0]["text"]
