import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from support.conversations import ENGLISH, POLYGLOT, conversations

from voxlive.engines.contract import StreamOptions
from voxlive.errors import ProtocolError
from voxlive.speakers.labels import SpeakerRange, SpeakersFound
from voxlive.speakers.tracker import SpeakerOptions
from voxlive.streaming.events import (
    Draft,
    LanguageDetected,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SessionWarning,
    SpeechStarted,
    TurnClosed,
    Words,
)
from voxlive.turns.tracker import (
    EAGERNESS,
    TurnEnded,
    TurnLikelyEnded,
    TurnOptions,
    TurnResumed,
    TurnStarted,
)
from voxlive.vad.gate import GateOptions
from voxlive.values import Word
from voxlive.web.protocols.contract import (
    MAX_TEXT,
    AudioFrame,
    CloseSocket,
    CorrectCaptions,
    FlushSession,
    OpenSession,
    Refuse,
    ResumeSession,
    SetTurns,
    StopSession,
)
from voxlive.web.protocols.live import LiveProtocol

START = {"type": "start", "format": "s16le"}


def started(**fields) -> LiveProtocol:
    protocol = LiveProtocol({}, ENGLISH)
    [action] = protocol.received(json.dumps({**START, **fields}))
    protocol.opened("id", action.options)
    return protocol


def options(info=ENGLISH, **fields):
    [action] = LiveProtocol({}, info).received(json.dumps({**START, **fields}))
    assert isinstance(action, OpenSession)
    return action.options


def decoded(outs) -> list[dict]:
    return [json.loads(out) for out in outs if isinstance(out, str)]


def test_start_with_a_format_alone_takes_the_defaults():
    asked = options()
    assert (asked.audio.encoding, asked.audio.rate, asked.audio.channels) == ("s16le", 16_000, 1)
    assert asked.gate == GateOptions()
    assert (asked.stream.language, asked.stream.delay_ms, asked.stream.drafts) == (None, None, True)


def test_start_takes_every_option():
    asked = options(
        format="mulaw",
        rate=8000,
        channels=2,
        language="en",
        delay_ms=240,
        drafts=False,
        vad={"threshold": 0.6, "min_silence_ms": 800},
        replacements={"Vox live": "voxlive"},
    )
    assert asked.replacements.phrases == {"vox live": "voxlive"}
    assert (asked.audio.encoding, asked.audio.rate, asked.audio.channels) == ("mulaw", 8000, 2)
    assert asked.gate == GateOptions(threshold=0.6, min_silence_ms=800)
    assert (asked.stream.language, asked.stream.delay_ms) == ("en", 240)
    assert not asked.stream.drafts
    assert options(vad=False).gate is None
    assert options(format="container").audio.encoding == "container"


