"""Recorded sessions, replayed: every event comes again, in its order, however the audio comes."""

from __future__ import annotations

import asyncio
import json
import stat
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock_engine import ClockEngine
from support.counting import OPEN, PCM, LoudnessModel, of, pcm, silence, tone
from support.examples import examples

from voxlive.engines import load_engine, recording
from voxlive.engines.contract import Engine, EngineOptions
from voxlive.engines.recording import AUDIO, LOG, RecordingFolder
from voxlive.streaming import recovery
from voxlive.streaming.events import (
    Draft,
    Event,
    Recovered,
    SegmentClosed,
    SessionClosed,
    SpeechStopped,
    Words,
)
from voxlive.streaming.intake import SessionOptions
from voxlive.streaming.service import Service
from voxlive.vad.detector import VoiceDetector
from voxlive.vad.gate import GateOptions

SPANS = st.lists(st.tuples(st.booleans(), st.integers(0, 30_000)), min_size=1, max_size=8)
GATED = SessionOptions(PCM, GateOptions(), stall_s=60)
SPEECH = pcm(np.concatenate([tone(1.7), silence(1), tone(0.9), silence(0.2)]))


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(recovery, "_RETRY_S", 0.001)


async def events_of(
    engine: Engine,
    parts: list[bytes],
    piece: int,
    options: SessionOptions = GATED,
    recordings: RecordingFolder | None = None,
) -> list[Event]:
    """A session of these parts in pieces of so many bytes, with a flush after each but the last."""
    service = Service(engine, VoiceDetector(LoudnessModel()), recordings=recordings)
    session = service.open(options)

    async def talk() -> None:
        for number, part in enumerate(parts):
            if number:
                await session.flush(str(number))
            for at in range(0, len(part), piece):
                await session.push(part[at : at + piece])
                await asyncio.sleep(0)
        await session.stop()

    talking = asyncio.create_task(talk())
    async with asyncio.timeout(60):  # or the whole run waits for a replay that has stopped
        events = [event async for event in session.events()]
    await talking
    await service.aclose()
    return events


def record(
    folder: Path,
    parts: list[bytes],
    piece: int,
    options: SessionOptions = GATED,
    engine: Engine | None = None,
) -> list[Event]:
    recordings = RecordingFolder(folder)
    events = asyncio.run(
        events_of(engine or ClockEngine(), parts, piece, options, recordings=recordings)
    )
    recordings.close()
    return events


def replay(
    folder: Path, parts: list[bytes], piece: int, options: SessionOptions = GATED, faults: str = ""
) -> list[Event]:
    engine = load_engine(f"replay:{folder}{faults}", EngineOptions(max_sessions=1))
    events = asyncio.run(events_of(engine, parts, piece, options))
    assert engine.in_use == 0
    return events


def comparable(events: list[Event]) -> list[Event]:
    """But for the samples received by the time that an engine answered: that is a matter of pace"""
    return [
        replace(event, received=None) if isinstance(event, SegmentClosed) else event
        for event in events
    ]


def text(events: list[Event]) -> str:
    return "".join(event.text for event in of(Words, events))


@examples(40)
@given(
    SPANS,
    st.lists(st.integers(1, 40_000), max_size=4),
    st.integers(1, 40_000),
    st.integers(200, 40_000),
    st.sets(st.integers(1, 60), max_size=2),
    st.booleans(),
)
def test_every_event_comes_again_in_its_order_whatever_the_pieces(
    spans: list[tuple[bool, int]],
    cuts: list[int],
    recorded_piece: int,
    piece: int,
    deaths: set[int],
    gate: bool,
) -> None:
    data = pcm(np.concatenate([np.full(n, 0.5 * loud, np.float32) for loud, n in spans]))
    ends = [0, *sorted(2 * cut for cut in cuts if 2 * cut < len(data)), len(data)]
    parts = [data[start:end] for start, end in pairwise(ends)]
    options = GATED if gate else replace(GATED, gate=None)
    with tempfile.TemporaryDirectory() as folder:
        recorded_piece = max(200, recorded_piece)
        before = record(Path(folder), parts, recorded_piece, options, ClockEngine(deaths))
        after = replay(Path(folder), parts, piece, options)
    assert comparable(after) == comparable(before)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[Path, list[Event]]:
    folder = tmp_path_factory.mktemp("recordings")
    return folder, record(folder, [SPEECH], 3200)


def test_what_is_recorded(recorded):
    folder, events = recorded
    [session] = folder.iterdir()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (session, *session.iterdir())}
    assert modes == {session.name: 0o700, LOG: 0o600, AUDIO: 0o600}
    assert (session / AUDIO).read_bytes() == SPEECH
    header, *lines = map(json.loads, (session / LOG).read_text().splitlines())
    assert session.name.endswith(header["session"])
    assert header["options"]["audio"] == {"encoding": "s16le", "rate": 16_000, "channels": 1}
    assert sum(line.get("audio", 0) for line in lines) == len(SPEECH)
    assert [line["t"] for line in lines] == sorted(line["t"] for line in lines)
    words = [word[0] for line in lines for word in line.get("words", ())]
    assert "".join(words).strip() == text(events)
    assert lines[-1]["end"] == len(SPEECH) // 2


