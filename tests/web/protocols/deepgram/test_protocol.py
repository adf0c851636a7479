"""Deepgram's live protocol: messages in, results out, without a socket."""

import hashlib
import json
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversations import ENGLISH, conversations

from voxlive.errors import ProtocolError
from voxlive.speakers.labels import SpeakerRange, SpeakersFound
from voxlive.speakers.tracker import SpeakerOptions
from voxlive.streaming.events import (
    Draft,
    Flushed,
    Lag,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
    Words,
)
from voxlive.values import SAMPLE_RATE, Word
from voxlive.web.protocols.contract import (
    AudioFrame,
    CloseSocket,
    FlushSession,
    Refuse,
    Reply,
    StopSession,
)
from voxlive.web.protocols.deepgram import DeepgramProtocol, UtteranceGap

PCM = {"encoding": "linear16", "sample_rate": "16000"}


def opened(**params) -> DeepgramProtocol:
    protocol = DeepgramProtocol({**PCM, **params}, ENGLISH)
    protocol.opened("id", protocol.options_from_handshake())
    return protocol


def decoded(outs) -> list[dict]:
    return [json.loads(out) for out in outs if isinstance(out, str)]


def on_events(protocol, *events) -> list[dict]:
    return [message for event in events for message in decoded(protocol.on_event(event))]


def words(*texts, at=0.0, p=None) -> Words:
    """Words of half a second each."""
    starts = [round((at + 0.5 * n) * SAMPLE_RATE) for n in range(len(texts))]
    return Words(0, tuple(Word(t, s, s + 8000, p) for t, s in zip(texts, starts, strict=True)))


def flags(result) -> tuple[bool, bool, bool]:
    return result["is_final"], result["speech_final"], result["from_finalize"]


def transcript(result) -> str:
    [alternative] = result["channel"]["alternatives"]
    return alternative["transcript"]


@pytest.mark.conforms(
    "Deepgram",
    "`amr-nb`, `amr-wb`, `speex`, `g729`",
    "refused: HTTP 400",
)
@pytest.mark.conforms(
    "Deepgram",
    "`multichannel` with a container; `diarize_model`, `redact`, "
    "`search`, `profanity_filter`, `detect_entities`, `callback`",
    "refused: HTTP 400",
)
@pytest.mark.parametrize(
    ("params", "code", "hint"),
    [
        ({"encoding": "linear16"}, "bad_parameter", "sample_rate"),
        ({"encoding": "amr-nb", "sample_rate": "8000"}, "bad_parameter", "linear16"),
        ({**PCM, "sample_rate": "fast"}, "bad_parameter", "sample_rate"),
        ({**PCM, "sample_rate": "9" * 5000}, "bad_parameter", "sample_rate"),
        ({**PCM, "sample_rate": "100"}, "bad_parameter", "8000"),
        ({**PCM, "channels": "9"}, "bad_parameter", "8"),
        ({**PCM, "channels": "0"}, "bad_parameter", "channels"),
        ({**PCM, "endpointing": "soon"}, "bad_parameter", "endpointing"),
        ({**PCM, "endpointing": "-1"}, "bad_parameter", "endpointing"),
        ({**PCM, "utterance_end_ms": "500"}, "bad_parameter", "1000"),
        ({**PCM, "interim_results": "yes"}, "bad_parameter", "interim_results"),
        ({**PCM, "vad_events": ""}, "bad_parameter", "vad_events"),
        ({**PCM, "channels": "2", "multichannel": "2"}, "bad_parameter", "multichannel"),
        ({"multichannel": "true"}, "unsupported_option", "multichannel"),
        ({**PCM, "diarize_model": "latest"}, "unsupported_option", "speakers"),
        ({**PCM, "redact": "pci"}, "unsupported_option", "redact"),
        ({**PCM, "replace": "a b c d e f:b"}, "bad_parameter", "too long"),
        ({**PCM, "callback": "https://example.com"}, "unsupported_option", "callback"),
    ],
)
def test_invalid_and_unsupported_options_refuse_the_handshake(params, code, hint):
    protocol = DeepgramProtocol(params, ENGLISH)
    with pytest.raises(ProtocolError, match=hint) as raised:
        protocol.options_from_handshake()
    assert raised.value.code == code
    denial = protocol.denied(code, raised.value.message)
    assert denial.status == 400
    assert denial.body == {
        "err_code": "Bad Request",
        "err_msg": raised.value.message,
        "request_id": protocol.handshake_response([]).headers["dg-request-id"],
    }
    assert hint in denial.headers["dg-error"]