@pytest.mark.parametrize(
    ("first", "hint"),
    [
        (b"\0\0", "start"),
        ("nonsense", "JSON"),
        ("[" * 5000, "JSON"),
        ("[]", "object"),
        ("{}", "type"),
        ('{"type": 1}', "type"),
        ('{"type": "stop"}', '"start" or "resume", not "stop"'),
        ('{"type": "start"}', "s16le"),
        ('{"type": "start", "format": "mp7"}', "container"),
        ('{"type": "start", "format": ["s16le"]}', "s16le"),
        ('{"type": "start", "format": "s16le", "rate": 100}', "8000"),
        ('{"type": "start", "format": "s16le", "rate": "16000"}', "rate"),
        ('{"type": "start", "format": "s16le", "rate": true}', "rate"),
        ('{"type": "start", "format": "s16le", "rate": 16000.5}', "rate"),
        ('{"type": "start", "format": "s16le", "channels": 9}', "8"),
        ('{"type": "start", "format": "container", "rate": 48000}', "container"),
        ('{"type": "start", "format": "s16le", "chanels": 1}', "chanels"),
        ('{"type": "start", "format": "s16le", "language": 5}', "language"),
        ('{"type": "start", "format": "s16le", "language": "\\ud800"}', "language"),
        ('{"type": "start", "format": "s16le", "delay_ms": 0}', "delay_ms"),
        ('{"type": "start", "format": "s16le", "words": "no"}', "words"),
        ('{"type": "start", "format": "s16le", "drafts": 0}', "drafts"),
        ('{"type": "start", "format": "s16le", "replacements": ["a"]}', "replacements"),
        ('{"type": "start", "format": "s16le", "replacements": {"a": 1}}', "replacements"),
        ('{"type": "start", "format": "s16le", "replacements": {"?": "b"}}', "no word"),
        ('{"type": "start", "format": "s16le", "replacements": {"a": "\\ud800"}}', "characters"),
        ('{"type": "start", "format": "s16le", "vad": "off"}', "vad"),
        ('{"type": "start", "format": "s16le", "vad": {"treshold": 0.5}}', "treshold"),
        ('{"type": "start", "format": "s16le", "vad": {"threshold": 2}}', "threshold"),
        ('{"type": "start", "format": "s16le", "vad": {"threshold": NaN}}', "threshold"),
        ('{"type": "start", "format": "s16le", "vad": {"min_speech_ms": -1}}', "min_speech_ms"),
    ],
)
def test_a_bad_start_ends_the_session_with_a_reason(first, hint):
    protocol = LiveProtocol({}, ENGLISH)
    with pytest.raises(ProtocolError, match=hint) as raised:
        protocol.received(first)
    assert raised.value.code == "bad_start"
    outs = protocol.failed(raised.value.code, raised.value.message)
    assert decoded(outs)[0] | {"message": ""} == {
        "type": "error",
        "seq": 0,
        "code": "bad_start",
        "message": "",
        "fatal": True,
    }
    assert outs[-1] == CloseSocket(4400)


@pytest.mark.parametrize(
    "frame",
    [
        "nonsense",
        "{}",
        '{"type": "start", "format": "s16le"}',
        '{"type": "flush"}',
        '{"type": "flush", "id": 5}',
        '{"type": "flush", "id": ""}',
        '{"type": "flush", "id": "%s"}' % ("x" * 201),
        '{"type": "flush", "id": "\\udc80"}',
        '{"type": "flush", "id": "a", "wait": true}',
        '{"type": "correct", "segment": 0, "words": 1}',
        '{"type": "correct", "segment": 0, "words": 0, "text": "a"}',
        '{"type": "correct", "segment": -1, "words": 1, "text": "a"}',
        '{"type": "correct", "segment": 0, "words": 1, "text": "%s"}' % ("x" * 4001),
        '{"type": "stop", "now": true}',
        '{"type": "pause"}',
    ],
)
def test_a_bad_message_is_refused_and_the_session_goes_on(frame):
    protocol = started()
    [refusal] = protocol.received(frame)
    assert isinstance(refusal, Refuse)
    [error] = decoded(protocol.refused(refusal.code, refusal.message))
    assert (error["code"], error["fatal"]) == ("bad_message", False)
    assert protocol.received(b"\0\0") == [AudioFrame(b"\0\0")]


