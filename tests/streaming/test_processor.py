"""The online processor on Whisper: called directly, and by WhisperLiveKit's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from support.clips import Clip, clip
from support.scripted_recogniser import ScriptedRecogniser, spoken
from support.whisperlivekit import TranscriptionEngine, audio_processors
from support.wire import s16le

from voxlive.checkpoints.resolve import resolve
from voxlive.engines import load_apart, load_engine
from voxlive.engines.contract import EngineInfo, EngineOptions, StreamOptions
from voxlive.engines.remote.host import ProcessEngine
from voxlive.engines.utterances.commitment import CommitRule
from voxlive.engines.utterances.engine import UtteranceEngine
from voxlive.engines.utterances.utterance import MAX_WAITING
from voxlive.errors import EngineError, EngineFull
from voxlive.streaming.processor import MAX_BACKLOG, MAX_INSERTED, OnlineProcessor, Token
from voxlive.values import Samples

MESSAGE = " Please leave a message and your telephone number after the tone."


@pytest.fixture(scope="module")
def engine() -> Iterator[UtteranceEngine]:
    engine = load_engine("whisper-tiny.en", EngineOptions(max_sessions=1))
    yield engine
    engine.shutdown()


@pytest.fixture
def processor(engine: UtteranceEngine) -> Iterator[OnlineProcessor]:
    processor = OnlineProcessor(engine)
    yield processor
    processor.close()
    assert engine.in_use == 0


def insert(processor: OnlineProcessor, audio: Samples, at_s: float) -> tuple[float, list[Token]]:
    """All of the audio in chunks, each followed by an iteration; where it ends, and the words."""
    tokens: list[Token] = []
    for start in range(0, len(audio), 4000):
        chunk = audio[start : start + 4000]
        at_s += len(chunk) / 16_000
        processor.insert_audio_chunk(chunk, at_s)
        tokens += processor.process_iter()[0]
    return at_s, tokens


def text_of(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


def test_words_come_once_at_pauses_with_times_of_the_session(processor):
    processor.warmup(np.zeros(16_000, np.float32))
    message, yes = clip("message"), clip("yes")
    end, tokens = insert(processor, message.samples, 0.0)
    last, upto = processor.start_silence()
    tokens += last
    assert text_of(tokens) == MESSAGE
    for token, truth in zip(tokens, message.words, strict=True):
        assert abs(token.start - truth.start) < 0.3  # Whisper begins a first word early
        assert abs(token.end - truth.end) < (0.3 if token is not tokens[-1] else 1.0)
        assert 0 < token.probability <= 1
        assert not token.is_silence()
        assert token.has_punctuation() == (token is tokens[-1])
        assert token.speaker == -1
        assert token.detected_language is None
    assert upto == pytest.approx(end, abs=0.001)
    assert processor.end == upto
    assert len(processor.audio_buffer) == 0
    processor.end_silence(3.0, tokens[-1].end)
    insert(processor, yes.samples, end + 3.0)
    (token,), upto = processor.finish()
    assert token.text == " Yes."
    assert abs(token.start - (end + 3.0 + yes.words[0].start)) < 0.3
    assert upto == pytest.approx(end + 3.0 + yes.duration, abs=0.001)
    assert processor.get_buffer().text == ""


def test_the_draft_is_in_the_buffer_until_its_words_are_committed(processor):
    audio = clip("message").samples
    assert processor.get_buffer() == Token(None, None, "")
    processor.insert_audio_chunk(audio, len(audio) / 16_000)
    assert len(processor.audio_buffer) == len(audio)
    draft = ""
    tokens: list[Token] = []
    while len({*draft.split()} & {*MESSAGE.split()}) <= 5:
        tokens += processor.process_iter()[0]
        draft = text_of(tokens) + processor.get_buffer().text
    tokens += processor.process_iter(is_last=True)[0]
    assert len(processor.audio_buffer) == 0
    assert text_of(tokens) == MESSAGE
    assert processor.get_buffer().text == ""
    assert processor.asr.sep.join(t.text for t in tokens) == MESSAGE


def test_new_speaker_returns_the_words_so_far(processor):
    _, tokens = insert(processor, clip("yes").samples, 0.0)
    assert text_of(tokens + processor.new_speaker(object())[0]) == " Yes."
    assert processor.start_silence()[0] == []


def test_much_audio_at_once_is_taken_at_the_engines_pace():
    """More than may wait in the engine; silence is as long as speech."""
    info = EngineInfo("whisper", "scripted", "cpu", 1, ("en",))
    engine = UtteranceEngine(ScriptedRecogniser(), info, CommitRule(2, 0))
    processor = OnlineProcessor(engine, StreamOptions(drafts=False))
    silence, words = np.zeros(2 * MAX_WAITING, np.float32), spoken(1, 2)
    processor.insert_audio_chunk(silence, len(silence) / 16_000)
    assert processor.process_iter()[0] == []
    assert len(processor.audio_buffer) <= MAX_BACKLOG + 16_000
    assert processor.start_silence() == ([], len(silence) / 16_000)
    processor.insert_audio_chunk(words, (len(silence) + len(words)) / 16_000)
    tokens, upto = processor.finish()
    assert text_of(tokens) == " w1 w2"
    assert upto == (len(silence) + len(words)) / 16_000
    assert engine.in_use == 0
    engine.shutdown()


def test_inserted_audio_has_a_bound(processor):
    half = np.zeros(MAX_INSERTED // 2, np.float32)
    processor.insert_audio_chunk(half, 300)
    processor.insert_audio_chunk(half, 600)
    with pytest.raises(EngineError, match="call process_iter"):
        processor.insert_audio_chunk(half[:1], 600.1)
    assert len(processor.audio_buffer) == MAX_INSERTED


def test_a_chunk_that_overlaps_the_last_one_follows_it(processor):
    chunk = np.zeros(16_000, np.float32)
    processor.insert_audio_chunk(chunk, 1.0)
    processor.insert_audio_chunk(chunk, 1.5)
    assert processor.end == 2.0
    processor.process_iter(is_last=True)


def test_a_full_engine_refuses_and_finish_gives_the_slot_back(engine, processor):
    with pytest.raises(EngineFull):
        OnlineProcessor(engine)
    processor.finish()
    other = OnlineProcessor(engine)
    with pytest.raises(EngineError, match="finished"):
        processor.process_iter()
    other.close()


def test_a_failed_engine_raises():
    engine = load_engine("whisper-tiny.en", EngineOptions(max_sessions=1))
    processor = OnlineProcessor(engine)
    processor.insert_audio_chunk(clip("doctor").samples, 5.0)
    processor.process_iter()
    engine.shutdown()
    with pytest.raises(EngineError) as error:
        processor.finish()
    assert error.value.code == "shutting_down"


@pytest.fixture
def apart() -> Iterator[ProcessEngine]:
    apart = load_apart(resolve("whisper-tiny.en"), EngineOptions(max_sessions=1))
    assert isinstance(apart, ProcessEngine)
    yield apart
    apart.shutdown()


def test_waiting_for_an_engine_without_messages_times_out(apart, paused):
    processor = OnlineProcessor(apart, timeout=0.2)
    paused(apart.pid)
    processor.insert_audio_chunk(clip("yes").samples, clip("yes").duration)
    with pytest.raises(EngineError) as error:
        processor.finish()
    assert error.value.code == "timeout"
    assert apart.in_use == 0


@pytest.fixture(scope="module")
def loop_engine() -> Iterator[UtteranceEngine]:
    """It commits words at pauses: until then they are all in the draft."""
    loop_engine = load_engine("whisper-tiny.en", EngineOptions(max_sessions=2, commit="pause"))
    yield loop_engine
    loop_engine.shutdown()


@pytest.fixture(scope="module")
def theirs() -> Iterator[ModuleType]:
    with audio_processors() as module:
        yield module


class Driven:
    """A session of WhisperLiveKit's loop, with all its updates."""

    def __init__(self, theirs: ModuleType, loop_engine: UtteranceEngine) -> None:
        self.session = theirs.AudioProcessor(
            transcription_engine=TranscriptionEngine(loop_engine),
            language="en",
            mode="full",
        )
        self.updates: list = []
        self._updated = asyncio.Event()

    async def collect(self) -> None:
        async for update in await self.session.create_tasks():
            self.updates.append(update)
            self._updated.set()

    async def send(self, audio: bytes) -> None:
        """In chunks of 100 ms."""
        for at in range(0, len(audio), 3200):
            await self.session.process_audio(audio[at : at + 3200])
            await asyncio.sleep(0)

    async def until_drafted(self, word: str) -> None:
        while not any(word in update.buffer_transcription for update in self.updates):
            self._updated.clear()
            await self._updated.wait()