@pytest.mark.conforms(
    "Deepgram",
    "a full server",
    "HTTP 503 with `retry-after`: clients take a 4xx for final",
)
@pytest.mark.parametrize(
    ("code", "status"),
    [("server_full", 503), ("shutting_down", 503), ("unsupported_option", 400), ("internal", 500)],
)
def test_denial_status_and_retry_after(code, status):
    denial = DeepgramProtocol(PCM, ENGLISH).denied(code, "why: 中")
    assert denial.status == status
    assert denial.headers["dg-error"] == "why: ?"
    assert ("retry-after" in denial.headers) == (status == 503)


@pytest.mark.conforms(
    "Deepgram",
    "sub-protocols `token`, `bearer`",
    "the scheme is selected",
)
def test_the_first_subprotocol_is_selected_and_the_key_is_not_returned():
    protocol = DeepgramProtocol(PCM, ENGLISH)
    assert protocol.handshake_response(["token", "secret"]).subprotocol == "token"
    assert protocol.handshake_response(["bearer", "secret"]).subprotocol == "bearer"
    assert protocol.handshake_response([]).subprotocol is None


@pytest.mark.conforms(
    "Deepgram",
    "`KeepAlive`, `CloseStream`",
    "work",
)
def test_commands():
    protocol = opened()
    assert protocol.received(b"\1\2") == [AudioFrame(b"\1\2")]
    assert protocol.received('{"type": "KeepAlive"}') == []
    [flush] = protocol.received('{"type": "Finalize", "channel": 0}')
    assert isinstance(flush, FlushSession)
    assert protocol.receive_timeout_s == 10
    assert protocol.received('{"type": "CloseStream"}') == [StopSession()]
    assert protocol.receive_timeout_s is None
    assert protocol.received(b"\1\2") == []
    assert protocol.received('{"type": "CloseStream"}') == []


@pytest.mark.conforms("Deepgram", "an empty frame", "is a CloseStream")
def test_an_empty_frame_ends_the_audio():
    protocol = opened()
    assert protocol.received(b"") == [StopSession()]
    assert protocol.receive_timeout_s is None


@pytest.mark.parametrize("frame", ["nonsense", "[]", "{}", '{"type": "Pause"}', '{"type": 7}'])
def test_an_invalid_message_is_an_error_and_the_session_goes_on(frame):
    protocol = opened()
    [refusal] = protocol.received(frame)
    assert isinstance(refusal, Refuse)
    [error] = decoded(protocol.refused(refusal.code, refusal.message))
    assert (error["type"], error["variant"]) == ("Error", "SchemaError")
    assert error["description"]
    assert protocol.received(b"\1") == [AudioFrame(b"\1")]


@pytest.mark.conforms(
    "Deepgram",
    "`Configure`",
    "`ConfigureFailure` for what it would set",
)
def test_configure_fails_for_unsupported_settings():
    protocol = opened()

    def answer(**fields):
        [reply] = protocol.received(json.dumps({"type": "Configure", **fields}))
        assert isinstance(reply, Reply)
        return json.loads(reply.frame)

    assert answer(keyterms=["voxlive"])["code"] == "CONFIGURE_KEYTERMS_NOT_SUPPORTED"
    assert answer(features={"numerals": True})["type"] == "ConfigureFailure"
    assert answer(keyterms=[])["type"] == "ConfigureSuccess"


