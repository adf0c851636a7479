"""One stream as a worker hears it, with the real recogniser and no process around it."""

from itertools import pairwise

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import clip
from support.listening import text_of, words_of

from voxlive.engines.contract import Committed, Drafted, Message, Progressed, Reached
from voxlive.engines.pocketsphinx.decode import Heard, Pcm, Recognizer
from voxlive.engines.pocketsphinx.listener import (
    CUT_WITHIN,
    HEAD,
    MAX_UTTERANCE,
    MAX_WAITING,
    STEP,
    PocketSphinxListener,
    quietest,
)
from voxlive.engines.pocketsphinx.passes import InPlace, Result
from voxlive.values import Word

TOLERANCE = 0.15 * 16_000


def pcm_of(name: str) -> Pcm:
    return np.rint(clip(name).samples * 32768).clip(-32768, 32767).astype(np.int16)


def hear(listener: PocketSphinxListener, pcm: Pcm, at: int = 0, step: int = 1600) -> list[Message]:
    return [
        message
        for start in range(0, len(pcm), step)
        for message in listener.audio(pcm[start : start + step], at + start)
    ]


def test_drafts_come_before_the_words_and_are_cleared_by_them(recognizer):
    pcm = pcm_of("doctor")
    listener = PocketSphinxListener(recognizer, InPlace(recognizer), drafts=True)
    live = hear(listener, pcm)
    drafts = [m.text for m in live if isinstance(m, Drafted)]
    assert len(drafts) > 5
    assert drafts[-1] == " the doctor will call you back tomorrow afternoon about the results"
    assert all(a != b for a, b in pairwise(drafts))
    assert not words_of(live)
    progress = [m.upto for m in live if isinstance(m, Progressed)]
    assert progress[0] == STEP
    assert all(b - a >= STEP for a, b in pairwise(progress))
    last = list(listener.end(7))
    assert [type(m) for m in last] == [Progressed, Committed, Drafted, Reached]
    assert text_of(words_of(last)) == drafts[-1]
    assert last[0] == Progressed(len(pcm))
    assert last[2:] == [Drafted(""), Reached(7)]


def test_without_drafts_there_are_words_only(recognizer):
    listener = PocketSphinxListener(recognizer, InPlace(recognizer), drafts=False)
    assert hear(listener, pcm_of("yes")) == []
    words, *rest = listener.end(1)
    assert [word.text for word in words.words] == [" yes"]
    assert rest == [Progressed(len(pcm_of("yes"))), Reached(1)]
    assert list(listener.end(2)) == [Reached(2)]


@pytest.mark.parametrize(
    ("step", "drafts"), [(80, False), (1601, True), (7000, False), (10**6, True)]
)
def test_the_words_are_the_same_in_any_chunks(recognizer, step, drafts):
    pcm = pcm_of("pauses")[:32_000]
    expected = recognizer.words(pcm)[0]
    listener = PocketSphinxListener(recognizer, InPlace(recognizer), drafts=drafts)
    words = words_of([*hear(listener, pcm, step=step), *listener.end(1)])
    assert words == [Word(f" {w.text}", w.start, w.end, w.probability) for w in expected]


