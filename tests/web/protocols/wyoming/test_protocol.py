import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversations import ENGLISH, POLYGLOT, conversations
from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event
from wyoming.info import Info

from voxlive.errors import ProtocolError
from voxlive.streaming.events import (
    SessionClosed,
    SessionError,
    SpeechStarted,
    SpeechStopped,
    Words,
)
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.web.protocols.contract import AudioFrame, StopSession
from voxlive.web.protocols.wyoming import WyomingProtocol, error_event

BEGIN = AudioStart(16_000, 2, 1).event()
CHUNK = AudioChunk(16_000, 2, 1, b"\1\2").event()
DONE = AudioStop().event()


def opened(info=ENGLISH, *before: Event) -> WyomingProtocol:
    protocol = WyomingProtocol(info)
    for event in before:
        protocol.received(event)
    [opening] = protocol.received(BEGIN)
    protocol.options = opening.options
    [protocol.start] = protocol.opened(opening.options)
    return protocol


def test_describe_names_the_model_and_its_languages():
    [answer] = WyomingProtocol(ENGLISH).received(Event("describe"))
    [program] = Info.from_event(answer.event).asr
    assert program.supports_transcript_streaming
    assert program.installed
    [model] = program.models
    assert (model.name, model.languages) == ("model-a", ["en"])


@pytest.mark.conforms(
    "Wyoming",
    "other events",
    "ignored",
)
def test_ping_and_unknown_events():
    protocol = WyomingProtocol(ENGLISH)
    [answer] = protocol.received(Event("ping", {"text": "hi"}))
    assert (answer.event.type, answer.event.data) == ("pong", {"text": "hi"})
    assert protocol.received(Event("synthesize", {"text": "hi"})) == []


@pytest.mark.conforms(
    "Wyoming",
    "`transcribe`",
    "the language of the next utterance; `vad_sensitivity` is the pause (relaxed 1.25 s, "
    "default 500 ms, aggressive 250 ms); `store` and `keep_audio`, beside its own fields, are "
    "whether that utterance may be kept, with its audio; `name` and `context` are ignored",
)
def test_an_utterance_in_the_declared_format_and_language():
    transcribe = Transcribe(name="any", language="de", vad_sensitivity="relaxed").event()
    protocol = opened(POLYGLOT, transcribe)
    assert protocol.options.audio == AudioFormat("s16le", 16_000, 1)
    assert protocol.options.stream.language == "de"
    assert protocol.options.gate.min_silence_ms == 1250
    assert (protocol.start.type, protocol.start.data) == ("transcript-start", {})
    assert protocol.in_utterance
    assert protocol.received(CHUNK) == [AudioFrame(b"\1\2")]
    assert protocol.received(DONE) == [StopSession()]
    assert not protocol.in_utterance
    # The next one does not inherit the options of this one.
    [opening] = protocol.received(BEGIN)
    assert opening.options.stream.language is None


def test_a_client_says_whether_its_next_utterance_may_be_kept():
    protocol = WyomingProtocol(ENGLISH)
    protocol.received(Event("transcribe", {"store": False, "keep_audio": False}))
    [opening] = protocol.received(BEGIN)
    assert (opening.store, opening.keep_audio) == (False, False)
    protocol.received(DONE)
    [opening] = protocol.received(BEGIN)
    assert (opening.store, opening.keep_audio) == (True, None)
    with pytest.raises(ProtocolError):
        protocol.received(Event("transcribe", {"store": "no"}))


@pytest.mark.conforms(
    "Wyoming",
    "`audio-start`, `audio-chunk`, `audio-stop`",
    "work: 8 to 96 kHz, 1, 2 or 4 bytes, 1 to 8 channels; several utterances on a connection",
)
@pytest.mark.parametrize(
    ("rate", "width", "channels", "audio"),
    [
        (8000, 1, 1, AudioFormat("u8", 8000)),
        (44_100, 2, 2, AudioFormat("s16le", 44_100, 2)),
        (48_000, 4, 1, AudioFormat("s32le", 48_000)),
    ],
)
def test_formats_and_a_chunk_that_opens_by_itself(rate, width, channels, audio):
    chunk = AudioChunk(rate, width, channels, bytes(8)).event()
    [opening, first] = WyomingProtocol(ENGLISH).received(chunk)
    assert opening.options.audio == audio
    assert first == AudioFrame(bytes(8))