@pytest.mark.conforms(
    "Deepgram",
    "`confidence`",
    "the engine's, a transcript's the mean of its words'; 0.0 where the engine knows "
    "none, since the types have no null",
)
@pytest.mark.conforms(
    "Deepgram",
    "`word`, `punctuated_word`",
    "lower case without punctuation at its edges; as the model wrote it",
)
def test_a_pause_makes_the_words_final_with_times_and_confidence():
    protocol = opened()
    result, *rest = on_events(
        protocol,
        SpeechStarted(0),
        Words(0, (Word("Hello,", 1600, 8000, 0.5), Word(" World.", 8000, 12_345))),
        SpeechStopped(12_800),
        SegmentClosed(0, 1600, 12_345, "Hello, World."),
        UtteranceEnded(20_000),
    )
    assert rest == []
    assert result.pop("metadata").keys() == {"request_id", "model_info", "model_uuid"}
    assert result == {
        "type": "Results",
        "channel_index": [0, 1],
        "start": 0.0,
        "duration": 0.772,
        "is_final": True,
        "speech_final": True,
        "from_finalize": False,
        "channel": {
            "alternatives": [
                {
                    "transcript": "Hello, World.",
                    "confidence": 0.5,
                    "words": [
                        {
                            "word": "hello",
                            "start": 0.1,
                            "end": 0.5,
                            "confidence": 0.5,
                            "punctuated_word": "Hello,",
                        },
                        {
                            "word": "world",
                            "start": 0.5,
                            "end": 0.772,
                            "confidence": 0.0,
                            "punctuated_word": "World.",
                        },
                    ],
                }
            ]
        },
    }


def test_speech_without_words_has_a_speech_final():
    [result] = on_events(opened(), SpeechStarted(0), SpeechStopped(1600), UtteranceEnded(9600))
    assert flags(result) == (True, True, False)
    assert result["channel"]["alternatives"] == [{"transcript": "", "confidence": 0.0, "words": []}]


def test_without_endpointing_nothing_is_speech_final():
    protocol = opened(endpointing="false")
    [result] = on_events(protocol, words("a"), UtteranceEnded(9600), UtteranceEnded(20_000))
    assert flags(result) == (True, False, False)


def test_finalize_is_answered_once_with_the_words_not_yet_final():
    protocol = opened()
    segment = SegmentClosed(0, 0, 8000, "a")
    [first] = on_events(protocol, SpeechStarted(0), words("a"), segment, Flushed("Finalize"))
    assert (flags(first), transcript(first)) == ((True, True, True), "a")
    [empty] = on_events(protocol, Flushed("Finalize"))
    assert (flags(empty), transcript(empty)) == ((True, False, True), "")


@pytest.mark.parametrize(
    ("events", "finals"),
    [
        # The pause after an utterance that a Finalize or a stall has ended is none of its own.
        ((words("a"), Flushed("Finalize"), UtteranceEnded(16_000)), ["a"]),
        ((words("a"), UtteranceEnded(9600), UtteranceEnded(16_000)), ["a"]),
        # Words that come after that are another utterance.
        ((words("a"), Flushed("Finalize"), words("b"), UtteranceEnded(16_000)), ["a", "b"]),
        # A Finalize before there are words ends no utterance.
        ((Flushed("Finalize"), words("a"), UtteranceEnded(16_000)), ["a"]),
        ((Flushed("Finalize"), UtteranceEnded(16_000)), [""]),
        (
            (words("a"), UtteranceEnded(9600), SpeechStarted(9700), UtteranceEnded(16_000)),
            ["a", ""],
        ),
    ],
)
def test_an_utterance_has_one_speech_final(events, finals):
    results = on_events(opened(), SpeechStarted(0), *events, SessionClosed(16_000))
    finished = [transcript(r) for r in results if r["type"] == "Results" and r["speech_final"]]
    assert [text.strip() for text in finished] == finals