async def drive(
    theirs: ModuleType,
    loop_engine: UtteranceEngine,
    spoken: Clip,
    between=None,
    after_s: float = 2.5,
) -> list:
    """All updates of one session; ``between`` is done ``after_s`` of the clip."""
    driven = Driven(theirs, loop_engine)
    collecting = asyncio.create_task(driven.collect())
    audio, first = s16le(spoken.samples), int(after_s * 32_000)
    await driven.send(audio[:first])
    if between:
        await between(driven)
    await driven.send(audio[first:])
    await driven.session.process_audio(b"")
    try:
        await collecting
        return driven.updates
    finally:
        await driven.session.cleanup()


def words(updates: list) -> list[str]:
    return " ".join(line.text for line in updates[-1].lines if line.text).split()


async def test_every_sentence_comes_out_once_with_its_time(theirs, loop_engine):
    spoken = clip("pauses")
    updates = await drive(theirs, loop_engine, spoken)
    assert loop_engine.in_use == 0
    found = words(updates)
    truth = spoken.text.split()
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


async def test_drafts_are_in_whisperlivekits_buffer(theirs, loop_engine):
    async def drafted(driven: Driven) -> None:
        await driven.until_drafted("doctor")
        assert not words(driven.updates)

    # The newest audio is drafted only once there is more of it, later on a busy machine.
    updates = await drive(theirs, loop_engine, clip("doctor"), drafted, after_s=4.0)
    assert {"doctor", "results."} <= set(words(updates))
    assert not updates[-1].buffer_transcription


async def test_two_sessions_and_a_new_speaker_lose_nothing(theirs, loop_engine):
    async def changed(driven: Driven) -> None:
        change = theirs.ChangeSpeaker(speaker=2, start=2.5)
        await driven.session.transcription_queue.put(change)

    doctor, train = await asyncio.gather(
        drive(theirs, loop_engine, clip("doctor"), changed),
        drive(theirs, loop_engine, clip("train")),
    )
    assert {"The", "doctor", "will", "results."} <= set(words(doctor))
    assert {"train", "airport", "ticket", "bags"} <= {word.strip(".,") for word in words(train)}
    assert loop_engine.in_use == 0
