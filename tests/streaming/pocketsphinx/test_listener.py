"""One stream as a worker hears it, with the real recogniser and no process around it."""

from itertools import pairwise

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import clip
from support.listening import text_of, words_of

from voxlive.streaming.engine import Committed, Drafted, Message, Progressed, Reached
from voxlive.streaming.events import Word
from voxlive.streaming.pocketsphinx.decode import Pcm
from voxlive.streaming.pocketsphinx.listener import (
    CUT_WITHIN,
    HEAD,
    MAX_UTTERANCE,
    STEP,
    Listener,
    quietest,
)

TOLERANCE = 0.15 * 16_000


def pcm_of(name: str) -> Pcm:
    return np.rint(clip(name).samples * 32768).clip(-32768, 32767).astype(np.int16)


def hear(listener: Listener, pcm: Pcm, at: int = 0, step: int = 1600) -> list[Message]:
    return [
        message
        for start in range(0, len(pcm), step)
        for message in listener.audio(pcm[start : start + step], at + start)
    ]


def test_drafts_come_before_the_words_and_are_cleared_by_them(recognizer):
    pcm = pcm_of("doctor")
    listener = Listener(recognizer, drafts=True)
    live = hear(listener, pcm)
    drafts = [m.text for m in live if isinstance(m, Drafted)]
    assert len(drafts) > 5
    assert drafts[-1] == " the doctor will call you back tomorrow afternoon about the results"
    assert all(a != b for a, b in pairwise(drafts))
    assert not words_of(live)
    progress = [m.upto for m in live if isinstance(m, Progressed)]
    assert progress[0] == HEAD + -HEAD % 1600
    assert all(b - a >= STEP for a, b in pairwise(progress))
    last = list(listener.end(7))
    assert [type(m) for m in last] == [Committed, Drafted, Progressed, Reached]
    assert text_of(words_of(last)) == drafts[-1]
    assert last[1:] == [Drafted(""), Progressed(len(pcm)), Reached(7)]


def test_without_drafts_there_are_words_only(recognizer):
    listener = Listener(recognizer, drafts=False)
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
    listener = Listener(recognizer, drafts=drafts)
    words = words_of([*hear(listener, pcm, step=step), *listener.end(1)])
    assert words == [Word(f" {w.text}", w.start, w.end, w.p) for w in expected]


def test_the_mean_of_an_utterance_is_there_for_the_next_draft(recognizer):
    listener = Listener(recognizer, drafts=True)
    pcm = pcm_of("doctor")
    assert hear(listener, pcm[: HEAD - 1], step=HEAD) == []
    assert hear(listener, pcm[HEAD - 1 : HEAD], at=HEAD - 1)
    hear(listener, pcm[HEAD:], at=HEAD)
    list(listener.end(1))
    assert hear(listener, pcm[:STEP], at=len(pcm), step=STEP)


def test_digital_silence_makes_progress_and_no_words(recognizer):
    listener = Listener(recognizer, drafts=True)
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
    listener = Listener(recognizer, drafts=False)
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
    listener = Listener(recognizer, drafts=True)
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
    listener = Listener(recognizer, drafts=True)
    live = hear(listener, pcm, step=7000)
    (at,) = (i for i, m in enumerate(live) if isinstance(m, Committed))
    cleared, told, draft, progressed = live[at + 1 : at + 5]
    assert cleared == Drafted("")
    assert any(a < told.upto / 16_000 < b for a, b in minute.pauses)
    assert draft.text.startswith(" sometimes he")
    assert progressed == Progressed(MAX_UTTERANCE)
    words = words_of([*live, *listener.end(1)])
    assert all(a.start < a.end <= b.start for a, b in pairwise(words))
    spoken = " ".join(word.text for sentence in said for word in sentence.words).lower()
    assert jiwer.wer(spoken, text_of(words).strip()) < 0.1
    assert len(words) == len(spoken.split())


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
