"""The engine on the small random model of the goldens: what it says is known token by token."""

import queue
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.tiny_checkpoint import write_tiny

from training.golden.audio import synthetic_audio
from voxlive.checkpoints.local_model import read_model
from voxlive.decoders.decoder import Detokeniser
from voxlive.engines.contract import (
    Committed,
    EngineOptions,
    Failed,
    Message,
    Progressed,
    Reached,
    StreamOptions,
)
from voxlive.engines.voxtral import load
from voxlive.engines.voxtral.engine import STEPS, VoxtralEngine
from voxlive.engines.voxtral.model import CHUNK
from voxlive.engines.voxtral.stream import LONGEST_WORD, VoxtralStream
from voxlive.errors import EngineFull, UnsupportedOption
from voxlive.values import Word

GOLDEN = Path(__file__).parents[2] / "golden"
AUDIO = synthetic_audio()
TOKEN = 1280
WAIT_S = 60


@dataclass
class MessageCollector:
    """Collects a stream's messages; ``until`` waits for a marker or a failure."""

    messages: list[Message] = field(default_factory=list)
    ends: queue.Queue[Message] = field(default_factory=queue.Queue)

    def __call__(self, message: Message) -> None:
        self.messages.append(message)
        if isinstance(message, Reached | Failed):
            self.ends.put(message)

    def end(self) -> Message:
        return self.ends.get(timeout=WAIT_S)

    @property
    def words(self) -> list[Word]:
        return [w for m in self.messages if isinstance(m, Committed) for w in m.words]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(folder: Path):
    engine = load(read_model(folder), EngineOptions(max_sessions=4, device="cpu"))
    yield engine
    engine.shutdown()


def feed(stream: VoxtralStream, audio: np.ndarray, cuts: list[int] | None = None) -> None:
    at = 0
    for piece in np.split(audio, cuts or []):
        stream.feed(piece, at)
        at += len(piece)


def transcribe(
    engine: VoxtralEngine, audio: np.ndarray, delay_ms: int = 480, cuts: list[int] | None = None
) -> list[Word]:
    listener = MessageCollector()
    stream = engine.open(StreamOptions(delay_ms=delay_ms), listener)
    feed(stream, audio, cuts)
    stream.flush(1)
    assert listener.end() == Reached(1)
    stream.close()
    return listener.words


def rest(engine: VoxtralEngine) -> int:
    """Wait until there is nothing to do; the rounds so far."""
    while engine._working:
        assert engine.check(WAIT_S) is None
    return engine.rounds


def text(words: list[Word]) -> str:
    return "".join(word.text for word in words).strip()


def golden_words(engine: VoxtralEngine, delay: int) -> list[Word]:
    """The goldens' own tokens through the real detokeniser."""
    tokens = np.load(GOLDEN / f"delay_{delay}.npz")["tokens"]
    vocabulary = engine._vocabulary
    words = Detokeniser(vocabulary.pieces, pad=vocabulary.pad, word=vocabulary.word)
    spoken = [w for t in tokens[1 + 32 + delay :] for w in words.push(int(t))] + words.finish()
    timed, last, upto = [], 0, 0
    for word in spoken:
        end = min(word.end(TOKEN), len(AUDIO))
        start = max(upto, last, end - LONGEST_WORD * TOKEN)
        last, upto = end, max(start, end)
        timed.append(Word(word.text, start, upto))
    return timed


# In make test the model's tokens are those of transformers: tests/decoders.
@pytest.mark.endurance
@pytest.mark.parametrize("delay", [6, 12])
def test_a_backlog_of_a_minute_is_decoded_whole_and_as_transformers_does(
    engine: VoxtralEngine, delay: int
) -> None:
    words = transcribe(engine, AUDIO, delay * 80)
    assert len(words) > 50
    assert words == golden_words(engine, delay)


@pytest.mark.endurance
@pytest.mark.parametrize("delay", [12, 6])
def test_chunks_do_not_matter(engine: VoxtralEngine, delay: int) -> None:
    rng = np.random.default_rng(0)
    cuts = sorted([*rng.integers(1, len(AUDIO), 300).tolist(), 5, 6, 7, 1286])
    assert transcribe(engine, AUDIO, delay * 80, cuts) == golden_words(engine, delay)


