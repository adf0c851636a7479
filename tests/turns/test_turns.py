"""The turns of a stream: the pure tracker, sessions that have them, and the real network."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import clip
from support.counting import PCM, CountingEngine, LoudnessModel, events_of, of, pcm, silence, tone
from support.examples import examples
from support.scoring import spelt
from support.wire import live, s16le

from voxlive.errors import EngineError
from voxlive.streaming.events import (
    Event,
    Flushed,
    SegmentClosed,
    SessionError,
    TurnClosed,
    UtteranceEnded,
    Words,
)
from voxlive.streaming.intake import SessionOptions
from voxlive.streaming.service import Service
from voxlive.turns import detector
from voxlive.turns.detector import SmartTurn, TurnDetector, TurnsMissing
from voxlive.turns.tracker import (
    CONTEXT,
    EAGERNESS,
    PAUSE,
    TurnEnded,
    TurnEvent,
    TurnLikelyEnded,
    TurnOptionError,
    TurnOptions,
    TurnResumed,
    TurnStarted,
    TurnTracker,
    text_odds,
)
from voxlive.vad.detector import VoiceDetector
from voxlive.vad.gate import WINDOW, GateOptions
from voxlive.vad.network import NetworkFailed
from voxlive.values import SAMPLE_RATE, Samples

TURNS = TurnStarted | TurnLikelyEnded | TurnResumed | TurnEnded
AUTO = EAGERNESS["auto"]


class Scripted:
    """A network whose answers are given; it notes what it was asked."""

    def __init__(self, *answers: float) -> None:
        self.answers = [*answers]
        self.asked: list[Samples] = []

    def judge(self, audio: Sequence[Samples]) -> Samples:
        self.asked += audio
        return np.array([self.answers.pop(0) for _ in audio], np.float32)


def track(
    tracker: TurnTracker, windows: str, answers: Sequence[float] = (), text: str = ""
) -> list[TurnEvent]:
    """Windows of speech (#) and silence (.); what was said is known from the start."""
    left, events = [*answers], []
    tracker.hear(text, sys.maxsize)
    for window in windows:
        events += tracker.push(float(window == "#"))
        if tracker.asks:
            events += tracker.judge(left.pop(0))
    assert not left
    return events


def waited(probability: float, text: str = "", options: TurnOptions = AUTO) -> float:
    """Seconds of silence after which a turn ends."""
    tracker = TurnTracker(options, GateOptions())
    events = track(tracker, "#" * 30 + "." * 400, [probability], text)
    [ended] = [event for event in events if isinstance(event, TurnEnded)]
    assert not tracker.open
    return (ended.upto - ended.at) / SAMPLE_RATE


def test_a_turn_ends_the_sooner_the_surer_it_is_by_sound_text_and_eagerness():
    assert waited(0.99) == PAUSE / SAMPLE_RATE
    by_sound = [waited(p) for p in (0.99, 0.6, 0.3, 0.02)]
    assert by_sound == sorted(set(by_sound))
    by_text = [waited(0.3, text) for text in ("Yes.", "yes", "yes,", "yes and")]
    assert by_text == sorted(set(by_text))
    # A text that trails off says as much as one that hangs, and no more where it does both.
    for end in ("Yes...", "Yes\u2026", "the f-", "yes and...", "to the"):
        assert waited(0.3, end) == by_text[-1]
    assert waited(0.3, "my number is 5 5") > waited(0.3, "my number")
    assert waited(0.3, "ruf mich an.") < waited(0.3, "such an")
    assert waited(0.3, "c'est la dictée numéro 1.") < waited(0.3, "call me at 5 5 1.")
    eager = [waited(0.3, options=EAGERNESS[name]) for name in ("high", "auto", "low")]
    assert eager == sorted(set(eager))
    assert waited(0.02, "yes and", AUTO.changed(max_wait_ms=1000)) == pytest.approx(1, abs=0.04)
    # What is not known to be all that was said does not count.
    tracker = TurnTracker(AUTO, GateOptions())
    track(tracker, "#" * 30)
    tracker.hear("and", 0)
    assert isinstance(track_on(tracker, PAUSE // WINDOW, 0.99)[-1], TurnEnded)


def track_on(tracker: TurnTracker, silent: int, answer: float) -> list[TurnEvent]:
    events = []
    for _ in range(silent):
        events += tracker.push(0.0)
    return [*events, *tracker.judge(answer)]


def test_a_turn_goes_on_after_a_pause_and_says_so_where_it_was_thought_over():
    tracker = TurnTracker(AUTO, GateOptions())
    windows = "#" * 20 + "." * 8 + "#" * 10 + "." * 8 + "##" + "." * 4 + "#" * 5 + "." * 10
    events = track(tracker, windows, [0.8, 0.1, 0.99])
    started, likely, resumed, ended = events
    assert started == TurnStarted(0, 0)
    assert isinstance(likely, TurnLikelyEnded)
    assert (likely.at, likely.upto) == (20 * WINDOW, 24 * WINDOW)
    assert AUTO.eager_threshold <= likely.confidence < AUTO.threshold
    assert resumed == TurnResumed(0, 28 * WINDOW)
    # Two windows are too short for speech: the pause goes on over them.
    assert ended == TurnEnded(0, 57 * WINDOW, 61 * WINDOW, ended.confidence, "confidence")
    assert track(tracker, "#" * 5)[0] == TurnStarted(1, 67 * WINDOW)
    assert tracker.interrupt(73 * WINDOW + 7, "client")[0].by == "client"
    assert tracker.interrupt(73 * WINDOW + 7, "client") == []


def test_bad_options_are_refused():
    for bad in ({"threshold": 1.0}, {"eager_threshold": 0.9}, {"max_wait_ms": 10}):
        with pytest.raises(TurnOptionError, match=next(iter(bad))):
            AUTO.changed(**bad)
    assert AUTO.changed(threshold=0.3).eager_threshold == 0.3
    assert text_odds("...") == text_odds("") == 0


@examples(60)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=12),
    st.randoms(use_true_random=False),
)
def test_events_of_any_windows_are_turns_in_order(spans: list[tuple[bool, int]], answers: Random):
    tracker = TurnTracker(AUTO, GateOptions())
    events = []
    for loud, count in spans:
        for _ in range(count):
            events += tracker.push(0.9 if loud else 0.1)
            if tracker.asks:
                events += tracker.judge(answers.random())
    events += tracker.interrupt(tracker.end, "audio_end")
    assert not tracker.open
    state, turn = "none", 0
    allowed = {
        TurnStarted: ("none", "speech"),
        TurnLikelyEnded: ("speech", "likely"),
        TurnResumed: ("likely", "speech"),
    }
    for event in events:
        assert event.turn == turn
        if isinstance(event, TurnEnded):
            assert state in ("speech", "likely")
            assert event.at <= event.upto
            state, turn = "none", turn + 1
        else:
            before, after = allowed[type(event)]
            assert state == before
            state = after
    assert state == "none"


def run(
    audio: Samples, cuts: Sequence[int], network: Scripted, **more: object
) -> tuple[list[Event], CountingEngine]:
    """A session's events, for audio in pieces that end at these samples."""

    async def talk() -> tuple[list[Event], CountingEngine]:
        engine = CountingEngine()
        turns = TurnDetector(network)
        service = Service(engine, VoiceDetector(LoudnessModel()), turns=turns)
        options = SessionOptions(PCM, turns=AUTO, stall_s=60, **more)
        return await events_of(service, options, audio, cuts), engine

    return asyncio.run(talk())


TALK = np.concatenate(
    [tone(2.5), silence(0.3), tone(1.2), silence(0.8), tone(1.0), silence(1.0), tone(0.5)]
)


@examples(15)
@given(st.lists(st.integers(1, len(TALK) - 1), unique=True, max_size=30))
def test_a_session_has_the_same_turns_however_its_audio_is_cut(cuts: list[int]):
    network = Scripted(0.99, 0.3, 0.6)
    events, engine = run(TALK, sorted(cuts), network)
    whole, _ = run(TALK, (), Scripted(0.99, 0.3, 0.6))
    assert of(TURNS, events) == of(TURNS, whole)
    assert [type(event) for event in of(TURNS, events)] == [
        *(TurnStarted, TurnEnded),
        *(TurnStarted, TurnLikelyEnded, TurnResumed, TurnLikelyEnded, TurnEnded),
        *(TurnStarted, TurnEnded),
    ]
    assert [event.by for event in of(TurnEnded, events)] == [
        *("confidence", "confidence", "audio_end")
    ]
    # The words are those of a session without turns, each in its turn.
    words = "".join(event.text for event in of(Words, events))
    closed = of(TurnClosed, events)
    assert closed == of(TurnClosed, whole)
    assert " ".join(filter(None, (event.text for event in closed))) == words
    assert closed[0].text == "w1 w2"
    assert words == "".join(event.text for event in of(SegmentClosed, events))
    [stream] = engine.streams
    fed = np.concatenate([samples for _, samples in stream.fed])
    assert len(fed) == sum(len(samples) for _, samples in stream.fed) <= len(TALK)
    # The network had the last 8 s before the moment, and no sample from behind it.
    first = network.asked[0]
    assert len(first) == 79 * WINDOW + PAUSE <= CONTEXT
    np.testing.assert_allclose(first, TALK[: len(first)], atol=1e-4)
    # The utterance ended with the first turn, not where silence would have ended it.
    assert of(UtteranceEnded, events)[0].upto == len(first)


def test_a_client_ends_a_turn_and_changes_how_they_end():
    async def talk() -> list[Event]:
        turns = TurnDetector(Scripted(0.1, 0.1))
        service = Service(CountingEngine(), VoiceDetector(LoudnessModel()), turns=turns)
        session = service.open(SessionOptions(PCM, turns=AUTO))
        await session.push(pcm(tone(1.5)))
        await session.flush("now", ends_turn=True)
        await session.push(pcm(np.concatenate([tone(1.5), silence(0.3)])))
        await session.change_turns(AUTO.changed(max_wait_ms=400))
        await session.push(pcm(silence(0.3)))
        await session.stop()
        events = [event async for event in session.events()]
        await service.aclose()
        return events

    events = asyncio.run(talk())
    first, second = of(TurnEnded, events)
    assert (first.by, first.upto) == ("client", 24_000)
    assert (second.by, second.upto - second.at) == ("timeout", 13 * WINDOW)
    closed, flushed = of(TurnClosed, events)[0], of(Flushed, events)[0]
    assert closed.text == "w1"
    assert events.index(closed) < events.index(flushed)


def test_a_network_that_fails_ends_the_session_and_one_that_is_missing_refuses_it(
    tmp_path, monkeypatch
):
    events, _ = run(TALK, (), Scripted())
    [error] = of(SessionError, events)
    assert (error.code, error.fatal) == ("vad_failed", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(TurnsMissing, match="voxlive models fetch smart-turn"):
        TurnDetector().prepare()
    with pytest.raises(EngineError, match="leave out vad"):
        SessionOptions(PCM, gate=None, turns=AUTO)
    assert not any(thread.name.startswith("turn-detector") for thread in threading.enumerate())


def paused_after(name: str, word: int) -> Samples:
    """A clip up to the end of one of its words, and the silence in which the network is asked."""
    until = round(clip(name).words[word].end * SAMPLE_RATE)
    return np.pad(clip(name).samples[:until], (0, PAUSE))


async def test_the_real_network_tells_a_whole_sentence_from_half_of_one(tmp_path):
    path = detector.find_model()
    network = SmartTurn(path)
    asked = [paused_after("doctor", 8), paused_after("doctor", -1)]
    both = network.judge(asked)
    assert both[0] < 0.5 < both[1]
    # It has whole numbers inside, whose sums overflow on some processors unless it is told not to:
    # it was as sure there of 0.96 and 0.04.
    sums = network.judge([paused_after("market", 1), paused_after("message", 8)])
    assert sums[0] < 0.3 < sums[1]
    turns = TurnDetector()
    turns.prepare()
    together = await asyncio.gather(*map(turns.ask, asked * 6))
    turns.close()
    np.testing.assert_allclose(together, [*both] * 6, atol=0.02)
    damaged = tmp_path / path.name
    damaged.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(NetworkFailed, match="damaged"):
        SmartTurn(damaged)


async def test_a_server_has_the_turns_of_people_who_speak(server):
    """Each has what was said in it, and the words are those of a session without turns."""
    audio = s16le(np.concatenate([clip("doctor").samples, np.zeros(SAMPLE_RATE, np.float32)]))
    heard = await live(server.ws, audio * 2, turns={"eagerness": "high"})
    kinds = [one["type"] for one in heard.messages if one["type"].startswith("turn")]
    kinds = [kind for kind in kinds if kind not in ("turn_likely_ended", "turn_resumed")]
    assert sorted(kinds) == sorted(["turn_started", "turn_ended", "turn"] * 2)
    [ready] = heard.of("ready")
    assert ready["turns"] == {
        "threshold": 0.7,
        "eager_threshold": 0.5,
        "max_wait_ms": 2000,
        "eagerness": "high",
    }
    first, second = heard.of("turn")
    [done] = heard.of("done")
    assert f"{first['text']} {second['text']}" == done["text"]
    assert "doctor" in spelt(first["text"])
    assert "doctor" in spelt(second["text"])
    ended = heard.of("turn_ended")
    assert abs(ended[0]["t"] - clip("doctor").words[-1].end) < 0.3
    assert all(one["by"] in ("confidence", "timeout") for one in ended)
    # The last words of a turn are out before its text is.
    order = [one["type"] for one in heard.messages]
    assert order.index("words") < order.index("turn")