@pytest.mark.conforms(
    "Deepgram",
    "`interim_results`",
    "works, ten times a second at most; words that may still change are in `transcript` "
    "alone, since their times are not known",
)
def test_interim_results_come_with_ticks_and_start_with_the_next_final():
    protocol = opened(interim_results="true")
    on_events(protocol, Draft(0, " hel"), Draft(0, " hello"))
    [interim] = decoded(protocol.tick())
    assert (flags(interim), transcript(interim)) == ((False, False, False), "hello")
    assert interim["channel"]["alternatives"][0]["words"] == []
    assert protocol.tick() == []
    on_events(protocol, words("hello"), Draft(0, " you"))
    [interim] = decoded(protocol.tick())
    assert transcript(interim) == "hello you"
    assert [w["word"] for w in interim["channel"]["alternatives"][0]["words"]] == ["hello"]
    [final] = on_events(protocol, words(" you", at=0.5), Draft(0, ""), UtteranceEnded(20_000))
    assert (interim["start"], final["start"]) == (0.0, 0.0)
    assert protocol.tick() == []
    on_events(protocol, Draft(1, " next"))
    [interim] = decoded(protocol.tick())
    assert interim["start"] == final["start"] + final["duration"] == 1.0


def test_no_interim_results_unless_requested():
    protocol = opened()
    on_events(protocol, words("hello"), Draft(0, " you"))
    assert protocol.tick() == []


@pytest.mark.conforms(
    "Deepgram",
    "final results",
    "each word once: at a pause, a Finalize, the end, or after five seconds of speech",
)
def test_five_seconds_of_speech_become_final_without_a_pause():
    protocol = opened()
    on_events(protocol, words(*"abcdefghi"))
    assert protocol.tick() == []
    on_events(protocol, words("j", at=4.5))
    [result] = decoded(protocol.tick())
    assert (flags(result), transcript(result)) == ((True, False, False), "abcdefghij")


@pytest.mark.conforms(
    "Deepgram",
    "`vad_events`",
    "works",
)
def test_speech_started_is_sent_if_requested():
    [started] = on_events(opened(vad_events="true"), SpeechStarted(24_000))
    assert started == {"type": "SpeechStarted", "channel": [0], "timestamp": 1.5}
    assert on_events(opened(), SpeechStarted(24_000)) == []


def test_the_end_is_the_last_final_metadata_and_the_close():
    protocol = opened(encoding="linear16", channels="2")
    protocol.received(b"abc")
    protocol.received(b"def")
    protocol.received('{"type": "CloseStream"}')
    protocol.on_event(words("tail"))
    *outs, close = protocol.on_event(SessionClosed(24_000))
    assert close == CloseSocket(1000)
    result, metadata = decoded(outs)
    assert (flags(result), transcript(result)) == ((True, False, False), "tail")
    assert metadata["sha256"] == hashlib.sha256(b"abcdef").hexdigest()
    assert (metadata["duration"], metadata["channels"]) == (1.5, 2)
    assert metadata["request_id"] == result["metadata"]["request_id"]
    assert metadata["request_id"] == protocol.handshake_response([]).headers["dg-request-id"]
    assert datetime.fromisoformat(metadata["created"]).tzinfo
    [model] = metadata["models"]
    assert metadata["model_info"][model]["name"] == ENGLISH.model
    assert result["metadata"]["model_uuid"] == model


@pytest.mark.parametrize(
    ("code", "close", "reason"),
    [
        ("bad_audio", 1008, "DATA-0000"),
        ("idle", 1011, "NET-0001"),
        ("too_big", 1009, "too_big"),
        ("shutting_down", 1012, "shutting_down"),
        ("engine_failed", 1011, "engine_failed"),
    ],
)
def test_a_failure_sends_the_words_so_far_an_error_and_the_close_reason(code, close, reason):
    protocol = opened()
    protocol.on_event(words("hello"))
    *outs, end = protocol.on_event(SessionError(code, "why é " * 100))
    result, error = decoded(outs)
    assert transcript(result) == "hello"
    assert (error["type"], error["variant"]) == ("Error", code)
    assert end.code == close
    assert end.reason.startswith(f"{reason}: why")
    assert len(end.reason.encode()) <= 123


def test_shutdown_sends_the_last_words_and_closes_with_1012():
    for ended, close in [(False, 1012), (True, 1000)]:
        protocol = opened()
        if ended:
            protocol.received(b"")
        assert protocol.on_event(SessionError("shutting_down", "soon", fatal=False)) == []
        assert protocol.on_event(SessionClosed(0))[-1] == CloseSocket(close)


def utterance_ends(protocol, *events) -> list[float]:
    messages = on_events(protocol, *events)
    return [m["last_word_end"] for m in messages if m["type"] == "UtteranceEnd"]


