"""The session core with an engine that commits a word for every second that it is fed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counting import (
    OPEN,
    PCM,
    CountingEngine,
    CountingStream,
    LoudnessModel,
    of,
    pcm,
    silence,
    tone,
)
from support.examples import examples

from voxlive.engines.contract import (
    Committed,
    Failed,
    Progressed,
    Reached,
    Sink,
    StreamOptions,
)
from voxlive.streaming.events import (
    Event,
    Flushed,
    Lag,
    LagReporter,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
    Words,
)
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.streaming.queues import MAX_SOCKET_BYTES, Inbox, Outbox
from voxlive.streaming.recovery import Backlog
from voxlive.streaming.replacements import Replacements
from voxlive.streaming.service import Service
from voxlive.streaming.session import Session
from voxlive.vad.detector import VoiceDetector
from voxlive.vad.gate import GateOptions
from voxlive.values import SAMPLE_RATE, Samples, Word

SPANS = st.lists(st.tuples(st.booleans(), st.integers(0, 30_000)), max_size=8)


@examples(40)
@given(SPANS, st.lists(st.integers(1, 20_000), max_size=10), st.integers(0, 3))
def test_every_sample_is_fed_or_skipped_once(
    spans: list[tuple[bool, int]], cuts: list[int], flushes: int
) -> None:
    audio = np.concatenate(
        [np.zeros(0, np.float32), *(np.full(n, 0.5 * loud, np.float32) for loud, n in spans)]
    )
    data = pcm(audio)

    async def run() -> tuple[list[Event], CountingStream, int, int]:
        engine = CountingEngine()
        service = Service(engine, VoiceDetector(LoudnessModel()))
        session = service.open(SessionOptions(PCM, GateOptions(), stall_s=60))

        async def talk() -> None:
            rest = data
            for number, cut in enumerate(cuts):
                await session.push(rest[:cut])
                rest = rest[cut:]
                if number < flushes:
                    await session.flush(str(number))
            await session.push(rest)
            await session.stop()

        talking = asyncio.create_task(talk())
        events = [event async for event in session.events()]
        await talking
        await service.aclose()
        return events, engine.streams[0], session.fed, session.skipped

    events, stream, fed, skipped = asyncio.run(run())
    assert fed + skipped == len(audio)
    assert events[-1] == SessionClosed(len(audio))
    assert sum(len(samples) for _, samples in stream.fed) == fed
    for at, samples in stream.fed:
        np.testing.assert_allclose(samples, audio[at : at + len(samples)], atol=1e-4)
    deltas = "".join(event.text for event in of(Words, events))
    assert deltas == "".join(event.text for event in of(SegmentClosed, events))
    marks = [type(e) for e in events if isinstance(e, SpeechStarted | SpeechStopped)]
    assert marks == [SpeechStarted, SpeechStopped] * (len(marks) // 2)
    assert [event.marker for event in of(Flushed, events)] == [
        str(number) for number in range(min(flushes, len(cuts)))
    ]


@examples(40)
@given(SPANS, SPANS)
def test_a_reconfiguration_separates_events_and_loses_no_audio(
    before: list[tuple[bool, int]], after: list[tuple[bool, int]]
) -> None:
    first, second = (
        np.concatenate(
            [np.zeros(0, np.float32), *(np.full(n, 0.5 * loud, np.float32) for loud, n in spans)]
        )
        for spans in (before, after)
    )

    async def run() -> tuple[list[Event], CountingStream, int]:
        engine = CountingEngine()
        service = Service(engine, VoiceDetector(LoudnessModel()))
        session = service.open(SessionOptions(PCM, GateOptions(), stall_s=60))
        await session.push(pcm(first))
        floats = SessionOptions(AudioFormat("f32le"), GateOptions(min_speech_ms=0))
        await service.reconfigure(session, floats, "now")
        await session.push(second.astype("<f4").tobytes())
        await session.stop()
        events = [event async for event in session.events()]
        await service.aclose()
        return events, engine.streams[0], session.fed + session.skipped

    events, stream, handled = asyncio.run(run())
    audio = np.concatenate([first, second])
    assert handled == len(audio)
    assert events[-1] == SessionClosed(len(audio))
    for at, samples in stream.fed:
        np.testing.assert_allclose(samples, audio[at : at + len(samples)], atol=1e-4)
    cut = events.index(Flushed("now"))
    for part, earliest, latest in (
        (events[:cut], 0, len(first)),
        (events[cut:], len(first), len(audio)),
    ):
        marks = [event for event in part if isinstance(event, SpeechStarted | SpeechStopped)]
        assert [type(mark) for mark in marks] == [SpeechStarted, SpeechStopped] * (len(marks) // 2)
        assert all(earliest <= mark.at <= latest for mark in marks)
        words = [word for event in of(Words, part) for word in event.words]
        assert all(earliest <= word.start < word.end <= latest for word in words)


async def test_a_reconfiguration_may_turn_voice_detection_off(
    service: Service,
) -> None:
    session = service.open(SessionOptions(PCM, GateOptions()))
    await session.push(pcm(silence(2)))
    await service.reconfigure(session, OPEN, "all of it")
    await session.push(pcm(silence(2)))
    await session.stop()
    await service.reconfigure(session, OPEN, "too late")
    events = [event async for event in session.events()]
    assert of(SpeechStarted, events) == [SpeechStarted(2 * SAMPLE_RATE)]
    assert session.text == "w1 w2"
    assert of(Flushed, events) == [Flushed("all of it")]


async def test_a_pause_closes_a_segment_and_stop_brings_the_last_words(service: Service) -> None:
    session = service.open(SessionOptions(PCM, GateOptions()))
    await session.push(pcm(np.concatenate([tone(2), silence(1), tone(1.5)])))
    await session.stop()
    events = [event async for event in session.events()]
    assert [event.text for event in of(SegmentClosed, events)] == ["w1 w2", " w3 w4"]
    assert session.text == "w1 w2 w3 w4"
    assert isinstance(events[-1], SessionClosed)


@dataclass
class LateStream(CountingStream):
    """A word for every loud second, when a second of audio lies behind it, or with a flush."""

    trail: int = SAMPLE_RATE

    def feed(self, audio: Samples, at: int) -> None:
        assert not self.closed
        self.fed.append((at, audio))
        self._commit(self.trail)
        self.sink(Progressed(at + len(audio)))

    def flush(self, marker: int) -> None:
        self._commit(0)
        self.sink(Reached(marker))

    def _commit(self, behind: int) -> None:
        fed = np.concatenate([samples for _, samples in self.fed] or [silence(0)])
        loud = np.abs(fed[: max(0, len(fed) - behind)]) > 0.1
        while (self.committed + 1) * SAMPLE_RATE <= np.count_nonzero(loud):
            at, self.committed = self.committed * SAMPLE_RATE, self.committed + 1
            self.sink(Committed((Word(f" w{self.committed}", at, at + SAMPLE_RATE),)))


class LateEngine(CountingEngine):
    def open(self, options: StreamOptions, sink: Sink) -> CountingStream:
        self.streams.append(LateStream(sink))
        return self.streams[-1]


@pytest.mark.parametrize("gate", [GateOptions(), None])
@pytest.mark.parametrize("silence_s", [0, 0.3, 0.7, 1.2])
@pytest.mark.parametrize("end", ["stop", "flush", "reconfigure", "stall", "damage"])
async def test_an_utterance_is_one_segment_however_it_ends(
    end: str, silence_s: float, gate: GateOptions | None
) -> None:
    """With nothing behind it, within the gate's hangover, within the engine's trail, behind it."""
    service = Service(LateEngine(), VoiceDetector(LoudnessModel()))
    options = SessionOptions(PCM, gate, stall_s=0.05 if end == "stall" else 60)
    session = service.open(options)
    audio = pcm(np.concatenate([tone(3), silence(silence_s)]))
    await session.push(audio + b"\0" if end == "damage" else audio)
    match end:
        case "flush":
            await session.flush("now")
        case "reconfigure":
            await service.reconfigure(session, options, "now")
        case "stall":
            await asyncio.sleep(0.2)
    await session.stop()
    events = [event async for event in session.events()]
    [segment] = of(SegmentClosed, events)
    assert segment.text == "w1 w2 w3"
    assert segment.end <= len(audio) // 2
    closed = events.index(segment)
    assert not of(Words, events[closed:])
    assert all(event.upto <= len(audio) // 2 for event in of(UtteranceEnded, events))
    # Nothing of an utterance follows its end.
    assert not of(UtteranceEnded, events[:closed]) + of(Flushed, events[:closed])


async def test_every_pause_ends_an_utterance_with_words_or_without(service: Service) -> None:
    session = service.open(SessionOptions(PCM, GateOptions(min_silence_ms=100)))
    await session.push(pcm(np.concatenate([tone(2), silence(1), tone(0.2), silence(1)])))
    await session.stop()
    kinds_of_interest = Words | SegmentClosed | SpeechStopped | UtteranceEnded
    events = [event async for event in session.events() if isinstance(event, kinds_of_interest)]
    kinds = [type(event) for event in events]
    assert kinds[kinds.index(SegmentClosed) :] == [
        *(SegmentClosed, UtteranceEnded, SpeechStopped, UtteranceEnded),
    ]
    stops = [event.at for event in of(SpeechStopped, events)]
    ends = [event.upto for event in of(UtteranceEnded, events)]
    assert stops[0] <= ends[0] < stops[1] <= ends[1]


@pytest.mark.parametrize(("chosen_ms", "utterances"), [(None, 1), (500, 2)])
async def test_the_pause_is_the_engine_s_unless_the_client_chooses_one(
    service: Service, engine: CountingEngine, chosen_ms: int | None, utterances: int
) -> None:
    engine.info = replace(engine.info, pause_ms=900)
    options = SessionOptions(PCM, GateOptions(min_silence_ms=chosen_ms))
    for before in (0, 5 * SAMPLE_RATE):  # as it is opened, and as it goes on
        session = service.open(SessionOptions(PCM, None) if before else options)
        await session.push(pcm(silence(before / SAMPLE_RATE)))
        if before:
            await service.reconfigure(session, options, "on")
        await session.push(pcm(np.concatenate([tone(2), silence(0.7), tone(2), silence(2)])))
        await session.stop()
        events = [event async for event in session.events()]
        assert sum(one.at >= before for one in of(SpeechStarted, events)) == utterances


async def test_silence_is_never_fed(service: Service, engine: CountingEngine) -> None:
    session = service.open(SessionOptions(PCM, GateOptions()))
    await session.push(pcm(silence(30)))
    await session.stop()
    events = [event async for event in session.events()]
    assert not engine.streams[0].fed
    assert not of(SpeechStarted, events)
    assert not of(Words, events)
    assert events[-1] == SessionClosed(30 * SAMPLE_RATE)


async def test_a_stall_in_mid_speech_brings_the_words_so_far(service: Service) -> None:
    session = service.open(SessionOptions(PCM, GateOptions(), stall_s=0.05))
    await session.push(pcm(tone(2.2)))
    before = []
    async for event in session.events():
        before.append(event)
        if isinstance(event, UtteranceEnded):
            break
    assert session.text == "w1 w2"
    # Its utterance ends like any other, for protocols that wait for the end of speech too.
    [stopped] = of(SpeechStopped, before)
    assert before.index(stopped) < before.index(of(SegmentClosed, before)[0])
    assert stopped.at == 2.2 * SAMPLE_RATE
    await session.push(pcm(tone(1.0)))
    await session.stop()
    after = [event async for event in session.events()]
    assert [event.text for event in of(Words, after)] == [" w3"]
    assert session.text == "w1 w2 w3"
    [started] = of(SpeechStarted, after)
    assert started.at >= stopped.at


async def test_a_server_that_stood_still_takes_what_came_before_it_ends_an_utterance(
    service: Service,
) -> None:
    """As when its machine was suspended: what has come is some turns of the loop away."""
    session = service.open(SessionOptions(PCM, GateOptions(), stall_s=1.0))
    await session.push(pcm(tone(2.2)))
    async for event in session.events():
        if isinstance(event, Words) and event.text == " w2":
            break
    await asyncio.sleep(0.2)  # it waits for more
    time.sleep(1.3)  # noqa: ASYNC251, everything stands still
    for _ in range(50):
        await asyncio.sleep(0)
    await session.push(pcm(tone(1.0)))
    await session.stop()
    events = [event async for event in session.events()]
    assert [event.text for event in of(Words, events)] == [" w3"]
    assert len(of(SegmentClosed, events)) == 1


async def test_push_waits_while_the_engine_is_behind(
    service: Service, engine: CountingEngine
) -> None:
    engine.progress = False
    session = service.open(OPEN)
    pushing = asyncio.create_task(push_all(session.push, 60))
    for _ in range(5000):  # turns of the loop, far more than 60 pushes take
        await asyncio.sleep(0)
    fed = sum(len(samples) for _, samples in engine.streams[0].fed)
    assert not pushing.done()
    assert 30 * SAMPLE_RATE < fed <= 32 * SAMPLE_RATE
    engine.streams[0].progress = True
    engine.streams[0].sink(Progressed(fed))
    await pushing
    await session.stop()
    assert [event async for event in session.events()][-1] == SessionClosed(60 * SAMPLE_RATE)


async def test_drain_drops_audio_far_ahead_but_not_the_end(
    service: Service, engine: CountingEngine
) -> None:
    session = service.open(OPEN, Inbox(MAX_SOCKET_BYTES))
    await push_all(session.push, 60)
    await session.stop()
    await asyncio.wait_for(session.drain(), 10)
    events = [event async for event in session.events()]
    assert isinstance(events[-1], SessionClosed)
    assert 0 < events[-1].samples < 45 * SAMPLE_RATE  # the engine has taken 30 s of 60


async def test_silence_does_not_count_as_backlog(service: Service, engine: CountingEngine) -> None:
    """An engine may report progress only when an utterance has ended."""
    engine.progress = False
    session = service.open(SessionOptions(PCM, GateOptions()))
    for _ in range(3):
        await session.push(pcm(np.concatenate([silence(40), tone(2), silence(1)])))
    await session.stop()
    events = [event async for event in session.events()]
    assert len(of(SegmentClosed, events)) == 3
    assert all(lag.behind_s <= 7 for lag in of(Lag, events))


@pytest.mark.parametrize(("keeps_up", "least", "most"), [(True, 0, 0.5), (False, 2, 2)])
async def test_lag_counts_only_audio_the_engine_had_time_to_process(
    service: Service,
    engine: CountingEngine,
    monkeypatch: pytest.MonkeyPatch,
    keeps_up: bool,
    least: float,
    most: float,
) -> None:
    monkeypatch.setattr("voxlive.streaming.events._LAG_EVERY_S", 0.0)
    engine.progress = keeps_up
    session = service.open(OPEN)
    for second in range(1, 4):
        await session.push(pcm(tone(1)))
        while (session.processed if keeps_up else session.fed) < second * SAMPLE_RATE:  # noqa: ASYNC110
            await asyncio.sleep(0)
    await session.stop()
    lags = [lag.behind_s for lag in of(Lag, [event async for event in session.events()])]
    assert least <= max(lags, default=0) <= most


async def push_all(push: Callable[[bytes], object], seconds: int) -> None:
    for _ in range(seconds):
        await push(pcm(tone(1)))  # type: ignore[misc]


async def test_a_client_that_never_reads_ends_its_session(
    service: Service, engine: CountingEngine
) -> None:
    session = service.open(OPEN)
    for number in range(3000):
        engine.streams[-1].sink(Committed((Word(f" {number}", number, number + 1),)))
    await asyncio.sleep(0.05)
    assert engine.streams[0].closed
    events = [event async for event in session.events()]
    assert isinstance(events[-2], SessionError)
    assert events[-2].code == "slow_client"
    assert len(of(Words, events)) == 2000


async def test_an_engine_failure_ends_the_session_with_its_error(
    service: Service, engine: CountingEngine
) -> None:
    session = service.open(OPEN)
    await session.push(pcm(tone(1.5)))
    await asyncio.sleep(0.05)
    engine.streams[0].sink(Failed("overrun", "too much waits"))
    events = [event async for event in session.events()]
    assert events[-2:] == [
        SessionError("overrun", "too much waits"),
        SessionClosed(int(1.5 * SAMPLE_RATE)),
    ]
    await session.push(b"ignored")
    assert engine.streams[0].closed


async def test_bad_audio_is_an_error_after_the_last_words(service: Service) -> None:
    session = service.open(SessionOptions(AudioFormat("container"), gate=None))
    await session.push(b"RIFF this is no audio at all" * 40)
    await session.stop()
    events = [event async for event in session.events()]
    assert isinstance(events[-2], SessionError)
    assert events[-2].code == "bad_audio"


steps = st.lists(st.tuples(st.sampled_from(["feed", "skip", "progress"]), st.integers(0, 50)))


@given(steps)
def test_the_backlog_is_what_was_fed_and_not_processed(steps):
    backlog = Backlog()
    waiting: set[int] = set()
    now = through = 0
    for step, count in steps:
        if step == "feed":
            backlog.feed(now, now + count)
            waiting |= set(range(now, now + count))
        if step == "progress":
            through = min(now, through + count)
            backlog.progress(through)
            waiting = {sample for sample in waiting if sample >= through}
        else:
            now += count
        assert backlog.samples == len(waiting)


def test_lag_is_reported_once_a_second_and_only_if_it_changed():
    lag = LagReporter(100.0)
    assert lag.next(5 * SAMPLE_RATE, 100.9) is None
    assert lag.next(5 * SAMPLE_RATE, 101.0) == Lag(5.0)
    assert lag.next(9 * SAMPLE_RATE, 101.9) is None
    assert lag.next(5 * SAMPLE_RATE + 1000, 102.5) is None
    assert lag.next(4 * SAMPLE_RATE, 102.6) == Lag(4.0)


def test_a_lag_of_zero_is_reported_too():
    lag = LagReporter(0.0)
    assert lag.next(0, 10.0) is None
    assert lag.next(SAMPLE_RATE, 20.0) == Lag(1.0)
    assert lag.next(0, 30.0) == Lag(0.0)


async def test_a_dictionary_is_applied_before_words_are_committed(engine: CountingEngine) -> None:
    """The transcript, its segments and the words are the same text; none waits beyond a pause."""
    own = Replacements.of({"w2 w1": "both", "w4": "four"})
    service = Service(engine, VoiceDetector(LoudnessModel()), Replacements.of({"w4": "IV"}))
    session = service.open(SessionOptions(PCM, GateOptions(), replacements=own))
    await session.push(pcm(np.concatenate([tone(2.2), silence(3), tone(3.2)])))
    await session.stop()
    events = [event async for event in session.events()]
    words = [word for event in of(Words, events) for word in event.words]
    assert [word.text.strip() for word in words] == ["w1", "w2", "w3", "four", "w5", "w6"]
    assert [word.original for word in words] == [None, None, None, "w4", None, None]
    assert [segment.text.strip() for segment in of(SegmentClosed, events)] == [
        *("w1 w2", "w3 four w5 w6"),
    ]
    assert session.text == "w1 w2 w3 four w5 w6"


async def test_messages_from_a_thread_keep_their_order(
    service: Service, engine: CountingEngine
) -> None:
    session = service.open(OPEN, outbox=Outbox(30_000))
    sent = [Committed((Word(f" {n}", n, n + 1),)) for n in range(20_001)]
    await asyncio.to_thread(lambda: [engine.streams[-1].sink(message) for message in sent])
    await session.stop()
    events = [event async for event in session.events()]
    words = [word for event in of(Words, events) for word in event.words]
    assert [word.start for word in words] == list(range(20_001))
    await service.aclose()


def test_a_message_for_a_closed_loop_is_no_error(service: Service, engine: CountingEngine) -> None:
    async def begin() -> Session:
        return service.open(OPEN)

    asyncio.run(begin())
    engine.streams[0].sink(Progressed(1))