def test_turns_are_asked_for_changed_and_reported():
    assert options().turns is None
    assert options(turns=True).turns == EAGERNESS["auto"]
    asked = options(turns={"eagerness": "low", "max_wait_ms": 900}).turns
    assert asked == EAGERNESS["low"].changed(max_wait_ms=900)
    protocol = started(turns={"eagerness": "high"})
    change = {"type": "turns", "threshold": 0.6, "eager_threshold": 0.4}
    [action] = protocol.received(json.dumps(change))
    assert action == SetTurns(TurnOptions(0.6, 0.4, 2000, None))
    [action] = protocol.received(json.dumps({"type": "flush", "id": "f", "turn": True}))
    assert action == FlushSession("f", ends_turn=True)
    events = (
        TurnStarted(0, 1600),
        TurnLikelyEnded(0, 16_000, 18_000, 0.7),
        TurnResumed(0, 20_000),
        TurnEnded(0, 32_000, 34_000, 0.9, "confidence"),
        TurnClosed(0, 1600, 32_000, "Well."),
    )
    sent = decoded(out for event in events for out in protocol.on_event(event))
    ended = {"type": "turn_ended", "turn": 0, "t": 2.0, "upto": 2.125, "p": 0.9, "by": "confidence"}
    assert [{k: v for k, v in one.items() if k != "seq"} for one in sent] == [
        {"type": "turn_started", "turn": 0, "t": 0.1},
        {"type": "turn_likely_ended", "turn": 0, "t": 1.0, "upto": 1.125, "p": 0.7},
        {"type": "turn_resumed", "turn": 0, "t": 1.25},
        ended,
        {"type": "turn", "turn": 0, "start": 0.1, "end": 2.0, "text": "Well."},
    ]
    for bad in ({"type": "turns", "eagerness": "very"}, {"type": "turns", "threshold": 2}):
        [refusal] = protocol.received(json.dumps(bad))
        assert isinstance(refusal, Refuse)
    [refusal] = started().received(json.dumps(change))
    assert "no turns" in refusal.message
    for bad in ({"turns": "yes"}, {"turns": {"eager": 1}}, {"turns": True, "vad": False}):
        with pytest.raises(ProtocolError, match="turns"):
            options(**bad)


def test_speakers_are_asked_for_and_reported():
    assert options().speakers is None
    assert options(diarize=True).speakers == SpeakerOptions()
    protocol = started(diarize={"max_speakers": 3, "speakers": 2, "min_speech_ms": None})
    found = SpeakersFound((SpeakerRange(3, 0, 5, 1), SpeakerRange(4, 0, 0, 0)), 2)
    [sent] = decoded(protocol.on_event(found))
    assert (sent["type"], sent["speakers"]) == ("speakers", 2)
    assert sent["ranges"] == [
        {"segment": 3, "words": [0, 5], "speaker": 1},
        {"segment": 4, "words": [0, 0], "speaker": 0},
    ]
    for bad in ({"diarize": 2}, {"diarize": {"max": 1}}, {"diarize": {"max_speakers": 0}}):
        with pytest.raises(ProtocolError, match=r"diarize|max_speakers"):
            options(**bad)


def resume(have: int, *received: object) -> ResumeSession:
    message = {"type": "resume", "token": "t", "have": have, "received": received}
    [action] = LiveProtocol({}, ENGLISH).received(json.dumps(message))
    assert isinstance(action, ResumeSession)
    return action


WORD = {"text": "a", "start": 0.1, "end": 0.25, "p": 0.5}
SAID = {"type": "words", "seq": 4, "segment": 1, "words": [WORD]}


def test_what_a_client_gives_back_is_what_it_was_sent_for():
    original = WORD | {"original": "b", "p": None}
    given = [
        {"type": "speech_started", "seq": 3, "t": 0.1},
        SAID | {"source": "me"},
        {"type": "segment", "seq": 5, "id": 1, "start": 0.1, "end": 0.25, "text": "a"},
        {"type": "language", "seq": 6, "language": "de", "p": 0.9},
        SAID | {"seq": 7, "words": [original]},
        {"type": "news", "seq": 8},
    ]
    received = resume(8, *given).received
    assert [one.number for one in received] == [3, 4, 5, 6, 7, 8]
    assert [json.loads(one.text) for one in received] == given
    assert [one.event for one in received] == [
        None,
        Words(1, (Word("a", 1600, 4000, 0.5),), "me"),
        SegmentClosed(1, 1600, 4000, "a"),
        LanguageDetected("de"),
        Words(1, (Word("a", 1600, 4000, None, "b"),)),
        None,
    ]
    assert resume(8).received == ()


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("a", "messages"),
        (SAID | {"seq": 3}, "all of them"),
        (SAID | {"words": "a"}, "words"),
        (SAID | {"words": [WORD | {"start": 0.3}]}, "behind it"),
        (SAID | {"words": [WORD | {"end": float("nan")}]}, "end"),
        (SAID | {"words": [WORD | {"text": None}]}, "text"),
        (SAID | {"words": [WORD | {"text": "\ud800"}]}, "character"),
        (SAID | {"words": [WORD | {"p": 2}]}, '"p"'),
        (SAID | {"segment": -1}, "segment"),
        (SAID | {"segment": 1 << 30}, "segment"),
        (SAID | {"source": 1}, "source"),
        ({"seq": 4}, "type"),
        ({"type": "done", "seq": 4}, "over"),
        ({"type": "language", "seq": 4, "language": "xx"}, "xx"),
    ],
)
def test_what_no_server_can_have_sent_is_refused(wrong, hint):
    with pytest.raises(ProtocolError, match=hint) as refused:
        resume(4, wrong)
    assert refused.value.code == "bad_start"


