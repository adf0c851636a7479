"""A row with a scripted decoder: what each output says is written down, the rest is real."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from voxlive.checkpoints.config import AudioConfig
from voxlive.decoders.decoder import Detokeniser
from voxlive.encoders.encoder import MelFrontEnd
from voxlive.engines.contract import Committed, Drafted, Message, Progressed, Reached
from voxlive.engines.voxtral.model import TRAIL_TOKENS, RowOptions, plan_rounds
from voxlive.engines.voxtral.stream import (
    FLUSH_MARGIN,
    MAX_BLANK_RUN,
    AudioBuffer,
    Row,
    RowAudio,
    RowMark,
    pad_penalty,
)
from voxlive.values import Word

FRONT_END = MelFrontEnd(AudioConfig(16_000, 400, 160, 128, 1.5), frames=8)
TOKEN = 1280
PAD, WORD = 32, 33
PIECES = {100: b" one", 101: b" two", 102: b" thr", 103: b"ee"}


class RowDriver:
    """Drives a row as the engine does; ``outputs`` maps an output index to a token."""

    def __init__(self, delay_tokens: int = 6) -> None:
        self.messages: list[Message] = []
        self.outputs: dict[int, int] = {}
        self.options = RowOptions(FRONT_END, left_pad_tokens=32, delay_tokens=delay_tokens)
        words = Detokeniser(lambda token: PIECES.get(token, b""), pad=PAD, word=WORD)
        self.audio = AudioBuffer(FRONT_END)
        self.row = Row(0, self.options, self.audio, words, self.messages.append)
        self.encoded = self.heard = self.restarts = 0

    def give(self, *items: RowAudio | RowMark) -> None:
        for item in items:
            self.audio.append(item)
        self._restart_if(self.row.absorb())
        while self.row.waiting:
            if self.row.ready:
                n = min(self.row.ready, 8)
                audio = self.row.read(n)
                assert audio.shape == (FRONT_END.span(n),)
                self.row.mels += [*FRONT_END(audio).reshape(n, FRONT_END.frames, -1)]
                assert self.row.take(n).shape[0] == n * FRONT_END.frames
                self.encoded += n
                while self.encoded - self.options.prompt >= self.heard:
                    self.row.on_token(self.outputs.get(self.heard, PAD))
                    self.heard += 1
            self._restart_if(self.row.settle())
            self._restart_if(self.row.absorb())

    def _restart_if(self, restart: bool) -> None:
        if restart:
            self.encoded = self.heard = 0
            self.restarts += 1

    def of(self, kind: type) -> list[Message]:
        return [message for message in self.messages if isinstance(message, kind)]

    @property
    def words(self) -> list[Word]:
        return [word for message in self.of(Committed) for word in message.words]


@pytest.fixture
def script() -> RowDriver:
    return RowDriver()


def audio(tokens: float, at: int = 0) -> RowAudio:
    return RowAudio(np.zeros(int(tokens * TOKEN), np.float32), at)


def test_the_silence_on_the_left_is_ready_before_any_audio(script: RowDriver) -> None:
    script.give()
    assert script.encoded == 32 - 1  # the last token's window reaches past the silence
    assert not script.messages


def test_a_short_sound_is_decoded_by_a_flush(script: RowDriver) -> None:
    script.outputs = {1: WORD, 2: 100}
    script.give(audio(0.1), RowMark(7, flush=True))
    assert script.words == [Word(" one", 0, 128)]
    assert script.of(Reached) == [Reached(7)]
    assert script.messages[-1] == Reached(7)
    assert script.restarts == 1


@pytest.mark.parametrize("tokens", [0.1, 1, 6.5, 40])
@pytest.mark.parametrize("delay", [1, 6, 30])
def test_a_flush_decodes_the_delay_and_the_margin_beyond_all_audio(
    tokens: float, delay: int
) -> None:
    script = RowDriver(delay)
    heard: list[int] = []
    original: Callable[[int], None] = script.row.on_token
    script.row.on_token = lambda token: (heard.append(token), original(token))[1]  # type: ignore[method-assign]
    script.give(audio(tokens), RowMark(1, flush=True))
    assert len(heard) == int(np.ceil(tokens)) + FLUSH_MARGIN + 1
    assert script.of(Reached) == [Reached(1)]


def test_a_flush_of_nothing_is_answered_at_once_and_costs_nothing(script: RowDriver) -> None:
    script.give()
    encoded = script.encoded
    script.give(RowMark(1, flush=True), RowMark(2, flush=False), RowMark(3, flush=True))
    assert script.messages == [Reached(1), Reached(2), Reached(3)]
    assert script.restarts == 0
    assert script.encoded == encoded


def test_times_follow_the_clock_over_left_out_silence(script: RowDriver) -> None:
    script.outputs = {2: WORD, 3: 100, 12: WORD, 13: 101}
    script.give(audio(10), audio(20, at=10 * TOKEN + 16_000))
    assert script.restarts == 0
    assert script.words == [
        Word(" one", 0, 3 * TOKEN),
        Word(" two", 5 * TOKEN, 13 * TOKEN + 16_000),
    ]


def test_a_long_silence_brings_everything_out_and_resets(script: RowDriver) -> None:
    script.outputs = {8: WORD, 9: 100}
    script.give(audio(10))
    assert not script.words
    script.give(audio(10, at=10 * TOKEN + 32_000))
    assert [word.text for word in script.words] == [" one"]
    assert script.restarts == 1
    assert not script.of(Reached)


def test_a_long_silence_after_a_finished_utterance_needs_no_padding(script: RowDriver) -> None:
    script.give(audio(20), RowMark(1, flush=False))
    encoded = script.encoded
    assert script.of(Reached) == [Reached(1)]
    script.give(audio(5, at=100 * TOKEN))
    assert script.restarts == 1
    assert script.encoded < encoded


def test_an_utterance_that_ends_in_mid_word_is_flushed(script: RowDriver) -> None:
    script.outputs = {13: WORD, 14: 102, 15: 103}
    script.give(audio(21), RowMark(1, flush=False))
    assert script.words == [Word(" three", 6 * TOKEN, 14 * TOKEN)]
    assert script.messages[-1] == Reached(1)
    assert script.restarts == 1


def test_a_mark_in_mid_word_is_flushed_whatever_stands_behind_it() -> None:
    """Also where that is already there: when it comes must not decide which words are before it."""
    said: list[list[Message]] = []
    for together in (True, False):
        script = RowDriver()
        # Of the utterance the second word is still to come; one more is in the audio behind.
        script.outputs = {3: WORD, 4: 100, 13: WORD, 14: 102, 15: 103}
        items = (
            audio(21),
            RowMark(1, flush=False),
            audio(21, at=21 * TOKEN),
            RowMark(2, flush=True),
        )
        for piece in [items] if together else [[item] for item in items]:
            script.give(*piece)
        said.append([m for m in script.messages if isinstance(m, Committed | Reached)])
    assert said[0] == said[1]
    kinds = [type(message) for message in said[0]]
    assert kinds == [Committed, Committed, Reached, Committed, Committed, Reached]


def test_a_flush_right_behind_the_end_of_speech_answers_both(script: RowDriver) -> None:
    """No trail lies before the pause's mark, so that nothing is known of its last words yet."""
    script.outputs = {3: WORD, 4: 100, 18: WORD, 19: 101}
    marks = [RowMark(1, flush=False), RowMark(2, flush=False), RowMark(3, flush=True)]
    script.give(audio(20), *marks, audio(20, at=20 * TOKEN), RowMark(4, flush=True))
    said = [m for m in script.messages if isinstance(m, Committed | Reached)]
    assert [m if isinstance(m, Reached) else m.words[0].text for m in said] == [
        *(" one", " two", Reached(1), Reached(2), Reached(3)),
        *(" one", " two", Reached(4)),
    ]


