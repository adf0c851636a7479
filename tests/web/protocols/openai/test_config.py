"""OpenAI's realtime protocol: the session and its configuration."""

from dataclasses import replace

import pytest
from support.conversations import ENGLISH, POLYGLOT
from support.openai_realtime import client, frame, in_force, kinds, one, opened_with, update

from voxlive.streaming.events import SpeechStarted, SpeechStopped, UtteranceEnded
from voxlive.turns.tracker import EAGERNESS
from voxlive.vad.gate import GateOptions
from voxlive.web.protocols.contract import HandshakeResponse
from voxlive.web.protocols.openai import OpenAIRealtimeProtocol, config


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


USUAL = GateOptions(min_silence_ms=500)


def test_the_defaults_are_those_of_every_other_protocol_but_for_the_pause_which_is_openai_s():
    options = opened_with(client())
    assert options.gate == USUAL
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
        ({"threshold": 0.7}, replace(USUAL, threshold=0.7, exit_threshold=0.55)),
        ({"threshold": 0}, replace(USUAL, threshold=0.01, exit_threshold=0.01)),
        ({"threshold": 1}, replace(USUAL, threshold=0.99, exit_threshold=0.84)),
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
    assert options == (gate or USUAL)
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
    "turns end by how a pause sounds and what was said, as soon as `eagerness` says, at the latest "
    "after 5, 3, 3 or 2 s (low, medium, auto, high); without `voxlive models fetch smart-turn` in "
    "a pause (low 1 s, medium and auto 500 ms, high 300 ms), reported as the `server_vad` that it "
    "is",
)
def test_semantic_vad_is_in_force_where_it_can_be_else_a_server_vad_which_is_said(monkeypatch):
    for eagerness in ("low", "medium", "high", "auto"):
        protocol = client()
        vad = {"type": "semantic_vad", "eagerness": eagerness, "create_response": False}
        effective = in_force(protocol, turn_detection=vad)["turn_detection"]
        assert effective == {"type": "semantic_vad", "eagerness": eagerness}
        asked = opened_with(protocol)
        assert (asked.turns, asked.gate) == (EAGERNESS[eagerness], USUAL)
        in_force(protocol, turn_detection={"type": "server_vad"})
        assert protocol._config.options(protocol._info).turns is None
    monkeypatch.setattr(config, "find_model", lambda: None)
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