def test_other_audio_gets_the_words_by_the_clock(recorded):
    """Each pause and the end have an answer, with the words from before it."""
    folder, events = recorded
    recognised = [word for event in of(Words, events) for word in event.words]
    other = pcm(np.concatenate([silence(0.4), tone(0.8), silence(1.0), tone(0.4)]))
    replayed = replay(folder, [other], 3200)
    assert [word for event in of(Words, replayed) for word in event.words] == [
        word for word in recognised if word.start < len(other) // 2
    ]
    assert len(of(SegmentClosed, replayed)) == len(of(SpeechStopped, replayed)) == 2
    assert isinstance(replayed[-1], SessionClosed)
    # Nothing is held back from those who send more than was recorded, or flush in mid-word.
    longer = replay(folder, [SPEECH + pcm(silence(3))], 3200)
    assert text(longer) == text(events)
    flushed = replay(folder, [SPEECH[:20_000], SPEECH[20_000:]], 3200)
    assert text(flushed) == text(events)


def test_a_backlog_of_other_audio_goes_on(recorded):
    """A session takes no more than 30 s of audio ahead of an engine."""
    folder, events = recorded
    minutes = pcm(tone(70))
    assert text(replay(folder, [minutes], 1 << 16, OPEN)) == text(events)


def test_an_engine_that_is_killed_on_demand_is_survived(recorded):
    folder, events = recorded
    died = replay(folder, [SPEECH], 3200, faults=",kill-at=1.5s")
    [recovered] = of(Recovered, died)
    assert recovered.at == 0
    assert text(died) == text(events)
    assert [replace(one, received=None) for one in of(SegmentClosed, died)] == [
        replace(one, received=None) for one in of(SegmentClosed, events)
    ]


async def test_a_slot_that_is_given_back_meanwhile_costs_nothing(recorded):
    """In a silence there is nothing to recognise again; in speech there is."""
    folder, events = recorded
    engine = load_engine(f"replay:{folder}", EngineOptions(max_sessions=1))
    service = Service(engine, VoiceDetector(LoudnessModel()))
    for cut in (2 * int(2.5 * 16_000), 2 * int(1.2 * 16_000)):
        session = service.open(GATED)
        await session.push(SPEECH[:cut])
        while session.waiting or session.received < cut // 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        session.suspend()
        assert session.release()
        assert engine.in_use == 0
        session.resume()
        await session.push(SPEECH[cut:])
        await session.stop()
        async with asyncio.timeout(60):
            got = [event async for event in session.events()]
        assert text(got) == text(events)
        assert session.received == session.fed + session.skipped == len(SPEECH) // 2
        assert [one.text for one in of(SegmentClosed, got)] == [
            one.text for one in of(SegmentClosed, events)
        ]
    await service.aclose()


def test_messages_that_are_delayed_on_demand_come_after_the_speech_that_they_followed(recorded):
    """In the recording the first words come in mid-speech."""
    folder, events = recorded
    late = replay(folder, [SPEECH], 3200, faults=",delay=300ms")
    assert text(late) == text(events)

    def first(kind: type, of_these: list[Event]) -> int:
        return next(at for at, event in enumerate(of_these) if isinstance(event, kind))

    assert first(Words, events) < first(SpeechStopped, events)
    assert first(Words, late) > first(SpeechStopped, late)
    assert len(of(Draft, late)) == len(of(Draft, events))


# Recording never harms a session.


@pytest.mark.parametrize("bound", ["MAX_SESSION", "MAX_FOLDER", "MAX_WAITING"])
def test_a_bound_ends_the_recording_alone(bound, recorded, monkeypatch, tmp_path, caplog):
    _, events = recorded
    monkeypatch.setattr(recording, bound, 50_000)
    assert comparable(record(tmp_path, [SPEECH], 3200)) == comparable(events)
    [warning] = caplog.messages
    assert "ends early, its session goes on" in warning
    # What there is can be replayed.
    [session] = tmp_path.iterdir()
    assert "cut" in json.loads((session / LOG).read_text().splitlines()[-1])
    assert len((session / AUDIO).read_bytes()) < 50_000
    assert text(events).startswith(text(replay(tmp_path, [SPEECH], 3200)))


def test_a_full_disk_ends_the_recording_alone(recorded, monkeypatch, tmp_path, caplog):
    _, events = recorded
    full = Path("/dev/full")
    monkeypatch.setattr(recording, "_create", lambda _path: full.open("wb", 0))
    assert comparable(record(tmp_path, [SPEECH], 3200)) == comparable(events)
    [warning] = caplog.messages
    assert "No space left on device" in warning


def test_a_folder_that_is_gone_ends_the_recording_alone(recorded, tmp_path, caplog):
    _, events = recorded
    recordings = RecordingFolder(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    again = asyncio.run(events_of(ClockEngine(), [SPEECH], 3200, recordings=recordings))
    recordings.close()
    assert comparable(again) == comparable(events)
    assert "No such file or directory" in caplog.text
