import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.conversations import ENGLISH, POLYGLOT
from support.scripted_session import ScriptedSession

from voxlive.streaming.events import (
    Flushed,
    SessionClosed,
    SessionError,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
    Words,
)
from voxlive.vad.gate import GateOptions
from voxlive.values import SAMPLE_RATE, Word
from voxlive.web.protocols.contract import (
    AudioFrame,
    CloseSocket,
    FlushSession,
    HandshakeResponse,
    OpenSession,
    ReconfigureSession,
    Reply,
)
from voxlive.web.protocols.openai.protocol import OpenAIRealtimeProtocol

SECOND = 48_000  # bytes
TRANSCRIPTION = "conversation.item.input_audio_transcription"
MANUAL = {"audio": {"input": {"turn_detection": None}}}


def frame(kind: str, **fields) -> str:
    return json.dumps({"type": kind, **fields})


def append(audio: bytes) -> str:
    return frame("input_audio_buffer.append", audio=base64.b64encode(audio).decode())


def update(session: dict, **fields) -> str:
    return frame("session.update", session=session, **fields)


COMMIT = frame("input_audio_buffer.commit")
CLEAR = frame("input_audio_buffer.clear")


def decoded(outs) -> list[dict]:
    """The messages among actions or outs."""
    frames = [out.frame if isinstance(out, Reply) else out for out in outs]
    return [json.loads(out) for out in frames if isinstance(out, str)]


def kinds(outs) -> list[str]:
    """The types of messages, short."""
    return [m["type"].removeprefix("input_audio_buffer.").split(".")[-1] for m in decoded(outs)]


def one(outs) -> dict:
    [message] = decoded(outs)
    return message


def client(*frames: str, info=ENGLISH) -> OpenAIRealtimeProtocol:
    protocol = OpenAIRealtimeProtocol({}, info)
    protocol.connected()
    for client_frames in frames:
        protocol.received(client_frames)
    return protocol


def in_force(protocol: OpenAIRealtimeProtocol, **settings) -> dict:
    """``session.audio.input`` after an update."""
    message = one(protocol.received(update({"audio": {"input": settings}}))[:1])
    assert message["type"] == "session.updated", message
    return message["session"]["audio"]["input"]


def opened_with(protocol: OpenAIRealtimeProtocol):
    action = protocol.received(append(bytes(2)))[0]
    assert isinstance(action, OpenSession)
    return action.options


def word(text: str, at_s: float) -> Words:
    at = int(at_s * SAMPLE_RATE)
    return Words(0, (Word(text, at, at + 1600),))


def samples(at_s: float) -> int:
    return int(at_s * SAMPLE_RATE)


# The session and its configuration.


def test_session_created_comes_first_with_the_defaults():
    created = one(OpenAIRealtimeProtocol({"intent": "transcription"}, ENGLISH).connected())
    assert created["type"] == "session.created"
    assert created["event_id"]
    session = created["session"]
    assert session["id"].startswith("sess_")
    assert (session["type"], session["object"]) == (
        "transcription",
        "realtime.transcription_session",
    )
    assert session["audio"]["input"] == {
        "format": {"type": "audio/pcm", "rate": 24_000},
        "noise_reduction": None,
        "transcription": {"model": "model-a", "language": None, "prompt": None, "delay": None},
        "turn_detection": {
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 500,
            "idle_timeout_ms": None,
        },
    }


@pytest.mark.conforms(
    "OpenAI",
    "sub-protocols `realtime`, `openai-insecure-api-key.…`",
    "`realtime` is selected",
)
def test_the_subprotocol_is_the_protocols_name_and_never_the_key():
    protocol = client()
    offered = ["realtime", "openai-insecure-api-key.secret", "openai-agents-sdk.0.20"]
    assert protocol.handshake_response(offered) == HandshakeResponse("realtime")
    assert protocol.handshake_response([]) == HandshakeResponse(None)
    assert protocol.handshake_response(["openai-insecure-api-key.secret"]) == HandshakeResponse(
        None
    )