class Means:
    """The recogniser, and the means that its drafts have begun with."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self.used: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._recognizer, name)

    def start_draft(self, mean: str) -> None:
        self.used.append(mean)
        self._recognizer.start_draft(mean)


def test_the_first_draft_begins_anew_until_its_mean_lasts_and_the_next_has_one(recognizer):
    means, pcm = Means(recognizer), pcm_of("doctor")
    listener = PocketSphinxListener(means, InPlace(recognizer), drafts=True)
    live = hear(listener, pcm, step=STEP)
    heads = [STEP, 2 * STEP, 3 * STEP, 4 * STEP]
    assert 3 * STEP < HEAD <= 4 * STEP
    drafts = [m.text for m in live if isinstance(m, Drafted)]
    list(listener.end(1))
    hear(listener, pcm[:STEP], at=len(pcm), step=STEP)
    whole = recognizer.mean(pcm)
    assert means.used == [*(recognizer.mean(pcm[:head]) for head in heads), whole]
    # What was heard before the mean lasts is in the draft all the same.
    assert drafts[-1] == " the doctor will call you back tomorrow afternoon about the results"


def test_digital_silence_makes_progress_and_no_words(recognizer):
    listener = PocketSphinxListener(recognizer, InPlace(recognizer), drafts=True)
    silence = np.zeros(20_000, np.int16)
    live = hear(listener, silence)
    assert live
    assert all(isinstance(m, Progressed) for m in live)
    assert list(listener.end(1)) == [Progressed(20_000), Reached(1)]
    pcm = pcm_of("doctor")
    live = hear(listener, np.concatenate([silence, pcm]), at=20_000)
    assert [m for m in live if isinstance(m, Drafted)][-1].text.endswith("about the results")


@pytest.mark.parametrize("gap_s", [0.3, 2, 10])
def test_times_follow_the_clock_across_a_pause(recognizer, gap_s):
    """The utterance ends at a pause of the clip, and the clock goes on without audio."""
    pcm, gap = pcm_of("pauses")[:64_000], int(gap_s * 16_000)
    alone = recognizer.words(pcm)[0]
    pause = clip("pauses").pauses[0]
    cut = int(sum(pause) / 2 * 16_000)
    listener = PocketSphinxListener(recognizer, InPlace(recognizer), drafts=False)
    first = words_of([*hear(listener, pcm[:cut], at=gap), *listener.end(1)])
    second = words_of([*hear(listener, pcm[cut:], at=2 * gap + cut), *listener.end(2)])
    compared = 0
    for words, shift in ((first, gap), (second, 2 * gap)):
        assert len(words) > 3
        for word in words:
            same = [w for w in alone if f" {w.text}" == word.text]
            nearest = min((abs(w.start + shift - word.start) for w in same), default=None)
            compared += nearest is not None
            assert nearest is None or nearest < TOLERANCE
            ends = (abs(w.end + shift - word.end) for w in same)
            assert min(ends, default=0) < TOLERANCE
    assert compared >= 0.8 * len(alone)


def test_a_gap_within_an_utterance_moves_the_times_after_it_and_nothing_else(recognizer):
    pcm = pcm_of("doctor")
    alone = recognizer.words(pcm)[0]
    boundary = alone[5].start
    listener = PocketSphinxListener(recognizer, InPlace(recognizer), drafts=True)
    live = [*hear(listener, pcm[:boundary]), *hear(listener, pcm[boundary:], at=boundary + 9999)]
    words = words_of([*live, *listener.end(1)])
    assert [w.text[1:] for w in words] == [w.text for w in alone]
    assert [w.start for w in words] == [w.start + 9999 * (w.start >= boundary) for w in alone]
    assert [w.end for w in words] == [w.end + 9999 * (w.end > boundary) for w in alone]


def test_speech_without_a_pause_is_cut_where_it_is_quiet(recognizer):
    minute = clip("minute")
    said = minute.sentences[:6]
    pcm = pcm_of("minute")[: int((said[-1].end + 0.3) * 16_000)]
    assert MAX_UTTERANCE < len(pcm) < 2 * MAX_UTTERANCE
    listener = PocketSphinxListener(recognizer, InPlace(recognizer), drafts=True)
    live = hear(listener, pcm, step=7000)
    (at,) = (i for i, m in enumerate(live) if isinstance(m, Committed))
    # What was drafted behind the cut stays, and is nothing of what is committed.
    before, progressed, committed, kept = live[at - 2 : at + 2]
    assert progressed == Progressed(MAX_UTTERANCE)
    assert kept.text.startswith(" sometimes he")
    assert before.text.endswith(kept.text)
    cut = committed.words[-1].end / 16_000
    assert any(a - 0.2 < cut < b for a, b in minute.pauses)
    after = next(m for m in live[at + 2 :] if isinstance(m, Drafted))
    assert after.text.startswith(kept.text)
    words = words_of([*live, *listener.end(1)])
    assert all(a.start < a.end <= b.start for a, b in pairwise(words))
    spoken = " ".join(word.text for sentence in said for word in sentence.words).lower()
    assert jiwer.wer(spoken, text_of(words).strip()) < 0.1
    assert len(words) == len(spoken.split())


class Held:
    """Final passes whose results are held back until the test lets them go."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._result: Result | None = None
        self.through = False

    def start(self, pcm: Pcm) -> None:
        assert self._result is None
        self._result, self.through = self._recognizer.words(pcm), False

    def take(self) -> Result | None:
        if not self.through:
            return None
        result, self._result, self.through = self._result, None, False
        return result