@pytest.mark.parametrize(
    "event",
    [
        DONE,
        Event("audio-start"),
        Event("audio-start", {"rate": 16_000, "width": 3, "channels": 1}),
        Event("audio-start", {"rate": "fast", "width": 2, "channels": 1}),
        Event("audio-start", {"rate": 0, "width": 2, "channels": 1}),
        Event("audio-chunk", {"rate": 16_000, "width": 2}),
        Event("transcribe", {"language": 5}),
        Event("transcribe", {"vad_sensitivity": "wild"}),
        Event("ping", {"text": ["x"]}),
    ],
)
def test_invalid_events_end_the_connection_with_a_reason(event):
    with pytest.raises(ProtocolError) as raised:
        WyomingProtocol(ENGLISH).received(event)
    error = error_event(raised.value.code, raised.value.message)
    assert (error.type, error.data["code"]) == ("error", "bad_message")
    assert event.type in error.data["text"]


@pytest.mark.parametrize("event", [BEGIN, AudioChunk(8000, 2, 1, b"").event()])
def test_an_utterance_has_one_start_and_one_format(event):
    protocol = opened()
    with pytest.raises(ProtocolError):
        protocol.received(event)


def test_an_unsupported_rate():
    with pytest.raises(ProtocolError, match="rate"):
        WyomingProtocol(ENGLISH).received(AudioStart(1000, 2, 1).event())


@pytest.mark.conforms(
    "Wyoming",
    "`voice-started`, `voice-stopped`",
    "as the voice detector reports them, in milliseconds",
)
def test_speech_events_and_failures():
    protocol = opened()
    [started] = protocol.on_event(SpeechStarted(1600))
    [stopped] = protocol.on_event(SpeechStopped(16_000))
    assert (started.type, started.data) == ("voice-started", {"timestamp": 100})
    assert (stopped.type, stopped.data) == ("voice-stopped", {"timestamp": 1000})
    assert protocol.on_event(SessionError("shutting_down", "soon", fatal=False)) == []
    with pytest.raises(ProtocolError) as raised:
        protocol.on_event(SessionError("engine_failed", "why"))
    assert raised.value.code == "engine_failed"


@pytest.mark.conforms(
    "Wyoming",
    "`transcript-start`, `transcript-chunk`, `transcript`, `transcript-stop`",
    "in this order; the chunks joined are the transcript",
)
@given(st.lists(conversations(), min_size=1, max_size=3))
def test_chunks_joined_are_the_transcript_of_each_utterance(utterances):
    protocol = WyomingProtocol(ENGLISH)
    for events in utterances:
        [opening] = protocol.received(BEGIN)
        outs = protocol.opened(opening.options)
        protocol.received(DONE)
        for event in events:
            outs += protocol.on_event(event)
        kinds = [out.type for out in outs if not out.type.startswith("voice-")]
        chunks = kinds[1:-2]
        assert kinds == ["transcript-start", *chunks, "transcript", "transcript-stop"]
        assert set(chunks) <= {"transcript-chunk"}
        text = "".join(event.text for event in events if isinstance(event, Words))
        chunk_texts = [
            TranscriptChunk.from_event(o).text for o in outs if TranscriptChunk.is_type(o.type)
        ]
        assert "".join(chunk_texts) == text
        assert Transcript.from_event(outs[-2]).text == text


def test_an_utterance_without_words_has_an_empty_transcript():
    transcript, stop = opened().on_event(SessionClosed(0))
    assert (transcript.data["text"], stop.type) == ("", "transcript-stop")