def test_the_defaults_are_those_of_every_other_protocol():
    options = opened_with(client())
    assert options.gate == GateOptions()
    assert (options.audio.encoding, options.audio.rate) == ("s16le", 24_000)
    assert options.stream.drafts is False


@pytest.mark.conforms(
    "OpenAI",
    "`audio/pcm` at 8 to 96 kHz (24 kHz unless given), `audio/pcmu`, `audio/pcma`; "
    "`pcm16`, `g711_ulaw`, `g711_alaw`",
    "works",
)
@pytest.mark.parametrize(
    ("given_format", "encoding", "rate"),
    [
        ({"type": "audio/pcm", "rate": 24_000}, "s16le", 24_000),
        ({"type": "audio/pcm", "rate": 16_000}, "s16le", 16_000),
        ({"type": "audio/pcm", "rate": 44_100}, "s16le", 44_100),
        ({"type": "audio/pcm"}, "s16le", 24_000),
        ({"type": "audio/pcmu"}, "mulaw", 8_000),
        ({"type": "audio/pcma"}, "alaw", 8_000),
        ("pcm16", "s16le", 24_000),
        (None, "s16le", 24_000),
    ],
)
def test_formats(given_format, encoding, rate):
    protocol = client()
    in_force(protocol, format={"type": "audio/pcm", "rate": 8000})
    effective = in_force(protocol, format=given_format)["format"]
    audio = opened_with(protocol).audio
    assert (audio.encoding, audio.rate) == (encoding, rate)
    assert effective.get("rate") == (rate if encoding == "s16le" else None)


@pytest.mark.conforms(
    "OpenAI",
    "`server_vad`: `threshold`, `prefix_padding_ms`, `silence_duration_ms`",
    "works, up to 2 s of padding and 10 s of silence; `idle_timeout_ms` is answered by null",
)
@pytest.mark.parametrize(
    ("vad", "gate"),
    [
        ({"threshold": 0.7}, GateOptions(threshold=0.7, exit_threshold=0.55)),
        ({"threshold": 0}, GateOptions(threshold=0.01, exit_threshold=0.01)),
        ({"threshold": 1}, GateOptions(threshold=0.99, exit_threshold=0.84)),
        (
            {"prefix_padding_ms": 600, "silence_duration_ms": 350},
            GateOptions(pre_roll_ms=600, min_silence_ms=350),
        ),
        (
            {"prefix_padding_ms": 9000, "silence_duration_ms": 60_000.0},
            GateOptions(pre_roll_ms=2000, min_silence_ms=10_000),
        ),
        ({"create_response": True, "interrupt_response": True, "idle_timeout_ms": 5000}, None),
        ({"threshold": None, "silence_duration_ms": None}, None),
    ],
)
def test_server_vad_sets_the_gate_and_is_returned_as_in_force(vad, gate):
    protocol = client()
    effective = in_force(protocol, turn_detection={"type": "server_vad", **vad})["turn_detection"]
    options = opened_with(protocol).gate
    assert options == (gate or GateOptions())
    assert effective == {
        "type": "server_vad",
        "threshold": options.threshold,
        "prefix_padding_ms": options.pre_roll_ms,
        "silence_duration_ms": options.min_silence_ms,
        "idle_timeout_ms": None,
    }


@pytest.mark.conforms(
    "OpenAI",
    "`semantic_vad`",
    "a pause by `eagerness` (low 1 s, medium and auto 500 ms, high 300 ms), reported as "
    "the `server_vad` that it is",
)
def test_semantic_vad_is_answered_with_the_server_vad_in_force():
    silences = []
    for eagerness in ("high", "auto", "medium", "low", None):
        protocol = client()
        vad = {"type": "semantic_vad", "eagerness": eagerness, "create_response": False}
        effective = in_force(protocol, turn_detection=vad)["turn_detection"]
        assert effective["type"] == "server_vad"
        assert opened_with(protocol).gate.min_silence_ms == effective["silence_duration_ms"]
        silences.append(effective["silence_duration_ms"])
    high, auto, medium, low, default = silences
    assert high < medium < low
    assert auto == medium == default


