"""Sessions with several sources, on an engine that commits a word for every second."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counting import CountingEngine, LoudnessModel, of, pcm, silence, tone
from support.examples import examples

from voxlive.engines.contract import Failed
from voxlive.errors import BadAudio, EngineFull, UnsupportedOption
from voxlive.streaming.events import (
    Draft,
    Event,
    Flushed,
    Lag,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SessionWarning,
    SpeechStarted,
    Words,
)
from voxlive.streaming.ingest.formats import AudioFormat, ChannelDecoder
from voxlive.streaming.intake import SessionOptions
from voxlive.streaming.queues import Outbox
from voxlive.streaming.service import Service
from voxlive.streaming.sources import EventMerger
from voxlive.vad.detector import VoiceDetector
from voxlive.values import SAMPLE_RATE, Samples, Word

NAMES = ("me", "them")
STEREO = AudioFormat("s16le", SAMPLE_RATE, 2)
OPTIONS = SessionOptions(STEREO, stall_s=60, sources=NAMES, suppress_leaks=False)
SPANS = st.lists(st.tuples(st.booleans(), st.integers(0, 20_000)), max_size=5)


def channel(spans: list[tuple[bool, int]]) -> Samples:
    parts = [np.full(n, 0.5 * loud, np.float32) for loud, n in spans]
    return np.concatenate([np.zeros(0, np.float32), *parts])


def interleaved(*channels: Samples) -> bytes:
    length = max(map(len, channels))
    padded = [np.pad(one, (0, length - len(one))) for one in channels]
    return pcm(np.stack(padded, axis=1))


@examples(30)
@given(SPANS, SPANS, st.lists(st.integers(1, 50_000), max_size=6), st.integers(0, 2))
def test_every_sample_of_every_source_is_fed_or_skipped_once(
    me: list[tuple[bool, int]], them: list[tuple[bool, int]], cuts: list[int], flushes: int
) -> None:
    data = interleaved(channel(me), channel(them))
    length = len(data) // 4

    async def run() -> tuple[list[Event], CountingEngine, list[int]]:
        engine = CountingEngine(2)
        service = Service(engine, VoiceDetector(LoudnessModel()))
        session = service.open_sources(OPTIONS)

        async def talk() -> None:
            rest = data
            for number, cut in enumerate(cuts):
                await session.push(rest[:cut])
                rest = rest[cut:]
                if number < flushes:
                    await session.flush("again")
            await session.push(rest)
            await session.stop()

        talking = asyncio.create_task(talk())
        events = [event async for event in session.events()]
        await talking
        await service.aclose()
        return events, engine, [one.fed + one.skipped for one in session.sessions]

    events, engine, counts = asyncio.run(run())
    assert counts == [length, length]
    assert events[-1] == SessionClosed(length)
    assert len(of(SessionClosed, events)) == 1
    assert len(of(Flushed, events)) == min(flushes, len(cuts))
    samples = np.frombuffer(data, "<i2").reshape(-1, 2) / 32768
    for stream, spoken in zip(engine.streams, samples.T, strict=True):
        for at, audio in stream.fed:
            np.testing.assert_allclose(audio, spoken[at : at + len(audio)], atol=1e-4)
    for name in NAMES:
        mine = [event for event in events if getattr(event, "source", "") == name]
        deltas = "".join(event.text for event in of(Words, mine))
        assert deltas == "".join(event.text for event in of(SegmentClosed, mine))
    idents = [event.id for event in of(SegmentClosed, events)]
    assert len({*idents}) == len(idents)


async def test_a_session_takes_a_slot_for_each_source_or_none() -> None:
    engine = CountingEngine(3)
    service = Service(engine, VoiceDetector(LoudnessModel()))
    first = service.open_sources(OPTIONS)
    assert engine.in_use == 2
    with pytest.raises(EngineFull):
        service.open_sources(OPTIONS)
    assert engine.in_use == 2
    await first.close()
    assert engine.in_use == 0
    await service.aclose()


async def test_the_failure_of_one_source_ends_the_session_once() -> None:
    engine = CountingEngine(2)
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open_sources(OPTIONS)
    await session.push(interleaved(tone(1.5), silence(1.5)))
    events = session.events()
    first = await anext(events)
    assert first == SpeechStarted(0, "me")
    for stream in engine.streams:
        stream.sink(Failed("bad_engine", "it broke"))
    rest = [event async for event in events]
    assert [event.code for event in of(SessionError, rest)] == ["bad_engine"]
    assert isinstance(rest[-1], SessionClosed)
    assert engine.in_use == 0
    await session.close()
    await service.aclose()


async def test_a_shutdown_is_reported_once_and_brings_the_last_words_of_all() -> None:
    engine = CountingEngine(2)
    service = Service(engine, VoiceDetector(LoudnessModel()))
    session = service.open_sources(OPTIONS)
    await session.push(interleaved(tone(1.2), tone(1.2)))
    await service.aclose()
    events = [event async for event in session.events()]
    assert [event.code for event in of(SessionError, events)] == ["shutting_down"]
    assert {event.source for event in of(Words, events)} == {*NAMES}
    assert isinstance(events[-1], SessionClosed)


async def test_half_a_frame_at_the_end_is_a_warning() -> None:
    service = Service(CountingEngine(2), VoiceDetector(LoudnessModel()))
    session = service.open_sources(OPTIONS)
    await session.push(interleaved(tone(0.1), tone(0.1)) + b"\0\0")
    await session.stop()
    events = [event async for event in session.events()]
    assert [event.code for event in of(SessionWarning, events)] == ["cut_off"]
    with pytest.raises(UnsupportedOption):
        await service.reconfigure(session, OPTIONS, "a")
    await service.aclose()


@pytest.mark.parametrize(
    ("audio", "names"),
    [
        (STEREO, ("me",)),
        (STEREO, ("me", "me")),
        (STEREO, ("a", "b", "c")),
        (AudioFormat("s16le"), ("me",)),
        (AudioFormat("container"), ("me", "them")),
    ],
)
def test_sources_go_with_the_channels(audio: AudioFormat, names: tuple[str, ...]) -> None:
    with pytest.raises(BadAudio):
        SessionOptions(audio, sources=names)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_channels_are_resampled_apart_and_the_same_for_every_chunking(rate: int) -> None:
    time = np.arange(rate) / rate
    tones = np.stack([0.3 * np.sin(2 * np.pi * hz * time) for hz in (440, 1000)], axis=1)
    data = pcm(tones.astype(np.float32))
    whole = ChannelDecoder(AudioFormat("s16le", rate, 2))
    at_once = np.concatenate([whole.push(data), whole.finish()])
    cut = ChannelDecoder(AudioFormat("s16le", rate, 2))
    pieces = [cut.push(data[at : at + 777]) for at in range(0, len(data), 777)]
    np.testing.assert_array_equal(np.concatenate([*pieces, cut.finish()]), at_once)
    assert abs(len(at_once) - SAMPLE_RATE) <= 1
    peaks = np.abs(np.fft.rfft(at_once[:SAMPLE_RATE], axis=0)).argmax(axis=0)
    assert [round(float(peak), -1) for peak in peaks] == [440, 1000]


async def test_a_draft_replaces_that_of_its_own_source_only() -> None:
    outbox: Outbox[None] = Outbox()
    for event in (Draft(0, "a", "me"), Draft(0, "ab", "me"), Draft(1, "x", "them")):
        outbox.put(event)
    outbox.put(Lag(1.0, "them"))
    outbox.put(Lag(2.0, "me"))
    entries = [entry[1] for entry in iter(outbox.pop, None)]
    assert entries == [
        Draft(0, "ab", "me"), Draft(1, "x", "them"), Lag(1.0, "them"), Lag(2.0, "me")
    ]  # fmt: skip


def test_flushes_are_over_when_they_are_in_all_sources_and_in_order() -> None:
    sent: list[Event] = []
    ended: list[bool] = []

    def emit(event: Event, *, keep: bool = False) -> bool:
        sent.append(event)
        return True

    merger = EventMerger(NAMES, emit, lambda *_: ended.append(True))
    merger.expect(Flushed("1"))
    merger.expect(Flushed("2"))
    merger.on_event("me", Flushed("1"), keep=False)
    merger.on_event("me", Flushed("2"), keep=False)
    assert sent == []
    words = Words(3, (Word("a", 0, 1),))
    merger.on_event("them", words, keep=False)
    merger.on_event("them", Flushed("1"), keep=False)
    assert sent == [Words(3, words.words, "them"), Flushed("1")]
    merger.on_event("them", Flushed("2"), keep=False)
    assert sent[-1] == Flushed("2")
    merger.on_closed("me", (SessionClosed(5),))
    assert not ended
    merger.on_closed("them", (SessionClosed(5),))
    assert ended == [True]