@pytest.mark.parametrize("tokens", [0.5, 5, 6.9])
def test_a_pause_after_less_audio_than_a_first_step_takes_is_answered(
    script: RowDriver, tokens: float
) -> None:
    """As where a flush fell into the silence before it."""
    script.give(audio(tokens), RowMark(1, flush=False))
    assert script.of(Reached) == [Reached(1)]
    script.give(audio(20, at=10 * TOKEN), RowMark(2, flush=True))
    assert script.of(Reached) == [Reached(1), Reached(2)]


def test_words_after_a_long_silence_have_their_own_times(script: RowDriver) -> None:
    script.outputs = {3: WORD, 4: 100}
    script.give(audio(20), RowMark(1, flush=False))
    script.give(audio(20, at=100 * TOKEN))
    assert script.words == [
        Word(" one", 0, 4 * TOKEN),
        Word(" one", 100 * TOKEN, 104 * TOKEN),
    ]


class Listening:
    """Steps a row as the engine does, with a model that writes a word for every loud token.

    It writes it where Voxtral does: in the position in which the word ended, the delay behind it.
    """

    def __init__(self, delay_tokens: int, steps: int) -> None:
        self.said: list[str | int] = []
        self._steps = steps
        options = RowOptions(FRONT_END, left_pad_tokens=32, delay_tokens=delay_tokens)
        words = Detokeniser(lambda token: f" {token}".encode(), pad=PAD, word=WORD)
        self.audio = AudioBuffer(FRONT_END)
        self.row = Row(0, options, self.audio, words, self._hear)
        self._start()

    def _hear(self, message: Message) -> None:
        match message:
            case Committed(words):
                self.said += [word.text.strip() for word in words]
            case Reached(marker):
                self.said.append(marker)

    def _start(self) -> None:
        self._loud: list[int] = []
        self._outputs = 0

    def give(self, items: list[RowAudio | RowMark]) -> None:
        for item in items:
            self.audio.append(item)
        if self.row.absorb():
            self._start()

    def step(self) -> bool:
        """A round, if there is anything to do."""
        if not self.row.waiting:
            return False
        row, prompt = self.row, self.row.options.prompt
        taken = min(row.ready, 8)
        if taken:
            heard = row.read(taken)[FRONT_END.config.n_fft // 2 :]
            row.mels += [heard] * taken
            row.take(taken)
            self._loud += [round(float(heard[n * TOKEN + TOKEN // 2])) for n in range(taken)]
        for _ in range(self._steps):
            if len(self._loud) < prompt + self._outputs:
                break
            at = row.options.left_pad_tokens + self._outputs
            before, now = self._loud[at - 1], self._loud[at]
            row.on_token(WORD if now else before if before else PAD)
            self._outputs += 1
        if row.settle():
            self._start()
        self.give([])
        return True


@st.composite
def talks(draw: st.DrawFn, delay: int) -> list[tuple[list[RowAudio | RowMark], list[str | int]]]:
    """What is given together, and what has to be said of it, in order."""
    talk, at, word, marker = [], 0, PAD + 2, 0
    options = RowOptions(FRONT_END, left_pad_tokens=32, delay_tokens=delay)

    def sound(*loud: int, more: int = 0) -> RowAudio:
        nonlocal at
        samples = np.append(np.repeat(np.array(loud, np.float32), TOKEN), np.zeros(more))
        at += len(samples)
        return RowAudio(samples.astype(np.float32), at - len(samples))

    for _ in range(draw(st.integers(1, 6), "utterances")):
        at += draw(st.sampled_from([0, 500, 8_000, 40_000]), "gap")
        given: list[RowAudio | RowMark] = []
        said: list[str | int] = []
        for _ in range(draw(st.integers(0, 4), "words")):
            word += 1
            given.append(sound(*[0] * draw(st.integers(1, 12), "before"), word))
            said.append(str(word))
        ends = draw(st.lists(st.booleans(), min_size=1, max_size=3), "flushes")
        if not ends[0]:
            silence = sound(*[0] * (delay + TRAIL_TOKENS), more=options.look_ahead)
            # Without the trail a flush must be what follows.
            given += [silence] if True not in ends or draw(st.booleans(), "trail") else []
        for flush in ends:
            marker += 1
            given.append(RowMark(marker, flush))
            said.append(marker)
        talk.append((given, said))
    return talk


@examples(300)
@given(st.data())
def test_no_mark_is_answered_before_its_words_nor_behind_those_of_the_next(
    data: st.DataObject,
) -> None:
    delay = data.draw(st.sampled_from([1, 6, 12]), "delay")
    talk = data.draw(talks(delay), "talk")
    listening = Listening(delay, data.draw(st.sampled_from([1, 2, 99]), "steps"))
    listening.give([])
    waiting: list[RowAudio | RowMark] = []
    for given_, _ in talk:
        waiting += given_
        if data.draw(st.booleans(), "come"):
            listening.give(waiting)
            waiting = []
            for _ in range(data.draw(st.sampled_from([0, 1, 3, 50, 1000]), "rounds")):
                listening.step()
    listening.give(waiting)
    rounds = 0
    while listening.step():
        rounds += 1
        assert rounds < 10_000
    assert listening.said == [said for _, told in talk for said in told]


def test_words_are_drafted_while_they_grow(script: RowDriver) -> None:
    script.outputs = {3: WORD, 4: 102}
    script.give(audio(11.2))
    assert script.of(Drafted) == [Drafted(" thr")]
    script.outputs = {5: 103}
    script.give(audio(5, at=int(11.2 * TOKEN)))
    assert script.of(Drafted)[-1] == Drafted("")
    assert [word.text for word in script.words] == [" three"]


def test_what_follows_a_flush_waits_for_it(script: RowDriver) -> None:
    script.outputs = {1: WORD, 2: 100}
    script.give(audio(5), RowMark(1, flush=True), audio(8, at=5 * TOKEN), RowMark(2, flush=True))
    kinds = [type(m) for m in script.messages if isinstance(m, Committed | Reached)]
    assert kinds == [Committed, Reached, Committed, Reached]
    first, second = script.words
    assert (first.start, first.end) == (0, 2 * TOKEN)
    assert (second.start, second.end) == (5 * TOKEN, 7 * TOKEN)


def test_progress_ends_at_the_audio_fed(script: RowDriver) -> None:
    script.give(audio(3.3))
    script.give(audio(10, at=int(3.3 * TOKEN)))
    upto = [message.upto for message in script.of(Progressed)]
    assert upto == sorted(upto)
    assert upto[-1] == int(3.3 * TOKEN) + 10 * TOKEN


def test_a_rut_is_counted_and_lowers_the_pad(script: RowDriver) -> None:
    runs = (0, MAX_BLANK_RUN, MAX_BLANK_RUN + 1, MAX_BLANK_RUN + 6, MAX_BLANK_RUN + 14, 5000)
    assert [pad_penalty(run) for run in runs] == [0, 0, 0.5, 3, 7, 7]
    script.give(audio(MAX_BLANK_RUN + 20))
    assert script.row.blank_runs == 1
    assert script.row.pad_penalty > 0
    script.outputs = {script.heard: WORD, script.heard + 1: 100}
    script.give(audio(3, at=(MAX_BLANK_RUN + 20) * TOKEN))
    assert script.row.pad_penalty == 0


def test_rows_are_planned_by_powers_of_two() -> None:
    scripts = [RowDriver() for _ in range(5)]
    for script, ready in zip(scripts, (0, 1, 3, 7, 100), strict=True):
        script.give()
        script.audio.append(audio(ready))
        script.row.absorb()
    sizes = [
        (n, [row.ready for row in rows]) for n, rows in plan_rounds([s.row for s in scripts], 8)
    ]
    assert sorted(sizes) == [(1, [1]), (2, [3]), (4, [7]), (8, [100])]


def test_rows_with_a_backlog_go_in_steps_of_bounded_size() -> None:
    scripts = [RowDriver() for _ in range(40)]
    for script in scripts[:30]:
        script.give()
        script.audio.append(audio(8))
        script.row.absorb()
    for script in scripts[30:]:
        script.give()
        script.audio.append(audio(1))
        script.row.absorb()
    sizes = [(n, len(rows)) for n, rows in plan_rounds([s.row for s in scripts], 8)]
    assert sorted(sizes) == [(1, 10), (8, 14), (8, 16)]