@pytest.mark.conforms(
    "OpenAI",
    "`session.update` before the first audio",
    "works, fields merge and null clears; `session.updated` has what is in force",
)
@pytest.mark.conforms(
    "OpenAI",
    "`noise_reduction`",
    "returned, without effect",
)
def test_updates_merge_and_null_clears():
    protocol = client(info=POLYGLOT)
    in_force(protocol, format={"type": "audio/pcm", "rate": 16_000})
    in_force(protocol, turn_detection=None, noise_reduction={"type": "far_field"})
    effective = in_force(protocol, transcription={"model": "whisper-1", "language": "de-AT"})
    assert effective["format"]["rate"] == 16_000
    assert effective["turn_detection"] is None
    assert effective["noise_reduction"] == {"type": "far_field"}
    assert effective["transcription"]["language"] == "de"
    assert in_force(protocol, transcription={"prompt": "x"})["transcription"]["language"] == "de"
    effective = in_force(protocol, transcription=None, noise_reduction=None)
    assert effective["transcription"]["language"] is None
    assert effective["noise_reduction"] is None
    assert one(protocol.received(update({})))["session"]["audio"]["input"] == effective


@pytest.mark.conforms(
    "OpenAI",
    "`transcription.prompt`, `keywords`",
    "ignored, null in `session.updated`",
)
@pytest.mark.conforms(
    "OpenAI",
    "`include`",
    "empty in `session.updated`: there are no log probabilities",
)
def test_unknown_fields_models_and_session_types_are_ignored():
    protocol = client()
    session = {
        "type": "realtime",
        "output_modalities": ["audio"],
        "include": ["item.input_audio_transcription.logprobs"],
        "audio": {
            "input": {
                "transcription": {"model": "gpt-9-transcribe", "keywords": ["a"], "prompt": "b"},
                "later": 1,
            },
            "output": {"voice": "marin"},
        },
    }
    message = one(protocol.received(update(session)))
    assert message["type"] == "session.updated"
    assert message["session"]["type"] == "transcription"
    assert message["session"]["include"] == []
    assert message["session"]["audio"]["input"]["transcription"] == {
        "model": "model-a",
        "language": None,
        "prompt": None,
        "delay": None,
    }


@pytest.mark.conforms(
    "OpenAI",
    "`transcription.language`, `languages`",
    "works, in any spelling; one that the engine does not know: `error` with `param`, the "
    "update has no effect",
)
def test_languages_become_codes():
    for spelling in ("en", "EN", "en-US", "en_GB"):
        protocol = client()
        effective = in_force(protocol, transcription={"language": spelling})
        assert effective["transcription"]["language"] == "en"
        assert opened_with(protocol).stream.language == "en"
    for spelling in ("auto", "", None):
        protocol = client()
        in_force(protocol, transcription={"language": spelling})
        assert opened_with(protocol).stream.language is None
    for several, one_of_them in (([], None), (["de"], "de"), (["de", "fr"], None)):
        protocol = client(info=POLYGLOT)
        effective = in_force(protocol, transcription={"languages": several})
        assert effective["transcription"]["language"] == one_of_them


@pytest.mark.conforms(
    "OpenAI",
    "`transcription.delay`",
    "the model's nearest delay; null where the engine has none",
)
def test_a_delay_is_the_engines_nearest_or_none():
    with_delays = replace(POLYGLOT, delays_ms=range(160, 1201, 80))
    for delay, delay_ms in (("minimal", 160), ("medium", 480), ("xhigh", 1200), (None, None)):
        protocol = client(info=with_delays)
        effective = in_force(protocol, transcription={"delay": delay})
        assert effective["transcription"]["delay"] == delay
        assert opened_with(protocol).stream.delay_ms == delay_ms
    protocol = client()
    assert in_force(protocol, transcription={"delay": "low"})["transcription"]["delay"] is None
    assert opened_with(protocol).stream.delay_ms is None


INPUT = "session.audio.input"