def test_the_next_draft_stands_beside_that_of_a_held_up_pass(recognizer):
    passes = Held(recognizer)
    listener = PocketSphinxListener(recognizer, passes, drafts=True)
    pcm = pcm_of("doctor")
    live = [*hear(listener, pcm), *listener.end(1)]
    first = [m for m in live if isinstance(m, Drafted)][-1].text
    assert live[-1] == Progressed(len(pcm)), "the draft has heard all"
    assert not any(isinstance(m, Committed | Reached) for m in live)
    live = hear(listener, pcm, at=len(pcm))
    drafts = [m.text for m in live if isinstance(m, Drafted)]
    assert len(drafts) > 5
    assert all(text.startswith(first + " ") for text in drafts)
    assert [m for m in live if isinstance(m, Progressed)][-1].upto > 2 * len(pcm) - STEP
    passes.through = True
    committed, *rest = listener.collect()
    assert text_of(list(committed.words)) == first
    assert rest == [Drafted(""), Reached(1), Drafted(drafts[-1].removeprefix(first))]
    assert list(listener.collect()) == []
    assert list(listener.end(2)) == [Progressed(2 * len(pcm))]
    passes.through = True
    assert [type(m) for m in listener.collect()] == [Committed, Drafted, Reached]


@pytest.mark.parametrize("every", [1, 5])
def test_words_marks_and_their_order_are_the_same_however_long_a_pass_takes(recognizer, every):
    """A pass is through after this many pieces of audio."""
    pieces = [pcm_of("yes"), pcm_of("pauses")[:32_000], pcm_of("yes")]

    def ends(passes: InPlace | Held, drafts: bool) -> list[Message]:
        listener, at, said = PocketSphinxListener(recognizer, passes, drafts=drafts), 0, []
        for marker, pcm in enumerate(pieces):
            for count, start in enumerate(range(0, len(pcm), 4000)):
                said += listener.audio(pcm[start : start + 4000], at + start)
                if isinstance(passes, Held) and count % every == every - 1:
                    passes.through = True
                    said += listener.collect()
            at += len(pcm) + 8000
            said += listener.end(marker)
        while isinstance(passes, Held) and said[-1] != Reached(len(pieces) - 1):
            passes.through = True
            said += listener.collect()
        return said

    def lasting(said: list[Message]) -> list[Message]:
        return [m for m in said if isinstance(m, Committed | Reached)]

    alone = ends(InPlace(recognizer), drafts=False)
    beside = ends(Held(recognizer), drafts=True)
    assert lasting(beside) == lasting(alone)
    assert text_of(words_of(beside)).endswith(" sentence yes")
    progress = [m.upto for m in beside if isinstance(m, Progressed)]
    assert all(a < b for a, b in pairwise(progress))
    assert progress[-1] == [m.upto for m in alone if isinstance(m, Progressed)][-1]