def test_a_resume_may_be_longer_than_other_messages():
    many = [SAID | {"seq": n, "words": [WORD] * 20} for n in range(1, 101)]
    assert len(json.dumps(many)) > MAX_TEXT
    assert len(resume(100, *many).received) == 100
    for protocol, kind in ((LiveProtocol({}, ENGLISH), "start"), (started(), "resume")):
        with pytest.raises(ProtocolError) as refused:
            protocol.received(json.dumps({"type": kind, "received": many}))
        assert refused.value.code == "too_big"


def test_an_acknowledgement_says_what_is_stored():
    protocol = started(resumable=True)
    protocol.on_resumable("token")
    assert decoded(protocol.tick()) == [{"type": "ack", "samples": 0}]
    protocol.keep_sent()
    assert decoded(protocol.tick()) == [{"type": "ack", "samples": 0, "stored": 0}]
    protocol.on_sent_kept(7)
    assert decoded(protocol.tick()) == [{"type": "ack", "samples": 0, "stored": 6}]


def test_commands_after_start():
    protocol = started()
    assert protocol.received(b"\1") == [AudioFrame(b"\1")]
    assert protocol.received('{"type": "flush", "id": "é1"}') == [FlushSession("é1")]
    correct = '{"type": "correct", "segment": 3, "words": 2, "text": "%s"}'
    assert protocol.received(correct % "ja") == [CorrectCaptions(3, 2, "ja")]
    assert protocol.received(correct % "") == [CorrectCaptions(3, 2, "")]
    assert protocol.received('{"type": "stop"}') == [StopSession()]
    assert isinstance(protocol.received(b"\1")[0], Refuse)
    assert isinstance(protocol.received('{"type": "stop"}')[0], Refuse)


def test_ready_has_the_options_in_force():
    protocol = LiveProtocol({}, POLYGLOT)
    [action] = protocol.received(json.dumps({**START, "vad": {"threshold": 0.7}}))
    [ready] = decoded(protocol.opened("s1", action.options))
    assert ready == {
        "type": "ready",
        "seq": 0,
        "session": "s1",
        "model": "model-b",
        "engine": "test",
        "device": "cpu",
        "language": None,
        "languages": [],
        "task": "transcribe",
        "vocabulary": 0,
        "commit": None,
        "delay_ms": 480,
        "format": "s16le",
        "rate": 16_000,
        "channels": 1,
        "vad": asdict(GateOptions(threshold=0.7, min_silence_ms=500)),
    }
    protocol = LiveProtocol({}, ENGLISH)
    [action] = protocol.received('{"type": "start", "format": "container", "vad": false}')
    [ready] = decoded(protocol.opened("s2", action.options))
    assert (ready["languages"], ready["rate"], ready["channels"], ready["vad"]) == (
        *(["en"], None, None),
        False,
    )
    assert ready["language"] is None


def test_a_requested_language_is_not_a_recognised_one():
    info = replace(ENGLISH, languages=("de", "en"))
    protocol = LiveProtocol({}, info)
    [action] = protocol.received(json.dumps({**START, "language": "English"}))
    [ready, warning] = decoded(protocol.opened("s1", action.options))
    assert (ready["language"], ready["languages"]) == (None, ["de", "en"])
    assert (warning["type"], warning["code"]) == ("warning", "language_ignored")