@pytest.mark.long
@pytest.mark.parametrize(
    ("longest", "words"), [(90_000, 15), pytest.param(500_000, 100, marks=pytest.mark.endurance)]
)
def test_rows_of_different_age_and_delay_say_what_each_says_alone(
    engine: VoxtralEngine, longest: int, words: int
) -> None:
    rng = np.random.default_rng(1)
    jobs = [
        (AUDIO[start : start + length], delay)
        for start, length, delay in zip(
            rng.integers(0, len(AUDIO) - longest, 8),
            rng.integers(2_000, longest, 8),
            rng.choice([240, 480, 960, 2400], 8),
            strict=True,
        )
    ]
    alone = [transcribe(engine, audio, int(delay)) for audio, delay in jobs]
    together: dict[int, list[Word]] = {}
    waiting = queue.SimpleQueue[int]()
    for number in range(len(jobs)):
        waiting.put(number)

    def work() -> None:
        while not waiting.empty():
            number = waiting.get()
            audio, delay = jobs[number]
            cuts = sorted(np.random.default_rng(number).integers(1, len(audio), 40).tolist())
            together[number] = transcribe(engine, audio, int(delay), cuts)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert [together[number] for number in range(len(jobs))] == alone
    assert sum(map(len, alone)) > words


def test_a_tenth_of_a_second_is_decoded_by_a_flush(engine: VoxtralEngine) -> None:
    rounds = engine.rounds
    listener = MessageCollector()
    stream = engine.open(StreamOptions(), listener)
    stream.feed(AUDIO[:1600], 0)
    stream.flush(5)
    assert listener.end() == Reached(5)
    assert Progressed(1600) not in listener.messages[-1:]
    assert engine.rounds > rounds
    stream.close()


def test_audio_that_completes_no_token_makes_no_round(engine: VoxtralEngine) -> None:
    listener = MessageCollector()
    stream = engine.open(StreamOptions(), listener)
    begun = 2 * TOKEN + stream.options.look_ahead
    stream.feed(AUDIO[:begun], 0)
    rounds = rest(engine)
    for at in range(begun, begun + 1200, 100):
        stream.feed(AUDIO[at : at + 100], at)
    assert rest(engine) == rounds
    stream.feed(AUDIO[begun + 1200 : begun + TOKEN], begun + 1200)
    assert rest(engine) == rounds + 1
    stream.flush(1)
    assert listener.end() == Reached(1)
    stream.close()
    assert listener.words == transcribe(engine, AUDIO[: begun + TOKEN])


def test_what_came_before_a_flush_was_through_needs_nothing_more_to_be_heard(
    engine: VoxtralEngine,
) -> None:
    """The row holds it back until then: no stream has to bring anything for it to go on."""
    clip, held = AUDIO[:60_000], threading.Event()
    alone = transcribe(engine, clip)
    listener = MessageCollector()
    stream = engine.open(StreamOptions(), listener)
    engine._thread.submit(held.wait, WAIT_S)
    for marker in (1, 2, 3):
        stream.feed(clip, (marker - 1) * len(clip))
        stream.flush(marker)
    held.set()
    reached = [listener.end() for _ in range(3)]
    assert reached == [Reached(1), Reached(2), Reached(3)]
    assert [w.text.strip() for w in listener.words] == 3 * [w.text.strip() for w in alone]
    stream.close()


def test_flushes_of_nothing_change_nothing_of_what_follows(engine: VoxtralEngine) -> None:
    clip = AUDIO[:60_000]
    alone = transcribe(engine, clip)
    listener = MessageCollector()
    stream = engine.open(StreamOptions(), listener)
    rest(engine)  # the silence on its left has been encoded
    for marker in (1, 2):
        stream.flush(marker)
        assert listener.end() == Reached(marker)
        rest(engine)
    stream.feed(clip, 0)
    stream.flush(3)
    stream.flush(4)
    assert [listener.end(), listener.end()] == [Reached(3), Reached(4)]
    assert listener.words == alone
    rest(engine)
    stream.flush(5)
    assert listener.end() == Reached(5)
    stream.feed(clip, len(clip))
    stream.flush(6)
    assert listener.end() == Reached(6)
    again = listener.words[len(alone) :]
    assert [w.text.strip() for w in again] == [w.text.strip() for w in alone]
    assert [(w.start - len(clip), w.end - len(clip)) for w in again] == [
        (w.start, w.end) for w in alone
    ]
    stream.close()


