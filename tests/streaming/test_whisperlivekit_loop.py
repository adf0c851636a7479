"""Our online processor under WhisperLiveKit's ``AudioProcessor``: its loop, calls and lines."""

import asyncio
from collections.abc import Iterator
from types import ModuleType

import pytest
from support.clips import Clip, clip
from support.whisperlivekit import TranscriptionEngine, audio_processors
from support.wire import s16le

from voxlive.streaming.options import EngineOptions
from voxlive.streaming.pocketsphinx import load
from voxlive.streaming.pocketsphinx.engine import PocketSphinxEngine


@pytest.fixture(scope="module")
def engine() -> Iterator[PocketSphinxEngine]:
    engine = load("pocketsphinx", EngineOptions(max_sessions=2))
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def theirs() -> Iterator[ModuleType]:
    with audio_processors() as module:
        yield module


class Driven:
    """One session of its loop and all the updates of it."""

    def __init__(self, theirs: ModuleType, engine: PocketSphinxEngine) -> None:
        self.session = theirs.AudioProcessor(
            transcription_engine=TranscriptionEngine(engine), language="en", mode="full"
        )
        self.updates: list = []
        self._news = asyncio.Event()

    async def hear(self) -> None:
        async for update in await self.session.create_tasks():
            self.updates.append(update)
            self._news.set()

    async def send(self, audio: bytes) -> None:
        """In chunks of 100 ms."""
        for at in range(0, len(audio), 3200):
            await self.session.process_audio(audio[at : at + 3200])
            await asyncio.sleep(0)

    async def until_drafted(self, word: str) -> None:
        while not any(word in update.buffer_transcription for update in self.updates):
            self._news.clear()
            await self._news.wait()


async def drive(theirs: ModuleType, engine: PocketSphinxEngine, spoken: Clip, between=None) -> list:
    """All updates of one session; ``between`` is done after 2.5 s of the clip."""
    driven = Driven(theirs, engine)
    hearing = asyncio.create_task(driven.hear())
    audio = s16le(spoken.samples)
    await driven.send(audio[:80_000])
    if between:
        await between(driven)
    await driven.send(audio[80_000:])
    await driven.session.process_audio(b"")
    try:
        await hearing
        return driven.updates
    finally:
        await driven.session.cleanup()


def words(updates: list) -> list[str]:
    return " ".join(line.text for line in updates[-1].lines if line.text).split()


async def test_every_sentence_comes_out_once_with_its_time(theirs, engine):
    spoken = clip("pauses")
    updates = await drive(theirs, engine, spoken)
    assert engine.in_use == 0
    found = words(updates)
    truth = spoken.text.lower().replace(".", "").replace(",", "").split()
    assert len(set(found) & set(truth)) > 0.7 * len(set(truth))
    assert abs(len(found) - len(truth)) < 0.2 * len(truth)
    # A pause of ten seconds parts lines, shorter ones do not.
    lines = [line for line in updates[-1].lines if line.text]
    assert [line.speaker for line in updates[-1].lines if not line.text].count(-2) >= 1
    assert len(lines) == 2
    assert lines[0].start == pytest.approx(spoken.sentences[0].start, abs=0.5)
    assert lines[-1].end == pytest.approx(spoken.sentences[-1].end, abs=0.5)
    assert not updates[-1].buffer_transcription
    assert not any(update.error for update in updates)


async def test_drafts_are_its_buffer_while_one_speaks(theirs, engine):
    async def drafted(driven: Driven) -> None:
        await driven.until_drafted("doctor")
        assert not words(driven.updates)

    updates = await drive(theirs, engine, clip("doctor"), drafted)
    assert {"doctor", "results"} <= set(words(updates))
    assert not updates[-1].buffer_transcription


async def test_two_sessions_and_a_new_speaker_lose_nothing(theirs, engine):
    async def changed(driven: Driven) -> None:
        change = theirs.ChangeSpeaker(speaker=2, start=2.5)
        await driven.session.transcription_queue.put(change)

    doctor, train = await asyncio.gather(
        drive(theirs, engine, clip("doctor"), changed), drive(theirs, engine, clip("train"))
    )
    assert {"the", "doctor", "will", "results"} <= set(words(doctor))
    assert {"train", "airport", "ticket", "bags"} <= set(words(train))
    assert engine.in_use == 0