def test_task_vocabulary_and_rule_are_read_and_shown_as_they_are_in_force():
    info = replace(
        *(POLYGLOT,),
        takes_language=True,
        vocabulary=("Lyme", "Bath"),
        commit_rules=("fast", "steady"),
        default_commit="steady",
    )
    protocol = LiveProtocol({}, info)
    asked = {"language": "de", "task": "translate", "vocabulary": ["Bath", " Anne  Elliot"]}
    [action] = protocol.received(json.dumps({**START, **asked, "commit": "fast"}))
    assert action.options.stream == StreamOptions(
        "de", task="translate", vocabulary=("Bath", "Anne Elliot"), commit="fast"
    )
    [ready] = decoded(protocol.opened("s1", action.options))
    shown = [ready[name] for name in ("language", "task", "vocabulary", "commit")]
    assert shown == ["de", "translate", 3, "fast"]
    protocol = LiveProtocol({}, info)
    [action] = protocol.received(json.dumps(START))
    [ready] = decoded(protocol.opened("s1", action.options))
    shown = [ready[name] for name in ("language", "task", "vocabulary", "commit")]
    assert shown == [None, "transcribe", 2, "steady"]


def test_a_vocabulary_that_has_no_effect_is_a_warning():
    protocol = LiveProtocol({}, POLYGLOT)
    [action] = protocol.received(json.dumps({**START, "vocabulary": ["Bath"]}))
    [ready, warning] = decoded(protocol.opened("s1", action.options))
    assert (ready["vocabulary"], warning["code"]) == (0, "vocabulary_ignored")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"task": "summarise"}, "transcribe or translate"),
        ({"vocabulary": "Bath"}, "list"),
        ({"vocabulary": ["x" * 99]}, "too long"),
        ({"commit": 3}, "commit"),
    ],
)
def test_a_wrong_task_vocabulary_or_rule_is_refused(wrong, hint):
    with pytest.raises(ProtocolError, match=hint) as refused:
        LiveProtocol({}, POLYGLOT).received(json.dumps({**START, **wrong}))
    assert refused.value.code == "bad_start"


def test_the_language_that_was_found_out_is_a_message():
    [message] = decoded(started().on_event(LanguageDetected("de", 0.98)))
    assert message == {"type": "language", "seq": 1, "language": "de", "p": 0.98}


def test_words_have_times_in_seconds_and_p_null_where_unknown():
    words = (Word("Hello", 1600, 8000), Word(" you", 8000, 12_345, 0.5))
    [message] = decoded(started().on_event(Words(3, words)))
    assert message == {
        "type": "words",
        "seq": 1,
        "segment": 3,
        "words": [
            {"text": "Hello", "start": 0.1, "end": 0.5, "p": None},
            {"text": " you", "start": 0.5, "end": 0.772, "p": 0.5},
        ],
    }


def test_words_and_drafts_can_be_turned_off():
    protocol = started(words=False, drafts=False)
    events = [
        Words(0, (Word("a", 0, 10),)),
        Draft(0, "b"),
        SegmentClosed(0, 0, 10, "a"),
        SessionClosed(16_000),
    ]
    messages = [message for event in events for message in decoded(protocol.on_event(event))]
    assert [(m["type"], m["seq"]) for m in messages] == [("segment", 1), ("done", 2)]
    assert messages[-1]["text"] == "a"


def test_a_fatal_error_closes_with_its_code():
    for code, close in [("bad_audio", 4400), ("engine_failed", 1011), ("slow_client", 1008)]:
        outs = started().on_event(SessionError(code, "why"))
        assert decoded(outs)[0]["code"] == code
        assert outs[-1] == CloseSocket(close)


def test_a_non_fatal_error_does_not_close():
    assert len(started().on_event(SessionError("odd", "why", fatal=False))) == 1


def test_a_warning_does_not_close():
    protocol = started()
    [warning] = decoded(protocol.on_event(SessionWarning("damaged", "two packets were left out")))
    assert warning == {
        "type": "warning",
        "seq": 1,
        "code": "damaged",
        "message": "two packets were left out",
    }
    assert protocol.on_event(SessionClosed(0))[-1] == CloseSocket(1000)


