"""The online processor as its drivers use it: the built-in engine, and no server."""

from collections.abc import Iterator

import numpy as np
import pytest
from support.clips import clip

from voxlive.streaming.engine import EngineError, EngineFull, Samples, StreamOptions
from voxlive.streaming.options import EngineOptions
from voxlive.streaming.pocketsphinx import load
from voxlive.streaming.pocketsphinx.engine import PocketSphinxEngine
from voxlive.streaming.pocketsphinx.stream import MAX_WAITING_S
from voxlive.streaming.processor import MAX_BACKLOG, MAX_INSERTED, OnlineProcessor, Token

DOCTOR = " the doctor will call you back tomorrow afternoon about the results"


@pytest.fixture(scope="module")
def engine() -> Iterator[PocketSphinxEngine]:
    engine = load("pocketsphinx", EngineOptions(max_sessions=1))
    yield engine
    engine.shutdown()


@pytest.fixture
def processor(engine: PocketSphinxEngine) -> Iterator[OnlineProcessor]:
    processor = OnlineProcessor(engine)
    yield processor
    processor.close()
    assert engine.in_use == 0


def insert(processor: OnlineProcessor, audio: Samples, at_s: float) -> float:
    """All of the audio in chunks, each followed by an iteration; where it ends."""
    for start in range(0, len(audio), 4000):
        chunk = audio[start : start + 4000]
        at_s += len(chunk) / 16_000
        processor.insert_audio_chunk(chunk, at_s)
        tokens, _ = processor.process_iter()
        assert tokens == []
    return at_s


def text_of(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


def test_words_come_once_at_pauses_with_times_of_the_session(processor):
    processor.warmup(np.zeros(16_000, np.float32))
    doctor, yes = clip("doctor"), clip("yes")
    end = insert(processor, doctor.samples, 0.0)
    tokens, upto = processor.start_silence()
    assert text_of(tokens) == DOCTOR
    for token, truth in zip(tokens, doctor.words, strict=True):
        assert abs(token.start - truth.start) < 0.15
        assert abs(token.end - truth.end) < 0.15
        assert 0 < token.probability <= 1
        assert not token.is_silence()
        assert not token.has_punctuation()
        assert token.speaker == -1
        assert token.detected_language is None
    assert upto == pytest.approx(end, abs=0.001)
    assert processor.end == upto
    assert len(processor.audio_buffer) == 0
    processor.end_silence(3.0, tokens[-1].end)
    insert(processor, yes.samples, end + 3.0)
    (token,), upto = processor.finish()
    assert token.text == " yes"
    assert abs(token.start - (end + 3.0 + yes.words[0].start)) < 0.15
    assert upto == pytest.approx(end + 3.0 + yes.duration, abs=0.001)
    assert processor.get_buffer().text == ""


def test_the_draft_is_in_the_buffer_until_its_words_are_out(processor):
    audio = clip("doctor").samples
    assert processor.get_buffer() == Token(None, None, "")
    processor.insert_audio_chunk(audio, len(audio) / 16_000)
    assert len(processor.audio_buffer) == len(audio)
    drafts = set()
    while len(processor.audio_buffer) > 3200:
        assert processor.process_iter()[0] == []
        drafts.add(processor.get_buffer().text)
    assert any(DOCTOR.startswith(draft) for draft in drafts - {""})
    tokens, _ = processor.process_iter(is_last=True)
    assert text_of(tokens) == DOCTOR
    assert processor.get_buffer().text == ""
    assert processor.asr.sep.join(t.text for t in tokens) == DOCTOR


def test_a_new_speaker_brings_out_the_words_of_the_last_one(processor):
    insert(processor, clip("yes").samples, 0.0)
    tokens, _ = processor.new_speaker(object())
    assert text_of(tokens) == " yes"
    assert processor.start_silence()[0] == []


def test_much_audio_at_once_is_taken_at_the_engines_pace(engine):
    """More than may wait in the engine; silence is cheap to recognise, and as long as speech."""
    processor = OnlineProcessor(engine, StreamOptions(drafts=False))
    silence, yes = np.zeros(MAX_WAITING_S * 32_000, np.float32), clip("yes").samples
    processor.insert_audio_chunk(silence, len(silence) / 16_000)
    assert processor.process_iter()[0] == []
    assert len(processor.audio_buffer) <= MAX_BACKLOG + 16_000
    assert processor.start_silence() == ([], len(silence) / 16_000)
    processor.insert_audio_chunk(yes, (len(silence) + len(yes)) / 16_000)
    tokens, upto = processor.finish()
    assert text_of(tokens) == " yes"
    assert upto == (len(silence) + len(yes)) / 16_000


def test_audio_without_iterations_has_a_bound(processor):
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


def test_a_dead_engine_is_an_error_and_not_silence():
    engine = load("pocketsphinx", EngineOptions(max_sessions=1))
    processor = OnlineProcessor(engine)
    processor.insert_audio_chunk(clip("doctor").samples, 5.0)
    processor.process_iter()
    engine.shutdown()
    with pytest.raises(EngineError) as error:
        processor.finish()
    assert error.value.code == "shutting_down"


def test_an_engine_that_says_nothing_is_not_waited_for_for_ever(engine, paused):
    processor = OnlineProcessor(engine, timeout=0.2)
    paused(engine.pids[0])
    processor.insert_audio_chunk(clip("yes").samples, clip("yes").duration)
    with pytest.raises(EngineError) as error:
        processor.finish()
    assert error.value.code == "timeout"
    assert engine.in_use == 0