@pytest.mark.conforms(
    "Deepgram",
    "`utterance_end_ms`",
    "works",
)
def test_utterance_end_comes_after_the_gap_in_silence():
    protocol = opened(utterance_end_ms="1000")
    assert utterance_ends(protocol, SpeechStarted(0), words("a"), UtteranceEnded(16_000)) == []
    ticks = [bool(protocol.tick()) for _ in range(20)]
    assert ticks.index(True) in (4, 5)
    assert sum(ticks) == 1


def test_utterance_end_comes_at_once_where_the_clock_is_ahead():
    protocol = opened(utterance_end_ms="1000")
    assert utterance_ends(protocol, words("a"), UtteranceEnded(24_000)) == [0.5]
    assert utterance_ends(protocol, SpeechStarted(40_000), UtteranceEnded(50_000)) == []
    assert utterance_ends(protocol, words("b", at=4), UtteranceEnded(73_000)) == []
    assert utterance_ends(protocol, SpeechStarted(88_000)) == [4.5]
    assert utterance_ends(
        protocol, words("c", at=6), UtteranceEnded(106_000), SessionClosed(130_000)
    ) == [6.5]


def test_no_utterance_end_when_speech_resumes_in_time():
    protocol = opened(utterance_end_ms="1000")
    assert utterance_ends(protocol, words("a"), UtteranceEnded(14_000), SpeechStarted(20_000)) == []
    assert not any(protocol.tick() for _ in range(50))
    assert (
        utterance_ends(protocol, words("b", at=1.3), UtteranceEnded(34_000), SessionClosed(35_000))
        == []
    )


def test_no_utterance_end_unless_requested_and_none_without_words():
    assert (
        utterance_ends(opened(), words("a"), UtteranceEnded(160_000), SessionClosed(320_000)) == []
    )
    protocol = opened(utterance_end_ms="1000")
    assert utterance_ends(protocol, UtteranceEnded(160_000), SessionClosed(320_000)) == []


@given(st.lists(st.tuples(st.integers(1, 40_000), st.integers(0, 60_000)), max_size=20))
def test_every_long_gap_is_reported_once_after_a_backlog(spans):
    """Speech and pauses of these lengths, all detected before any of it is decoded."""
    gap = UtteranceGap(1000)
    at, speech = 0, []
    for length, pause in spans:
        speech.append((at, at + length))
        gap.on_speech(at)
        at += length + pause
    found = []
    for number, (_, end) in enumerate(speech):
        gap.on_final_word(end)
        following = speech[number + 1][0] if number + 1 < len(speech) else None
        gap.on_pause(end + 1 if following is None else min(end + 1, following))
        found += [gap.expired(0.0)]
    assert found[:-1] == [
        end if start - end >= 16_000 else None for (_, end), (start, _) in pairwise(speech)
    ]


@pytest.mark.conforms(
    "Deepgram",
    "`Finalize`",
    "works: each has one result with `from_finalize`, which is the `speech_final` of an utterance "
    "that it ends",
)
@given(conversations(), st.data())
def test_finals_hold_every_word_once_and_every_flush_is_answered(events, data):
    protocol = opened(interim_results="true", utterance_end_ms="1000")
    outs = []
    for event in events:
        outs += protocol.on_event(event)
        if data.draw(st.booleans()):
            outs += protocol.tick()
    assert outs.pop() == CloseSocket(1000)
    messages = decoded(outs)
    finals = [m for m in messages if m["type"] == "Results" and m["is_final"]]
    committed = [word for event in events if isinstance(event, Words) for word in event.words]
    sent = [w for m in finals for w in m["channel"]["alternatives"][0]["words"]]
    assert [w["punctuated_word"] for w in sent] == [word.text.strip() for word in committed]
    text = "".join(word.text for word in committed)
    assert "".join("".join(map(transcript, finals)).split()) == "".join(text.split())
    flushes = sum(isinstance(event, Flushed) for event in events)
    assert sum(m["from_finalize"] for m in finals) == flushes
    spans = [(m["start"], m["start"] + m["duration"]) for m in finals]
    for (_, end), (start, _) in pairwise(spans):
        assert start == pytest.approx(end, abs=0.0015)
    assert messages[-1]["type"] == "Metadata"


