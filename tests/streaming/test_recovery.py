"""Sessions whose engine fails in the middle: what they get is what they would have got anyway."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock_engine import DIED, ClockEngine
from support.counting import OPEN, PCM, LoudnessModel, of, pcm, silence, tone
from support.examples import examples

from voxlive.engines.contract import (
    Committed,
    Failed,
    LanguageFound,
    StreamOptions,
)
from voxlive.errors import EngineFull
from voxlive.streaming import recovery
from voxlive.streaming import service as service_module
from voxlive.streaming.events import (
    Draft,
    Event,
    Flushed,
    LanguageDetected,
    Recovered,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
    Words,
)
from voxlive.streaming.intake import SessionOptions
from voxlive.streaming.recovery import FedAudio, Mark, StreamJournal
from voxlive.streaming.service import Service
from voxlive.vad.detector import VoiceDetector
from voxlive.vad.gate import GateOptions
from voxlive.values import SAMPLE_RATE, Word

SPANS = st.lists(st.tuples(st.booleans(), st.integers(0, 30_000)), min_size=1, max_size=8)


async def events_of(
    engine: ClockEngine,
    data: bytes,
    cuts: list[int],
    options: SessionOptions,
    successors: Sequence[ClockEngine] = (),
) -> list[Event]:
    """A session of ``data`` in these pieces, with a flush after each but the last.

    After each piece the next one of ``successors`` replaces the engine.
    """
    remaining = list(successors)
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open(options)

    async def talk() -> None:
        rest = data
        for number, cut in enumerate(cuts):
            await session.push(rest[:cut])
            await asyncio.sleep(0)
            rest = rest[cut:]
            if remaining:
                await service.replace_engine(remaining.pop(0))
                await asyncio.sleep(0)
            await session.flush(str(number))
        await session.push(rest)
        await session.stop()

    talking = asyncio.create_task(talk())
    events = [event async for event in session.events()]
    await talking
    await service.aclose()
    assert session.received == session.fed + session.skipped == len(data) // 2
    assert [one.in_use for one in (engine, *successors)] == [0] * (1 + len(successors))
    return events


def kept(events: list[Event]) -> list[list[object]]:
    """What no failure of an engine may change, in its order."""
    return [
        [word for event in of(Words, events) for word in event.words],
        # What was received by then depends on when it closes.
        [replace(event, received=None) for event in of(SegmentClosed, events)],
        [event for event in events if isinstance(event, Flushed | UtteranceEnded)],
        [event for event in events if isinstance(event, SpeechStarted | SpeechStopped)],
        of(SessionError, events),
        of(SessionClosed, events),
    ]


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(recovery, "_RETRY_S", 0.001)


@examples(60)
@given(
    SPANS,
    st.lists(st.integers(1, 40_000), max_size=5),
    st.sets(st.integers(1, 60), max_size=recovery.MAX_FAILURES),
    st.integers(0, 3),
    st.booleans(),
)
def test_words_times_and_segments_are_those_of_an_engine_that_lives(
    spans: list[tuple[bool, int]], cuts: list[int], deaths: set[int], refusals: int, gate: bool
) -> None:
    audio = np.concatenate([np.full(n, 0.5 * loud, np.float32) for loud, n in spans])
    options = SessionOptions(PCM, GateOptions() if gate else None, stall_s=60)
    engine = ClockEngine(deaths, refusals)
    lived, died = (
        asyncio.run(events_of(engine, pcm(audio), cuts, options))
        for engine in (ClockEngine(), engine)
    )
    assert kept(died) == kept(lived)
    assert len(of(Recovered, died)) == len(engine.streams) - 1


@examples(60)
@given(
    SPANS,
    st.lists(st.integers(1, 40_000), min_size=1, max_size=5),
    st.integers(1, 5),
    st.sets(st.integers(1, 60), max_size=1),
    st.sampled_from([0, 10]),
    st.booleans(),
)
def test_a_planned_change_of_the_engine_changes_no_word(
    spans: list[tuple[bool, int]],
    cuts: list[int],
    changes: int,
    deaths: set[int],
    move_s: float,
    gate: bool,
) -> None:
    """At once or at the next pause, also where an engine dies meanwhile."""
    audio = np.concatenate([np.full(n, 0.5 * loud, np.float32) for loud, n in spans])
    options = SessionOptions(PCM, GateOptions() if gate else None, stall_s=60)
    successors = [ClockEngine(deaths if n == 0 else set()) for n in range(changes)]
    lived = asyncio.run(events_of(ClockEngine(), pcm(audio), cuts, options))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(service_module, "MOVE_S", move_s)
        moved = asyncio.run(
            events_of(ClockEngine(deaths), pcm(audio), cuts, options, successors[: len(cuts)])
        )
    assert kept(moved) == kept(lived)


async def test_sessions_pass_to_another_engine_at_a_pause_and_the_one_before_ends(monkeypatch):
    monkeypatch.setattr(service_module, "_LOOK_S", 0.001)
    old, new = ClockEngine(), ClockEngine()
    service = Service(old, VoiceDetector(LoudnessModel()))
    session = service.open(OPEN)
    await session.push(pcm(tone(1)))
    await asyncio.sleep(0.05)
    assert await service.replace_engine(new) == 0
    # In mid-speech it stays, and its slot is kept for it.
    assert (old.in_use, new.in_use, old.ended.is_set()) == (1, 0, False)
    other = service.open(OPEN)
    with pytest.raises(EngineFull):
        service.open(OPEN)
    await session.flush("here")
    assert await asyncio.to_thread(old.ended.wait, 30)
    await session.push(pcm(tone(1)))
    await asyncio.sleep(0.05)
    # Nothing of before the flush is recognised again.
    [(at, _)] = new.streams[-1].fed
    assert (at, new.in_use) == (SAMPLE_RATE, 2)
    await session.stop()
    events = [event async for event in session.events()]
    assert session.text == "0 1 2 3"
    assert of(SessionError, events) == []
    await other.close()
    await service.aclose()


async def test_a_session_that_the_next_engine_refuses_stays_with_its_own(monkeypatch):
    monkeypatch.setattr(service_module, "_LOOK_S", 0.001)
    old, new = ClockEngine(), ClockEngine()
    new.info = replace(new.info, languages=("en",))
    service = Service(old, VoiceDetector(LoudnessModel()))
    german = service.open(replace(OPEN, stream=StreamOptions("de")))
    assert await service.replace_engine(new) == 1
    await german.push(pcm(tone(1)))
    await asyncio.sleep(0.05)
    assert (old.in_use, new.in_use, old.ended.is_set()) == (1, 0, False)
    await german.stop()
    assert [event async for event in german.events()][-1] == SessionClosed(SAMPLE_RATE)
    assert german.text == "0 1"
    assert await asyncio.to_thread(old.ended.wait, 30)
    await service.aclose()
    assert new.ended.is_set()


async def test_the_client_learns_what_is_recognised_again_and_gets_no_word_twice() -> None:
    engine = ClockEngine(deaths={4})
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open(OPEN)
    for _ in range(6):
        await session.push(pcm(tone(1)))
        await asyncio.sleep(0.01)
    await session.stop()
    events = [event async for event in session.events()]
    [died] = of(Recovered, events)
    assert died == Recovered(0)
    assert [at for at, _ in engine.streams[1].fed] == [n * SAMPLE_RATE for n in range(6)]
    at = events.index(died)
    assert session.text == "".join(str(n) if n == 0 else f" {n}" for n in range(12))
    before, after = (
        [w.text for e in of(Words, part) for w in e.words] for part in (events[:at], events[at:])
    )
    assert before == ["0", *(f" {n}" for n in range(1, 6))]
    assert after == [f" {n}" for n in range(6, 12)]
    # A draft with words in it that are committed would show them twice.
    assert events[at - 1] == Draft(0, "")
    assert {event.text for event in of(Draft, events[at:])} <= {
        "",
        *(f" {n}?" for n in range(6, 13)),
    }
    await service.aclose()


async def test_a_closed_segment_is_not_recognised_again() -> None:
    engine = ClockEngine()
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open(OPEN)
    await session.push(pcm(tone(2)))
    await session.flush("a")
    await asyncio.sleep(0.01)
    await session.push(pcm(tone(1)))
    await asyncio.sleep(0.01)
    engine.streams[0].sink(DIED)
    await session.stop()
    events = [event async for event in session.events()]
    assert of(Recovered, events) == [Recovered(2 * SAMPLE_RATE)]
    assert [at for at, _ in engine.streams[1].fed] == [2 * SAMPLE_RATE]
    assert [segment.text for segment in of(SegmentClosed, events)] == ["0 1 2 3", " 4 5"]
    await service.aclose()


async def test_what_an_engine_sends_after_its_failure_counts_no_more() -> None:
    engine = ClockEngine()
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open(OPEN)
    await session.push(pcm(tone(1)))
    await asyncio.sleep(0.01)
    engine.streams[0].sink(DIED)
    engine.streams[0].sink(Committed((Word(" late", 0, 1),)))
    await session.stop()
    async for _ in session.events():
        pass
    assert session.text == "0 1"
    await service.aclose()


async def test_the_language_that_was_found_stays() -> None:
    engine = ClockEngine()
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open(OPEN)
    engine.streams[0].sink(LanguageFound("de", 0.9))
    await asyncio.sleep(0.01)
    engine.streams[0].sink(DIED)
    await asyncio.sleep(0.05)
    assert engine.streams[1].options.language == "de"
    engine.streams[1].sink(LanguageFound("en", 0.8))
    await session.stop()
    events = [event async for event in session.events()]
    assert of(LanguageDetected, events) == [LanguageDetected("de", 0.9)]
    await service.aclose()


async def test_audio_that_an_engine_fails_of_ends_the_session_with_the_error() -> None:
    engine = ClockEngine(deaths=set(range(1, 100)))
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open(OPEN)
    await session.push(pcm(tone(1.5)))
    events = [event async for event in session.events()]
    assert len(engine.streams) == 1 + recovery.MAX_FAILURES
    assert events[-2:] == [SessionError(DIED.code, DIED.message), SessionClosed(24_000)]
    await service.aclose()


async def test_failures_far_apart_are_counted_from_the_first_again() -> None:
    engine = ClockEngine(deaths=set(range(2, 2000, 13)))
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open(SessionOptions(PCM, GateOptions()))
    for _ in range(30):
        await session.push(pcm(np.concatenate([tone(1), silence(1)])))
        await asyncio.sleep(0.005)
    await session.stop()
    events = [event async for event in session.events()]
    assert not of(SessionError, events)
    assert len(of(Recovered, events)) > 2 * recovery.MAX_FAILURES
    await service.aclose()


async def test_a_session_waits_for_an_engine_so_long_and_no_longer(monkeypatch) -> None:
    monkeypatch.setattr(recovery, "RECOVERY_S", 0.05)
    engine = ClockEngine(deaths={1}, refusals=10**9)
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open(OPEN)
    await session.push(pcm(tone(1)))
    events = [event async for event in session.events()]
    assert events[-2] == SessionError(DIED.code, DIED.message)
    await service.aclose()


async def test_what_a_stream_itself_did_wrong_is_not_repeated() -> None:
    engine = ClockEngine()
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open(OPEN)
    engine.streams[0].sink(Failed("overrun", "more than 30 s of audio wait"))
    events = [event async for event in session.events()]
    assert [event.code for event in of(SessionError, events)] == ["overrun"]
    assert len(engine.streams) == 1
    await service.aclose()


async def test_a_session_may_end_while_there_is_no_engine() -> None:
    engine = ClockEngine(deaths={1}, refusals=10**9)
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open(OPEN)
    await session.push(pcm(tone(1)))
    await asyncio.sleep(0.01)
    await session.close()
    assert [type(event) async for event in session.events()][-1] is SessionClosed
    await service.aclose()


@pytest.mark.parametrize("spoken_s", [0, 1.3])
@pytest.mark.parametrize("silent_s", [0, 2])
async def test_a_session_without_a_slot_ends_with_its_last_words(spoken_s, silent_s) -> None:
    """As a server ends, or a client does not come back in time."""
    options = SessionOptions(PCM, GateOptions(min_silence_ms=64))
    data = pcm(np.concatenate([silence(1), tone(spoken_s), silence(silent_s)]))
    expected = kept(await events_of(ClockEngine(), data, [], options))
    engine = ClockEngine()
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open(options)
    await session.push(data)
    while session.received < len(data) // 2:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    session.suspend()
    while not session.release():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert engine.in_use == 0
    async with asyncio.timeout(60):
        await session.drain()
        assert kept([event async for event in session.events()]) == expected
    assert engine.in_use == 0
    await service.aclose()


ENTRIES = st.lists(st.one_of(st.integers(1, 50), st.just("mark")), max_size=60)


@given(ENTRIES, st.integers(0, 100), st.sets(st.integers(0, 60)))
def test_the_journal_has_what_follows_the_last_mark_reached(
    entries: list[int | str], most: int, reached: set[int]
) -> None:
    """Marks are all there; of the audio the newest, at most ``most`` samples beside one entry."""
    journal, wanted, at = StreamJournal(most), [], 0
    for number, entry in enumerate(entries):
        if entry == "mark":
            wanted.append(Mark(number, flush=True))
            journal.add(wanted[-1])
        else:
            wanted.append((at, at + entry))
            journal.add(FedAudio(np.zeros(entry, np.float32), at))
            at += entry
        if number in reached and entry == "mark":
            journal.reached(number)
            wanted.clear()
        while sum(w[1] - w[0] for w in wanted if not isinstance(w, Mark)) > most:
            # By its place: a mark equals a pair.
            del wanted[next(n for n, w in enumerate(wanted) if not isinstance(w, Mark))]
        found = [journal[n] for n in range(journal.first, journal.end)]
        seen = [
            entry if isinstance(entry, Mark) else (entry.at, entry.at + len(entry.audio))
            for entry in found
            if isinstance(entry, Mark) or len(entry.audio)
        ]
        assert seen == wanted
