"""Streams of one recogniser: whose pass comes next, slots, failures, the end."""

import queue
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from support.scripted_recogniser import WORD, ScriptedRecogniser, spoken

from voxlive.engines.contract import (
    Committed,
    Drafted,
    EngineInfo,
    Failed,
    Message,
    Progressed,
    Reached,
    StreamOptions,
)
from voxlive.engines.utterances import _note
from voxlive.engines.utterances.commitment import RULES, CommitRule
from voxlive.engines.utterances.engine import AGAIN, UtteranceEngine
from voxlive.engines.utterances.utterance import MAX_WAITING
from voxlive.errors import EngineError, EngineFull, UnsupportedOption
from voxlive.recognisers.contract import RecogniserInfo

INFO = EngineInfo("whisper", "scripted", "cpu", 3, ("en",))


class Sink:
    """What a stream was sent, as it comes."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._queue: queue.Queue[Message] = queue.Queue()

    def __call__(self, message: Message) -> None:
        self.messages.append(message)
        self._queue.put(message)

    def until(self, kind: type[Message]) -> Message:
        while not isinstance(message := self._queue.get(timeout=60), kind):
            pass
        return message

    @property
    def text(self) -> str:
        committed = [m for m in self.messages if isinstance(m, Committed)]
        return "".join(word.text for m in committed for word in m.words).strip()


@pytest.fixture
def recogniser() -> ScriptedRecogniser:
    return ScriptedRecogniser()


@pytest.fixture
def engine(recogniser):
    engine = UtteranceEngine(recogniser, INFO, CommitRule(2, 0))
    yield engine
    recogniser.gate.set()
    engine.shutdown()
    assert recogniser.closed


def test_a_stream_gets_its_words_and_marks(engine):
    sink = Sink()
    stream = engine.open(StreamOptions(), sink)
    assert engine.in_use == 1
    stream.feed(spoken(1, 2, 3), 0)
    assert sink.until(Progressed) == Progressed(3 * WORD)
    stream.feed(spoken(4), 3 * WORD)
    stream.end_utterance(1)
    assert sink.until(Reached) == Reached(1)
    assert sink.text == "w1 w2 w3 w4"
    stream.flush(2)
    assert sink.until(Reached) == Reached(2)
    assert not engine.work.busy
    stream.close()
    stream.close()
    assert engine.in_use == 0
    assert engine.steps.read().count == engine.work.done >= 2


def test_ends_of_utterances_come_before_drafts_and_the_most_behind_first(engine, recogniser):
    """All is handed over while one pass is under way; then the order of passes shows."""
    recogniser.gate.clear()
    first, behind, ended = Sink(), Sink(), Sink()
    streams = [engine.open(StreamOptions(), sink) for sink in (first, behind, ended)]
    streams[0].feed(spoken(*[1] * 2), 0)  # its draft is under way
    while engine.work.busy and not recogniser_waits(engine):
        time.sleep(0.001)
    streams[0].feed(spoken(*[1] * 3), 2 * WORD)
    streams[1].feed(spoken(*[2] * 9), 0)
    streams[2].feed(spoken(*[3] * 4), 0)
    streams[2].end_utterance(1)
    recogniser.gate.set()
    for sink in (first, behind, ended):
        sink.until(Progressed)
    while engine.work.busy:
        time.sleep(0.001)
    assert recogniser.lengths == [n * WORD for n in (2, 4, 9, 5)]


def recogniser_waits(engine: UtteranceEngine) -> bool:
    return any(stream.utterances.under_way for stream in engine._streams)


def test_full_wrong_and_closed_engines_refuse(engine):
    sinks = [engine.open(StreamOptions(), Sink()) for _ in range(3)]
    with pytest.raises(EngineFull):
        engine.open(StreamOptions(), Sink())
    with pytest.raises(UnsupportedOption, match="German"):
        engine.open(StreamOptions("de"), Sink())
    sinks[0].close()
    engine.open(StreamOptions("en"), Sink())
    engine.shutdown()
    with pytest.raises(EngineError):
        engine.open(StreamOptions(), Sink())


def test_a_pass_that_fails_costs_one_stream(engine, recogniser):
    def fails(words, _number, _how):
        if any(word.text == " w13" for word in words):
            raise RuntimeError("CUDA out of memory")
        return words

    recogniser._script = fails
    bad, good = Sink(), Sink()
    failing, sound = engine.open(StreamOptions(), bad), engine.open(StreamOptions(), good)
    failing.feed(spoken(13, 13), 0)
    failed = bad.until(Failed)
    assert failed.code == "engine_failed"
    assert "CUDA out of memory" in failed.message
    assert engine.in_use == 1
    failing.feed(spoken(1), 2 * WORD)
    failing.end_utterance(1)
    sound.feed(spoken(1, 2), 0)
    sound.end_utterance(1)
    good.until(Reached)
    assert good.text == "w1 w2"
    assert bad.messages[-1] is failed


def test_a_stream_that_is_too_far_behind_fails_alone(engine, recogniser):
    recogniser.gate.clear()
    sink = Sink()
    stream = engine.open(StreamOptions(), sink)
    stream.feed(np.zeros(MAX_WAITING, np.float32), 0)
    stream.feed(np.zeros(1, np.float32), MAX_WAITING)
    assert sink.until(Failed).code == "overrun"
    assert engine.in_use == 0


def test_nothing_comes_after_close_although_a_pass_is_under_way(engine, recogniser):
    recogniser.gate.clear()
    sink = Sink()
    stream = engine.open(StreamOptions(), sink)
    stream.feed(spoken(1, 2), 0)
    stream.end_utterance(1)
    while not recogniser_waits(engine):
        time.sleep(0.001)
    stream.close()
    recogniser.gate.set()
    other = Sink()
    again = engine.open(StreamOptions(), other)
    again.feed(spoken(3, 4), 0)
    again.end_utterance(1)
    other.until(Reached)
    assert sink.messages == []


def test_a_recogniser_that_hangs_shows_as_work_that_does_not_get_on(engine, recogniser):
    assert engine.check(60) is None
    recogniser.gate.clear()
    stream = engine.open(StreamOptions(), Sink())
    before = engine.work
    assert not before.busy
    stream.feed(spoken(1, 2), 0)
    assert engine.work.busy
    assert engine.work.done == before.done
    assert "no pass" in engine.check(0.01)


def test_many_streams_on_several_threads_say_what_each_would_say_alone():
    info = EngineInfo("whisper", "scripted", "cpu", 16, ("en",))
    recogniser = ScriptedRecogniser()
    engine = UtteranceEngine(recogniser, info, CommitRule(2, 0.5), threads=4)
    sinks = [Sink() for _ in range(16)]

    def talk(number: int) -> None:
        stream = engine.open(StreamOptions(), sinks[number])
        at = marker = 0
        for word in range(1, 41):
            stream.feed(spoken(number * 20 + word % 20 + 1), at)
            at += WORD
            if word % 10 == 0:
                marker += 1
                stream.end_utterance(marker)
        stream.flush(marker + 1)

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, sink in enumerate(sinks):
        while sink.until(Reached) != Reached(5):
            pass
        assert sink.text == " ".join(f"w{number * 20 + w % 20 + 1}" for w in range(1, 41))
    engine.shutdown()


def test_a_last_pass_that_repeats_itself_is_made_again_over_the_whole_window(engine, recogniser):
    def loops(words, _number, how):
        return words if how is AGAIN else [*words, *words * 8]

    recogniser._script = loops
    sink = Sink()
    stream = engine.open(StreamOptions(drafts=False), sink)
    stream.feed(spoken(1, 2), 0)
    stream.end_utterance(1)
    sink.until(Reached)
    assert sink.text == "w1 w2"
    assert recogniser.passes >= 2


def test_a_last_pass_that_ends_long_before_its_audio_is_made_again_over_all_of_it(
    engine, recogniser
):
    """A model may end its text at a pause, and a short pass looks no further."""
    recogniser._script = lambda words, _number, how: words if how is AGAIN else words[:1]
    for audio, passes in ((spoken(1, 2, 3, 4, 5, 6), 2), (spoken(1, 2), 1)):
        recogniser.passes = 0
        sink = Sink()
        stream = engine.open(StreamOptions(drafts=False), sink)
        stream.feed(audio, 0)
        stream.end_utterance(1)
        sink.until(Reached)
        stream.close()
        assert recogniser.passes == passes
        assert sink.text == ("w1 w2 w3 w4 w5 w6" if passes == 2 else "w1")


def test_a_pass_that_writes_more_than_anybody_speaks_is_cut_short_and_brings_no_words(
    engine, recogniser
):
    """A draft is left out, a last pass is made again without a limit."""
    limits = []

    def babbles(words, _number, how):
        limits.append(how.max_tokens)
        return words

    recogniser._script = babbles
    recogniser.longest = 0
    sink = Sink()
    stream = engine.open(StreamOptions(), sink)
    stream.feed(spoken(1, 2), 0)
    sink.until(Progressed)
    assert not [m for m in sink.messages if isinstance(m, Committed | Drafted)]
    stream.end_utterance(1)
    sink.until(Reached)
    assert sink.text == "w1 w2"
    assert limits == [20, 20, None]


def test_the_language_of_the_first_seconds_holds_for_the_stream(engine, recogniser):
    sink = Sink()
    stream = engine.open(StreamOptions(drafts=False), sink)
    for marker, words in enumerate([(1, 2), (1, 2, 3, 4, 5), (1,)], 1):
        stream.feed(spoken(*words), marker * 100 * WORD)
        stream.end_utterance(marker)
        sink.until(Reached)
    assert recogniser.languages == [None, None, "de"]
    other = engine.open(StreamOptions("en", drafts=False), sink)
    other.feed(spoken(1), 0)
    other.flush(1)
    sink.until(Reached)
    assert recogniser.languages[-1] == "en"


def test_a_stream_has_the_rule_and_the_terms_that_it_asks_for_beside_the_servers(recogniser):
    info = replace(INFO, vocabulary=("W-Two",), commit_rules=tuple(RULES), default_commit="steady")
    engine = UtteranceEngine(recogniser, info, CommitRule(2, 0))
    sink = Sink()
    stream = engine.open(StreamOptions(commit="pause", vocabulary=("W3 W4",)), sink)
    stream.feed(spoken(1), 0)
    stream.feed(spoken(2, 3, 4), WORD)
    sink.until(Progressed)
    stream.end_utterance(1)
    sink.until(Reached)
    assert len([m for m in sink.messages if isinstance(m, Committed)]) == 1
    assert sink.text == "w1 w2 W3 W4"
    with pytest.raises(UnsupportedOption, match="fast, steady, pause"):
        engine.open(StreamOptions(commit="slow"), Sink())
    with pytest.raises(UnsupportedOption, match="does not translate"):
        engine.open(StreamOptions(task="translate"), Sink())
    engine.shutdown()


def test_a_command_is_named_as_it_can_be_typed(monkeypatch, tmp_path):
    """In a checkout the command is in an environment of its own, which is not on the PATH."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    english = RecogniserInfo("tiny.en", ("en",), 30.0, "cpu", "int8")
    assert (_note(english) or "").startswith("English only: voxlive serve")
    (programs / "voxlive").touch(mode=0o755)
    assert (_note(english) or "").startswith("English only: .venv/bin/voxlive serve")
    monkeypatch.setenv("PATH", str(programs))
    assert (_note(english) or "").startswith("English only: voxlive serve")