def test_lag_is_not_sent():
    assert opened().on_event(Lag(3.0)) == []


@pytest.mark.conforms(
    "Deepgram",
    "`multichannel=true&channels=2` with `linear16`, `linear32`, `mulaw`, `alaw`",
    "works, 2 to 8 channels, which take a slot each: results, `UtteranceEnd` and `SpeechStarted` "
    "of each, with `[0, 2]` and `[1, 2]`; a Finalize has a result of each. What one channel has of "
    "another one's speech is left out, unless `suppress_leaks=false` (up to 4 channels)",
)
def test_channels_have_results_of_their_own():
    protocol = opened(channels="2", multichannel="true", vad_events="true", interim_results="true")
    asked = protocol.options_from_handshake()
    assert (asked.sources, asked.suppress_leaks, asked.audio.channels) == (("0", "1"), True, 2)
    one, two = (
        replace(words(text, at=1.0), source=source) for text, source in (("a", "0"), (" b", "1"))
    )
    [started] = on_events(protocol, SpeechStarted(0, "1"))
    assert started["channel"] == [1, 2]
    assert on_events(protocol, one, two, Draft(0, " and", "0")) == []
    interim = decoded(protocol.tick())
    assert [(m["channel_index"], transcript(m)) for m in interim] == [
        ([0, 2], "a and"),
        ([1, 2], "b"),
    ]
    [final] = on_events(protocol, UtteranceEnded(3 * SAMPLE_RATE, "1"))
    assert (final["channel_index"], transcript(final), final["speech_final"]) == ([1, 2], "b", True)
    first, second = on_events(protocol, Flushed("Finalize"))
    assert [first["channel_index"], second["channel_index"]] == [[0, 2], [1, 2]]
    assert (transcript(first), transcript(second)) == ("a", "")
    assert flags(first) == (True, True, True)
    [metadata] = on_events(protocol, SessionClosed(4 * SAMPLE_RATE))
    assert metadata["channels"] == 2


def test_leaks_are_suppressed_among_few_channels_and_when_the_client_agrees():
    many = opened(channels="8", multichannel="true").options_from_handshake()
    assert (len(many.sources), many.suppress_leaks) == (8, False)
    asked = opened(channels="2", multichannel="true", suppress_leaks="false")
    assert not asked.options_from_handshake().suppress_leaks
    assert opened(multichannel="true").options_from_handshake().sources == ()
    with pytest.raises(ProtocolError, match="leaks") as refused:
        opened(channels="8", multichannel="true", suppress_leaks="true")
    assert refused.value.code == "bad_parameter"


@pytest.mark.conforms(
    "Deepgram",
    "`diarize`",
    "works: each word's `speaker`, by its voice; one that is not known when the result is final is "
    "that of the word before. Needs `voxlive models fetch speaker-encoder`",
)
def test_words_have_speakers_where_they_are_asked_for():
    protocol = DeepgramProtocol({**PCM, "diarize": "true"}, ENGLISH)
    assert protocol.options_from_handshake().speakers == SpeakerOptions()
    words = [Word(f" w{n}", 1600 * n, 1600 * n + 800) for n in range(5)]

    def speakers(*events: object) -> list[int | None]:
        outs = [json.loads(out) for event in events for out in protocol.on_event(event)]
        heard = [out["channel"]["alternatives"][0]["words"] for out in outs]
        return [word.get("speaker") for words in heard for word in words]

    assert speakers(Words(0, (words[0],)), UtteranceEnded(1600)) == [None]
    # It comes too late for the first, which is final.
    late = SpeakersFound((SpeakerRange(0, 0, 1, 1),), 2)
    assert speakers(Words(0, (*words[1:3],)), late, UtteranceEnded(4800)) == [1, 1]
    found = SpeakersFound((SpeakerRange(1, 1, 1, 0),), 2)
    assert speakers(Words(1, (*words[3:],)), found, UtteranceEnded(8000)) == [1, 0]