@pytest.mark.parametrize(
    ("session", "param"),
    [
        (None, "session"),
        ([], "session"),
        ({"audio": 1}, "session.audio"),
        ({"audio": {"input": []}}, INPUT),
        ({"audio": {"input": {"format": {"type": "audio/opus"}}}}, f"{INPUT}.format"),
        ({"audio": {"input": {"format": 7}}}, f"{INPUT}.format"),
        (
            {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 100}}}},
            f"{INPUT}.format.rate",
        ),
        (
            {"audio": {"input": {"format": {"type": "audio/pcm", "rate": "24k"}}}},
            f"{INPUT}.format.rate",
        ),
        ({"audio": {"input": {"turn_detection": True}}}, f"{INPUT}.turn_detection"),
        ({"audio": {"input": {"turn_detection": {"type": "x"}}}}, f"{INPUT}.turn_detection"),
        ({"turn_detection": {"threshold": "high"}}, "session.turn_detection.threshold"),
        ({"turn_detection": {"threshold": float("nan")}}, "session.turn_detection.threshold"),
        (
            {"turn_detection": {"silence_duration_ms": -1}},
            "session.turn_detection.silence_duration_ms",
        ),
        ({"turn_detection": {"type": "semantic_vad", "eagerness": 3}}, "session.turn_detection"),
        ({"input_audio_format": "mp3"}, "session.input_audio_format"),
        (
            {"input_audio_transcription": {"language": "xx"}},
            "session.input_audio_transcription.language",
        ),
        (
            {"input_audio_transcription": {"languages": "en"}},
            "session.input_audio_transcription.languages",
        ),
        ({"input_audio_noise_reduction": {"type": "loud"}}, "session.input_audio_noise_reduction"),
    ],
)
def test_an_invalid_field_is_named_and_changes_nothing(session, param):
    protocol = client()
    before = in_force(protocol)
    error = one(protocol.received(update(session, event_id="mine")))
    assert error["type"] == "error"
    assert error["error"]["type"] == "invalid_request_error"
    assert error["error"]["code"] == "invalid_value"
    assert error["error"]["param"] == param
    assert error["error"]["event_id"] == "mine"
    assert error["error"]["message"]
    assert in_force(protocol) == before


@pytest.mark.parametrize("kind", ["transcription_session.update", "session.update"])
def test_the_beta_is_answered_in_its_own_shape(kind):
    protocol = client()
    session = {
        "input_audio_format": "g711_ulaw",
        "input_audio_transcription": {"model": "whisper-1", "language": "en", "prompt": ""},
        "turn_detection": {"type": "server_vad", "threshold": 0.4, "silence_duration_ms": 700},
        "input_audio_noise_reduction": {"type": "near_field"},
        "modalities": ["audio", "text"],
    }
    message = one(protocol.received(frame(kind, session=session)))
    assert message["type"] == f"{kind}d"
    effective = message["session"]
    assert effective["id"].startswith("sess_")
    assert "audio" not in effective
    assert effective["input_audio_format"] == "g711_ulaw"
    assert effective["input_audio_noise_reduction"] == {"type": "near_field"}
    assert effective["input_audio_transcription"]["language"] == "en"
    assert effective["turn_detection"]["silence_duration_ms"] == 700
    assert opened_with(protocol).gate == GateOptions(
        threshold=0.4, exit_threshold=0.25, min_silence_ms=700
    )
    protocol.on_event(SpeechStarted(0))
    assert kinds(protocol.on_event(SpeechStopped(8000))) == [
        *("speech_stopped", "committed", "created"),
    ]
    assert kinds(protocol.on_event(UtteranceEnded(8000))) == ["completed"]


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


# Turns of the voice detector.