def test_shutdown_ends_with_done_and_1012_unless_the_client_was_done():
    warning = SessionError("shutting_down", "soon", fatal=False)
    for stopped, close in [(False, 1012), (True, 1000)]:
        protocol = started()
        if stopped:
            protocol.received('{"type": "stop"}')
        assert decoded(protocol.on_event(warning))[0]["fatal"] is False
        outs = protocol.on_event(SessionClosed(0))
        assert decoded(outs)[0]["type"] == "done"
        assert outs[-1] == CloseSocket(close)


def test_errors_are_cut_to_a_readable_length():
    [error] = decoded(started().refused("bad_message", "x" * 10_000))
    assert len(error["message"]) == 500


def test_times_of_speech():
    [message] = decoded(started().on_event(SpeechStarted(24_000)))
    assert (message["type"], message["t"]) == ("speech_started", 1.5)


@given(conversations())
def test_messages_are_numbered_without_a_gap_and_words_segments_and_done_agree(events):
    protocol = LiveProtocol({}, ENGLISH)
    [action] = protocol.received(json.dumps(START))
    outs = protocol.opened("id", action.options)
    for event in events:
        outs += protocol.on_event(event)
    assert outs.pop() == CloseSocket(1000)
    messages = decoded(outs)
    assert [message["seq"] for message in messages] == list(range(len(messages)))
    words = [w["text"] for m in messages if m["type"] == "words" for w in m["words"]]
    segments = [m["text"] for m in messages if m["type"] == "segment"]
    assert "".join(words) == "".join(segments) == messages[-1]["text"]
    assert [m["id"] for m in messages if m["type"] == "segment"] == list(range(len(segments)))


def test_sources_are_named_in_ready_and_in_every_message_that_is_of_one():
    asked = options(sources=["me", "them"], rate=48_000)
    assert (asked.sources, asked.audio.channels, asked.suppress_leaks) == (("me", "them"), 2, True)
    protocol = LiveProtocol({}, ENGLISH)
    protocol.received(json.dumps({**START, "sources": ["me", "them"], "suppress_leaks": False}))
    [ready] = decoded(protocol.opened("id", replace(asked, suppress_leaks=False)))
    assert (ready["sources"], ready["suppress_leaks"]) == (["me", "them"], False)
    events = [
        SpeechStarted(0, "me"),
        Draft(0, "a", "me"),
        Words(0, (Word("a", 0, 1),), "me"),
        Words(1, (Word("b", 0, 1),), "them"),
        SegmentClosed(1, 0, 1, "b", None, "them"),
        SegmentClosed(0, 0, 1, "a", None, "me"),
    ]
    for event in events:
        [message] = decoded(protocol.on_event(event))
        assert message["source"] == event.source
        assert {word["source"] for word in message.get("words", [])} <= {event.source}
    [done] = decoded(protocol.on_event(SessionClosed(2)))
    assert done["sources"] == {"me": "a", "them": "b"}
    assert done["text"] == "them: b\nme: a\n"


def test_the_ack_of_several_sources_is_the_least_of_them():
    protocol = LiveProtocol({}, ENGLISH)
    [opening] = protocol.received(
        json.dumps({**START, "sources": ["me", "them"], "resumable": True, "rate": 48_000})
    )
    protocol.on_resumable("token")
    protocol.opened("id", opening.options)
    closed = SegmentClosed(0, 100, 900, "a", 1000, "me", 400)
    assert decoded(protocol.on_event(closed))[-1] == {"type": "ack", "samples": 1200}


@pytest.mark.parametrize(
    "fields",
    [
        {"sources": "me"},
        {"sources": ["me", 2]},
        {"sources": ["me", ""]},
        {"sources": ["me", "a\nb"]},
        {"sources": ["me", "me"]},
        {"sources": ["me"]},
        {"sources": ["me", "them"], "channels": 3},
        {"sources": ["me", "them"], "suppress_leaks": 1},
    ],
)
def test_sources_that_do_not_go_with_the_audio_are_refused(fields):
    with pytest.raises(ProtocolError) as refused:
        options(**fields)
    assert refused.value.code == "bad_start"