def test_markers_wait_for_the_words_before_them(recognizer):
    passes = Held(recognizer)
    listener = PocketSphinxListener(recognizer, passes, drafts=True)
    assert list(listener.end(1)) == [Reached(1)]
    hear(listener, pcm_of("yes"))
    assert not any(isinstance(m, Reached) for m in [*listener.end(2), *listener.end(3)])
    passes.through = True
    said = [m for m in listener.collect() if isinstance(m, Committed | Reached)]
    assert [type(m) for m in said] == [Committed, Reached, Reached]
    assert said[1:] == [Reached(2), Reached(3)]
    assert list(listener.end(4)) == [Reached(4)]


def test_it_is_full_when_too_much_waits_for_its_final_pass(recognizer):
    passes = Held(recognizer)
    listener = PocketSphinxListener(recognizer, passes, drafts=True)
    silence = np.zeros(MAX_WAITING // 2, np.int16)
    for marker in range(3):
        assert not listener.full
        hear(listener, silence, at=marker * len(silence))
        assert Reached(marker) not in listener.end(marker)
    assert listener.full
    passes.through = True
    assert Reached(0) in list(listener.collect())
    assert not listener.full


@given(st.integers(0, CUT_WITHIN - 4000), st.integers(1, 2000))
def test_the_quietest_point_is_found(from_end, loud):
    pcm = np.full(MAX_UTTERANCE, loud, np.int16)
    middle = MAX_UTTERANCE - from_end - 2000
    pcm[middle - 1000 : middle + 1000] = 0
    assert abs(quietest(pcm) - middle) <= 200


@given(st.integers(1600, 200_000), st.integers(0, 2**32 - 1))
def test_the_cut_lies_in_the_end(length, seed):
    pcm = np.random.default_rng(seed).integers(-32768, 32767, length, np.int16)
    assert max(0, length - CUT_WITHIN) < quietest(pcm) < length


class Spelling:
    """A recogniser that hears a word in every stretch of one value other than zero."""

    drafting = False

    def drop_draft(self) -> None:
        pass


class Late:
    """Final passes that are through when a test says so."""

    def __init__(self) -> None:
        self.done = False
        self._pcm: Pcm | None = None

    def start(self, pcm: Pcm) -> None:
        assert self._pcm is None, "one at a time"
        self._pcm, self.done = pcm, False

    def take(self) -> Result | None:
        if self._pcm is None or not self.done:
            return None
        pcm, self._pcm, self.done = self._pcm, None, False
        edges = [0, *(np.flatnonzero(np.diff(pcm)) + 1).tolist(), len(pcm)]
        spans = [(a, b) for a, b in pairwise(edges) if a < b and pcm[a]]
        return [Heard(str(pcm[a]), a, b, None) for a, b in spans], None


@given(
    st.lists(
        st.one_of(
            st.just("mark"),
            st.just("pass"),
            st.tuples(st.integers(1, 60_000), st.integers(1600, 48_000)),
        ),
        max_size=30,
    )
)
def test_no_mark_is_answered_before_its_words_nor_behind_those_of_the_next(steps):
    """However late final passes are, and however many marks wait for one."""
    passes = Late()
    listener = PocketSphinxListener(Spelling(), passes, drafts=False)
    messages: list[Message] = []
    expected: list[str | int] = []
    at = 0
    for number, step in enumerate(steps, 1):
        if step == "mark":
            messages += listener.end(number)
            expected.append(number)
        elif step == "pass":
            passes.done = True
            messages += listener.collect()
        else:
            silence, length = step
            pcm = np.concatenate([np.zeros(silence), np.full(length, number), np.zeros(1600)])
            messages += listener.audio(pcm.astype(np.int16), at)
            at += len(pcm)
            expected.append(str(number))
    messages += listener.end(0)
    for _ in range(100):
        passes.done = True
        messages += listener.collect()
    said: list[str | int] = []
    for message in messages:
        match message:
            case Committed(words):
                said += [word.text.strip() for word in words]
                assert all(word.end <= at for word in words)
            case Reached(marker):
                said.append(marker)
    assert said == [*expected, 0]