def test_a_step_that_does_not_end_is_work_that_does_not_get_on(
    engine: VoxtralEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this whoever keeps the engine finds out that it hangs; see the supervisor."""
    step, entered, held = engine._model.encode, threading.Event(), threading.Event()

    def stuck(*args) -> None:
        entered.set()
        held.wait(WAIT_S)
        step(*args)

    rest(engine)
    assert not engine.work.busy
    monkeypatch.setattr(engine._model, "encode", stuck)
    listener = MessageCollector()
    stream = engine.open(StreamOptions(), listener)
    stream.feed(AUDIO[:60_000], 0)
    assert entered.wait(WAIT_S)
    before = engine.work
    assert before.busy
    stream.feed(AUDIO[60_000:80_000], 60_000)
    stream.flush(1)
    other = engine.open(StreamOptions(), MessageCollector())
    other.feed(AUDIO[:20_000], 0)
    assert "did not finish a step" in str(engine.check(0.01))
    assert engine.work == before, "more to do is no progress"
    held.set()
    assert listener.end() == Reached(1)
    rest(engine)
    assert not engine.work.busy
    assert engine.work.done > before.done
    stream.close()
    other.close()


def test_a_backlog_leaves_others_their_turns(
    engine: VoxtralEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside another stream a row decodes two positions a round, alone all that it has."""
    whole, most = engine._model.decode, list[int]()

    def decode(*args):
        steps = list(whole(*args))
        most.append(max(Counter(slot for slots, _ in steps for slot in slots).values(), default=0))
        return iter(steps)

    monkeypatch.setattr(engine._model, "decode", decode)
    audio = AUDIO[: 60 * TOKEN]
    alone = transcribe(engine, audio)
    assert max(most) == CHUNK
    other = engine.open(StreamOptions(), MessageCollector())
    other.feed(AUDIO[:TOKEN], 0)
    rest(engine)
    most.clear()
    assert transcribe(engine, audio) == alone
    assert max(most) == STEPS
    other.close()


@pytest.mark.long
def test_what_comes_while_a_gpu_works_is_prepared_and_changes_nothing(
    engine: VoxtralEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows in the round and of others, with a flush and a silence that resets in between."""
    parts = [(AUDIO[:25_000], 0), (AUDIO[25_000:40_000], 25_000), (AUDIO[:25_000], 90_000)]
    calls: deque[Callable[[], None]] = deque()
    calling = threading.Lock()

    def call() -> None:
        with calling:
            if calls:
                calls.popleft()()

    def talk() -> list[Message]:
        streams = [(engine.open(StreamOptions(), one := MessageCollector()), one) for _ in range(3)]
        for audio, at in parts:
            for start in range(0, len(audio), 320):
                for number, (stream, _) in enumerate(streams):
                    calls.append(partial(stream.feed, audio[start : start + 320], at + start))
                    if number == 1 and at + start == 19_200:
                        calls.append(partial(stream.flush, 9))
        calls.extend(partial(stream.flush, 1) for stream, _ in streams)
        while calls:
            if engine.work.busy:
                threading.Event().wait(0.001)
            else:
                call()
        heard: list[Message] = []
        for stream, one in streams:
            while one.end() != Reached(1):
                pass
            heard += [
                message for message in one.messages if isinstance(message, Committed | Reached)
            ]
            stream.close()
        return heard

    whole, rows = engine._model.decode, Counter[bool]()
    alone = talk()

    def decode(penalties, most, meanwhile):
        for step in whole(penalties, most):
            for _ in range(24):
                call()
                meanwhile()
            for stream, row in engine._rows.items():
                rows[stream in engine._in_round] += len(row.mels)
            yield step

    monkeypatch.setattr(engine._model, "decode", decode)
    assert talk() == alone
    assert rows[True] > 100


@pytest.mark.endurance
def test_a_check_takes_nothing_from_a_backlog(engine: VoxtralEngine) -> None:
    """What waits to be decoded between two rounds is not the check's to decode."""
    audio = AUDIO[: 60 * TOKEN]
    alone = transcribe(engine, audio)
    other = engine.open(StreamOptions(), MessageCollector())
    other.feed(AUDIO[:TOKEN], 0)
    rest(engine)
    listener = MessageCollector()
    stream = engine.open(StreamOptions(delay_ms=480), listener)
    stream.feed(audio, 0)
    stream.flush(1)
    while listener.ends.empty() and engine._working:
        assert engine.check(WAIT_S) is None
    assert listener.end() == Reached(1)
    assert listener.words == alone
    stream.close()
    other.close()


def test_close_at_any_time_frees_the_slot_and_leaks_nothing(engine: VoxtralEngine) -> None:
    clip = AUDIO[:100_000]
    before = transcribe(engine, clip)
    for samples in (0, 100, 3000, 60_000, 400_000):
        streams = [engine.open(StreamOptions(), MessageCollector()) for _ in range(4)]
        with pytest.raises(EngineFull):
            engine.open(StreamOptions(), MessageCollector())
        for stream in streams:
            stream.feed(AUDIO[:samples], 0)
            stream.close()
            stream.close()
        assert engine.in_use == 0
    assert transcribe(engine, clip) == before


def test_nothing_follows_a_close(engine: VoxtralEngine) -> None:
    listener = MessageCollector()
    stream = engine.open(StreamOptions(), listener)
    stream.feed(AUDIO[:200_000], 0)
    stream.close()
    seen = len(listener.messages)
    stream.feed(AUDIO[:100], 200_000)
    stream.flush(1)
    transcribe(engine, AUDIO[:20_000])
    assert len(listener.messages) == seen


def test_a_step_that_raises_fails_its_batch_and_no_more(
    engine: VoxtralEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = transcribe(engine, AUDIO[:60_000])
    idle, busy = MessageCollector(), MessageCollector()
    quiet = engine.open(StreamOptions(), idle)
    quiet.feed(AUDIO[:50_000], 0)
    quiet.flush(1)
    assert idle.end() == Reached(1)
    talking = engine.open(StreamOptions(), busy)

    def explode(*_args: object) -> None:
        monkeypatch.undo()
        raise MemoryError("out of memory")

    rest(engine)  # the silence on the quiet one's left is a round of its own
    monkeypatch.setattr(engine._model, "encode", explode)
    talking.feed(AUDIO[:50_000], 0)
    failure = busy.end()
    assert isinstance(failure, Failed)
    assert failure.code == "engine_failed"
    assert "out of memory" in failure.message
    assert "out of memory" in (engine.check(WAIT_S) or "")
    assert engine.check(WAIT_S) is None
    assert engine.in_use == 1
    idle.messages.clear()
    quiet.feed(AUDIO[:60_000], 400_000)
    quiet.flush(2)
    assert idle.end() == Reached(2)
    assert text(idle.words) == text(expected)
    assert transcribe(engine, AUDIO[:60_000]) == expected


def test_a_model_that_stays_broken_fails_every_stream_and_says_so(
    engine: VoxtralEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_args: object) -> None:
        raise MemoryError("out of memory")

    listeners = [MessageCollector() for _ in range(3)]
    monkeypatch.setattr(engine._model, "encode", explode)
    streams = [engine.open(StreamOptions(), listener) for listener in listeners]
    streams[0].feed(AUDIO[:50_000], 0)
    assert all(isinstance(listener.end(), Failed) for listener in listeners)
    assert engine.in_use == 0
    assert engine.check(WAIT_S)
    assert engine.check(WAIT_S)
    monkeypatch.undo()
    assert engine.check(WAIT_S) is None


def test_only_the_loading_thread_steps_the_model(engine: VoxtralEngine) -> None:
    with pytest.raises(RuntimeError, match="on the thread that loaded it"):
        engine._round()


def test_what_the_model_cannot_do_is_refused(engine: VoxtralEngine) -> None:
    with pytest.raises(UnsupportedOption, match="multiple of 80"):
        engine.open(StreamOptions(delay_ms=100), MessageCollector())
    with pytest.raises(UnsupportedOption, match="'xx'"):
        engine.open(StreamOptions(language="xx"), MessageCollector())
    engine.open(StreamOptions(language="en", delay_ms=2400), MessageCollector()).close()


def test_a_missing_gpu_is_said_and_not_worked_around(folder: Path) -> None:
    import mlx.core as mx

    if mx.is_available(mx.gpu):
        pytest.skip("there is a GPU")
    with pytest.raises(UnsupportedOption, match="--device cpu"):
        load(read_model(folder), EngineOptions(device="gpu"))


def test_capacity_is_measured_where_nobody_asks(folder: Path) -> None:
    engine = load(read_model(folder), EngineOptions(device="cpu"))
    try:
        assert engine.info.capacity >= 1
        assert engine.info.default_delay_ms == 480
        assert engine.info.delays_ms == range(80, 2401, 80)
    finally:
        engine.shutdown()