@pytest.mark.conforms(
    "OpenAI",
    "`usage`",
    "`duration` of the item",
)
def test_a_turn_from_its_beginning_to_its_last_word():
    protocol = client(append(bytes(5 * SECOND)))
    started = one(protocol.on_event(SpeechStarted(samples(1))))
    item = started["item_id"]
    assert started == {
        "type": "input_audio_buffer.speech_started",
        "event_id": started["event_id"],
        "audio_start_ms": 700,
        "item_id": item,
    }
    delta = one(protocol.on_event(word("Hello", 1.2)))
    assert delta["type"] == f"{TRANSCRIPTION}.delta"
    assert (delta["delta"], delta["item_id"], delta["content_index"]) == ("Hello", item, 0)
    stopped, committed, added = decoded(protocol.on_event(SpeechStopped(samples(2))))
    assert stopped["type"] == "input_audio_buffer.speech_stopped"
    assert (stopped["audio_end_ms"], stopped["item_id"]) == (2500, item)
    assert committed["type"] == "input_audio_buffer.committed"
    assert (committed["item_id"], committed["previous_item_id"]) == (item, None)
    assert added["type"] == "conversation.item.added"
    assert added["item"] == {
        "id": item,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
    assert one(protocol.on_event(word(" you", 1.6)))["delta"] == " you"
    completed, done = decoded(protocol.on_event(UtteranceEnded(samples(2.2))))
    assert completed["type"] == f"{TRANSCRIPTION}.completed"
    assert (completed["transcript"], completed["item_id"]) == ("Hello you", item)
    assert completed["usage"] == {"type": "duration", "seconds": 1.3}
    assert done["type"] == "conversation.item.done"
    assert done["item"]["content"][0]["transcript"] == "Hello you"


def test_speech_without_words_is_an_item_without_words():
    protocol = client(append(bytes(5 * SECOND)))
    protocol.on_event(SpeechStarted(0))
    protocol.on_event(SpeechStopped(samples(1)))
    completed, _ = decoded(protocol.on_event(UtteranceEnded(samples(1))))
    assert completed["transcript"] == ""


def test_late_words_go_to_the_turn_that_their_time_lies_in():
    protocol = client(append(bytes(9 * SECOND)))
    first = one(protocol.on_event(SpeechStarted(0)))["item_id"]
    protocol.on_event(SpeechStopped(samples(2)))
    second = one(protocol.on_event(SpeechStarted(samples(3))))["item_id"]
    protocol.on_event(SpeechStopped(samples(4)))
    late = Words(
        0, tuple(Word(f" {at}", samples(at), samples(at + 0.5)) for at in (0.5, 1.4, 3.1, 3.4))
    )
    messages = decoded(protocol.on_event(late))
    assert [
        (m["item_id"], m.get("delta", m.get("transcript"))) for m in messages if "item_id" in m
    ] == [
        (first, "0.5 1.4"),
        (first, "0.5 1.4"),
        (second, "3.1 3.4"),
    ]
    assert kinds(protocol.on_event(UtteranceEnded(samples(4)))) == ["completed", "done"]


def test_an_utterances_end_completes_only_turns_that_have_ended():
    protocol = client(append(bytes(9 * SECOND)))
    protocol.on_event(SpeechStarted(0))
    assert protocol.on_event(UtteranceEnded(samples(1))) == []
    protocol.on_event(SpeechStopped(samples(2)))
    protocol.on_event(SpeechStarted(samples(3)))
    protocol.on_event(SpeechStopped(samples(4)))
    assert kinds(protocol.on_event(UtteranceEnded(samples(2)))) == ["completed", "done"]
    assert kinds(protocol.on_event(UtteranceEnded(samples(4)))) == ["completed", "done"]


def test_items_follow_each_other():
    protocol = client(append(bytes(9 * SECOND)))
    previous = None
    for second in range(3):
        protocol.on_event(SpeechStarted(samples(second)))
        committed = decoded(protocol.on_event(SpeechStopped(samples(second + 0.4))))[1]
        assert committed["previous_item_id"] == previous
        previous = committed["item_id"]


def test_a_commit_in_mid_speech_ends_the_turn():
    protocol = client(append(bytes(2 * SECOND)))
    item = one(protocol.on_event(SpeechStarted(0)))["item_id"]
    [reconfiguration] = protocol.received(COMMIT)
    assert isinstance(reconfiguration, ReconfigureSession)
    assert reconfiguration.options.gate == GateOptions()
    outs = [
        *protocol.on_event(SpeechStopped(samples(2))),
        *protocol.on_event(word(" so far", 1)),
        *protocol.on_event(Flushed(reconfiguration.marker)),
    ]
    assert kinds(outs) == ["speech_stopped", "committed", "added", "delta", "completed", "done"]
    assert {m["item_id"] for m in decoded(outs) if "item_id" in m} == {item}


def test_a_commit_after_the_detectors_own_is_no_error_and_makes_no_item():
    protocol = client(append(bytes(2 * SECOND)))
    protocol.on_event(SpeechStarted(0))
    protocol.on_event(SpeechStopped(samples(1)))
    protocol.on_event(UtteranceEnded(samples(1)))
    [reconfiguration] = protocol.received(COMMIT)
    assert protocol.on_event(Flushed(reconfiguration.marker)) == []
    assert protocol.received(COMMIT) == []


def test_a_commit_of_silence_is_answered_by_an_item_without_words():
    protocol = client(append(bytes(2 * SECOND)))
    [reconfiguration] = protocol.received(COMMIT)
    outs = protocol.on_event(Flushed(reconfiguration.marker))
    assert kinds(outs) == ["committed", "added", "completed", "done"]
    assert decoded(outs)[2]["transcript"] == ""
    assert decoded(outs)[2]["usage"]["seconds"] == 2


@pytest.mark.conforms(
    "OpenAI",
    "`input_audio_buffer.clear`",
    "works: what was not committed is not sent any more and is no item, though deltas may "
    "have been sent",
)
def test_clear_drops_the_open_turn_and_keeps_committed_ones():
    protocol = client(append(bytes(4 * SECOND)))
    kept = one(protocol.on_event(SpeechStarted(0)))["item_id"]
    protocol.on_event(SpeechStopped(samples(1)))
    dropped = one(protocol.on_event(SpeechStarted(samples(2))))["item_id"]
    cleared, reconfiguration = protocol.received(CLEAR)
    assert kinds([cleared]) == ["cleared"]
    assert protocol.received(CLEAR)[1:] == []
    outs = [
        *protocol.on_event(Words(0, (Word(" yes", 0, 900), Word(" no", samples(3), samples(3.1))))),
        *protocol.on_event(SpeechStopped(samples(4))),
        *protocol.on_event(SpeechStarted(samples(4))),
        *protocol.on_event(word(" never", 4.1)),
        *protocol.on_event(SpeechStopped(samples(4.5))),
        *protocol.on_event(UtteranceEnded(samples(4.5))),
        *protocol.on_event(Flushed(reconfiguration.marker)),
    ]
    assert kinds(outs) == ["delta", "completed", "done"]
    assert {m["item_id"] for m in decoded(outs) if "item_id" in m} == {kept}
    assert dropped not in json.dumps(decoded(outs))
    again = one(protocol.on_event(SpeechStarted(samples(5))))
    assert again["type"] == "input_audio_buffer.speech_started"


def test_a_clear_after_a_commit_drops_only_what_came_between():
    protocol = client(append(bytes(SECOND)))
    kept = one(protocol.on_event(SpeechStarted(0)))["item_id"]
    [commit] = protocol.received(COMMIT)
    protocol.received(append(bytes(SECOND)))
    cleared, clearing = protocol.received(CLEAR)
    assert kinds([cleared]) == ["cleared"]
    outs = [
        *protocol.on_event(SpeechStopped(samples(1))),
        *protocol.on_event(word("kept", 0.5)),
        *protocol.on_event(Flushed(commit.marker)),
        *protocol.on_event(SpeechStarted(samples(1))),
        *protocol.on_event(word("gone", 1.5)),
        *protocol.on_event(SpeechStopped(samples(2))),
        *protocol.on_event(Flushed(clearing.marker)),
    ]
    assert kinds(outs) == ["speech_stopped", "committed", "added", "delta", "completed", "done"]
    assert {m["item_id"] for m in decoded(outs) if "item_id" in m} == {kept}


# Turns of the client.


@pytest.mark.conforms(
    "OpenAI",
    "`turn_detection` null",
    "works: words come before the commit too",
)
def test_a_commit_is_an_item_and_words_may_come_before_it():
    protocol = client(update(MANUAL), append(bytes(2 * SECOND)))
    assert protocol.on_event(SpeechStarted(0)) == []
    early = one(protocol.on_event(word("one", 0.5)))
    *messages, flush = protocol.received(COMMIT)
    assert isinstance(flush, FlushSession)
    assert kinds(messages) == ["committed", "added"]
    assert protocol.received(append(bytes(SECOND))) == [AudioFrame(bytes(SECOND))]
    assert protocol.on_event(SpeechStopped(samples(2))) == []
    late = one(protocol.on_event(word(" two", 1.5)))
    completed, _ = decoded(protocol.on_event(Flushed(flush.marker)))
    assert completed["transcript"] == "one two"
    assert completed["usage"]["seconds"] == 2
    item = decoded(messages)[0]["item_id"]
    assert item == early["item_id"] == late["item_id"] == completed["item_id"]
    following = one(protocol.on_event(word(" three", 2.5)))
    assert following["item_id"] != item
    assert following["delta"] == "three"


def test_commits_are_completed_in_order():
    protocol = client(update(MANUAL), append(bytes(SECOND)))
    first = decoded(protocol.received(COMMIT)[:2])[0]["item_id"]
    protocol.received(append(bytes(SECOND)))
    second = decoded(protocol.received(COMMIT)[:2])[0]["item_id"]
    assert one(protocol.on_event(word("one", 0)))["item_id"] == first
    assert decoded(protocol.on_event(Flushed("")))[0]["item_id"] == first
    assert one(protocol.on_event(word(" two", 0)))["item_id"] == second
    assert decoded(protocol.on_event(Flushed("")))[0]["item_id"] == second


@pytest.mark.conforms(
    "OpenAI",
    "`input_audio_buffer.commit`",
    "works; under 100 ms: `error` `input_audio_buffer_commit_empty` with `event_id`. With"
    " `server_vad` it ends a turn, and is never an error",
)
@pytest.mark.parametrize("audio", [b"", bytes(SECOND // 10 - 2)])
def test_a_commit_under_100_ms_is_an_error_with_its_event_id(audio):
    protocol = client(update(MANUAL), append(audio))
    error = one(protocol.received(frame("input_audio_buffer.commit", event_id="c1")))["error"]
    assert error["code"] == "input_audio_buffer_commit_empty"
    assert error["type"] == "invalid_request_error"
    assert error["event_id"] == "c1"
    protocol.received(append(bytes(SECOND // 10)))
    assert kinds(protocol.received(COMMIT)[:2]) == ["committed", "added"]
    assert one(protocol.received(COMMIT))["error"]["code"] == "input_audio_buffer_commit_empty"


def test_cleared_audio_has_no_messages_and_cannot_be_committed():
    protocol = client(update(MANUAL), append(bytes(SECOND)))
    cleared, flush = protocol.received(CLEAR)
    assert kinds([cleared]) == ["cleared"]
    assert one(protocol.received(COMMIT))["error"]["code"] == "input_audio_buffer_commit_empty"
    protocol.received(append(bytes(SECOND)))
    assert protocol.on_event(word("gone", 0.5)) == []
    assert protocol.on_event(Flushed(flush.marker)) == []
    assert one(protocol.on_event(word(" kept", 1.5)))["delta"] == "kept"


def test_clear_of_an_empty_buffer_is_answered():
    assert kinds(client().received(CLEAR)) == ["cleared"]
    assert kinds(client(update(MANUAL)).received(CLEAR)) == ["cleared"]


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


# Any conversation.

audio = st.integers(0, 3 * SECOND).map(lambda n: append(bytes(n)))
turn_detections = st.sampled_from(
    [None, {"type": "server_vad"}, {"type": "server_vad", "silence_duration_ms": 200}]
)
updates = st.fixed_dictionaries(
    {},
    optional={"turn_detection": turn_detections, "format": st.sampled_from(["pcm16", "g711_alaw"])},
).map(lambda inside: update({"audio": {"input": inside}}))
without_clear = st.one_of(audio, audio, audio, st.just(COMMIT), updates)
frames = st.one_of(without_clear, st.just(CLEAR))


def converse(client_frames: list[str], data: st.DataObject) -> ScriptedSession:
    session = ScriptedSession(OpenAIRealtimeProtocol({}, ENGLISH), data)
    for one_frame in client_frames:
        session.client_sends(one_frame)
        for _ in range(data.draw(st.integers(0, 4), "steps")):
            session.work()
    session.shut_down()
    return session


class ProtocolClient:
    """A client that checks the server's messages against the protocol."""

    def __init__(self, session: ScriptedSession):
        self.deltas: dict[str, str] = {}
        self.speaking: str | None = None
        self.started: set[str] = set()
        self.committed: list[str] = []
        self.completed: dict[str, str] = {}
        self.cleared: set[str] = set()
        self.order: list[str] = []
        self.between = session.between
        for self.number, out in enumerate(session.outs):
            for message in decoded([out]):
                kind = message["type"].split(".")[-1]
                getattr(self, f"on_{kind}", self.ignore)(message)
        assert set(self.completed) == set(self.committed)

    def ignore(self, message):
        assert message["type"] in (
            *("session.created", "session.updated"),
            *("conversation.item.added", "conversation.item.done"),
        )

    def on_speech_started(self, message):
        assert self.speaking is None or self.speaking not in self.committed
        assert message["item_id"] not in self.started
        self.speaking = message["item_id"]
        self.started.add(self.speaking)

    def on_speech_stopped(self, message):
        assert message["item_id"] == self.speaking
        self.speaking = None

    def on_committed(self, message):
        item = message["item_id"]
        assert item not in self.committed
        assert item not in self.cleared
        assert message["previous_item_id"] == (self.committed[-1] if self.committed else None)
        self.committed.append(item)

    def on_cleared(self, _message):
        # What a commit or an update on its way will commit cannot be cleared any more.
        if self.number not in self.between:
            self.cleared |= (self.started | set(self.deltas)) - set(self.committed)

    def on_delta(self, message):
        item = message["item_id"]
        assert item not in self.completed
        assert item not in self.cleared
        assert message["delta"]
        self.deltas[item] = self.deltas.get(item, "") + message["delta"]
        self.order.append(message["delta"])

    def on_completed(self, message):
        item = message["item_id"]
        assert item in self.committed
        assert item not in self.completed
        assert message["transcript"] == self.deltas.get(item, "")
        assert message["usage"]["seconds"] >= 0
        self.completed[item] = message["transcript"]

    def on_error(self, message):
        assert message["error"]["code"] == "input_audio_buffer_commit_empty"


@pytest.mark.conforms(
    "OpenAI",
    "deltas",
    "each word once, as it is committed: joined they are `completed.transcript`",
)
@settings(max_examples=300, deadline=None)
@given(st.lists(frames, max_size=12), st.data())
def test_deltas_are_transcripts_and_items_are_consistent(client_frames, data):
    ProtocolClient(converse(client_frames, data))


@settings(max_examples=200, deadline=None)
@given(st.lists(without_clear, max_size=12), st.data())
def test_every_word_that_is_not_cleared_is_in_a_transcript_and_in_order(client_frames, data):
    session = converse(client_frames, data)
    listener = ProtocolClient(session)
    assert "".join("".join(listener.order).split()) == "".join("".join(session.words).split())
    # What a client had yet to commit when the server shut down has its deltas and no transcript.
    left = [text for item, text in listener.deltas.items() if item not in listener.committed]
    assert len(left) <= 1
    transcripts = "".join([*listener.completed.values(), *left])
    assert "".join(transcripts.split()) == "".join("".join(session.words).split())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(audio, st.just(COMMIT), st.just(CLEAR)), max_size=12), st.data())
def test_with_the_voice_detector_on_no_buffer_event_is_an_error(client_frames, data):
    assert "error" not in kinds(converse(client_frames, data).outs)
