"""What of a pass counts: neither loops nor what a model writes where nobody speaks."""

from dataclasses import replace

import numpy as np
import pytest
from support.scripted_recogniser import WORD, spoken
from support.stepped_stream import NOW, SteppedStream, recognition

from voxlive.engines.contract import Drafted
from voxlive.engines.utterances.checks import within_sound, without_loops
from voxlive.engines.utterances.commitment import CommitRule
from voxlive.engines.utterances.engine import DRAFT
from voxlive.values import SAMPLE_RATE, Word, samples


def test_a_draft_that_repeats_itself_holds_up_to_where_it_does():
    def repeats(words, number, _how):
        return [*words, *words[-2:] * 5] if number else words

    talk = SteppedStream(script=repeats)
    talk.feed(1, 2, 3, 4)
    talk.passes()
    talk.feed(5, 6)
    talk.passes()
    assert talk.text == "w1 w2 w3 w4"
    assert [m.text for m in talk.messages if isinstance(m, Drafted)] == [" w1 w2 w3 w4", ""]


@pytest.mark.parametrize(
    ("no_speech", "p", "kept"),
    [(0.4, 0.5, "w1 w2"), (0.43, 0.9, ""), (0.9, 0.9, ""), (0.1, 0.4, "")],
)
def test_a_draft_that_repeats_itself_over_sounds_or_many_voices_is_none(no_speech, p, kept):
    talk = SteppedStream()
    talk.feed(1, 2, 3, 4)
    found = talk.recogniser.recognise(spoken(1, 2, 3, 4), how=DRAFT)
    segments = tuple(
        replace(one, words=tuple(replace(word, probability=p) for word in one.words))
        for one in found.segments
    )
    for number in (5, 6):
        assert talk.stream.begin()
        loop = replace(
            found, segments=segments, no_speech=no_speech, mean_logprob=-0.1, cut_short=True
        )
        talk.messages += talk.stream.done(loop)
        talk.feed(number)
    assert talk.text == kept


def test_a_draft_between_two_that_count_as_none_commits_nothing():
    talk = SteppedStream(replace(NOW, patience_s=1.0))
    drafts = [(0.1, "w1"), (0.9, "you"), (0.1, "w1 w2"), (0.9, "you"), (0.1, "w1 w2"), (0.1, "w1")]
    kept = []
    for number, (no_speech, text) in enumerate(drafts):
        talk.feed(2 * number, 2 * number + 1)
        assert talk.stream.begin()
        found = recognition(text, no_speech, -0.5, 0.5, length=WORD)
        talk.messages += talk.stream.done(found)
        kept.append(talk.text)
    assert kept == ["", "", "", "", "", "w1"]


def test_a_phrase_is_said_once_however_often_a_model_repeats_it():
    def plain(text: str) -> list[Word]:
        return [Word(f" {word}", i, i + 1) for i, word in enumerate(text.split())]

    def once(text: str) -> str:
        return "".join(word.text for word in without_loops(plain(text))).strip()

    assert once("we go " * 4 + "home") == "we go home"
    assert once("we go we go we go home") == "we go we go we go home"
    assert once("no no no no") == "no no no no"
    assert once("ha " * 30) == "ha"
    assert once("") == ""


def test_a_phrase_that_comes_again_in_no_time_is_the_model_s_own():
    def spoken(last_at: float) -> str:
        at = [0, 0.7, 1.3, 1.4, last_at, last_at + 0.1]
        words = [
            Word(f" {t}", samples(s), samples(s + 0.1)) for t, s in zip("abcabc", at, strict=True)
        ]
        return "".join(word.text for word in without_loops(words))

    assert spoken(1.4) == " a b c"
    assert spoken(2.4) == " a b c a b c"


@pytest.mark.parametrize("late", [False, True])
def test_a_phrase_that_is_laid_over_an_instant_is_the_model_s_own_wherever_it_ends(late):
    """An aligner gives a sentence that is written twice to the sound once: the rest has no time.

    Its last word has the silence behind it, so that the phrase as a whole does not look short.
    """
    at, instant = [0, 0.2, 0.4, 0.7, 0.9], [1.0, 1.0, 1.0, 1.02, 1.05]
    times = [*instant, *(1.1 + t for t in at)] if late else [*at, *instant]
    ends = [*times[1:], times[-1] + 0.5]
    words = [
        Word(f" {text}", samples(start), samples(end))
        for text, start, end in zip("abcdeabcde", times, ends, strict=True)
    ]
    once = without_loops(words)
    assert "".join(word.text for word in once) == " a b c d e"
    assert samples(0.8) < once[-1].start - once[0].start

    people = [Word(w.text, samples(0.12 * i), samples(0.12 * i + 0.1)) for i, w in enumerate(words)]
    assert without_loops(people) == people


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (recognition("you", 0.99, -0.6, 0.36), 0),  # digital silence, tiny.en
        (recognition("I'm going to do", 0.84, -0.92, 0.24), 0),  # white noise, base
        (recognition("Thanks for watching", 0.38, -1.21, 0.51), 0),  # music, base
        (recognition("The truth has been", 0.31, -0.96, 0.4, tokens=61), 0),  # eight voices
        (recognition("Thank you", 0.79, -0.8, 0.67, length=5 * SAMPLE_RATE), 0),  # chords, tiny.en
        (recognition("I'm not sure if I can", 0.74, -0.89, 0.2), 0),  # key clicks, base
        (recognition("not sure if I can", 0.74, -0.89, 0.2), 5),  # too few to tell
        (recognition(". ... -", 0.3, -0.3, 0.9), 0),
        (recognition("The place has been", 0.37, -0.79, 0.73), 4),  # speech in noise
        (recognition("It's green", 0.16, -0.92, 0.45), 2),
        (recognition("We are here", 0.9, -0.3, 0.9), 3),  # behind a long silence
        (recognition("Thank you", 0.79, -0.8, 0.67), 2),
        (recognition("1,001 90210 01803", 0.89, -0.77, 0.58), 3),  # read out, base
        (recognition("50 %", 0.1, -0.3, 0.9), 2),
    ],
)
def test_words_that_a_model_writes_where_nobody_speaks_are_left_out(found, kept):
    talk = SteppedStream()
    talk.feed(1, 2, 3)
    talk.mark(1)
    talk.begin()
    talk.messages += talk.stream.done(found)
    assert len(talk.words) == kept
    assert talk.reached == [1]


@pytest.mark.parametrize(
    ("found", "fed_s", "rule", "kept"),
    [
        (recognition("Thank you for watching", 0.75, -0.92, 0.66), 9, NOW, 0),  # eight voices
        (recognition("bye bye " * 4, 0.75, -0.3, 0.9), 9, NOW, 0),
        (recognition("Thank you for watching", 0.59, -0.92, 0.66), 9, NOW, 4),
        (recognition("Thank you for watching", 0.75, -0.3, 0.85), 9, NOW, 4),
        (recognition("90210 01803 out", 0.87, -0.4, 0.7), 9, NOW, 3),
        (recognition("Thank you for watching", 0.75, -0.92, 0.66), 7, NOW, 4),
        (recognition("Thank you", 0.75, -0.92, 0.66, length=2 * SAMPLE_RATE), 9, NOW, 2),
        (recognition("Thank you for watching", 0.75, -0.92, 0.66), 9, CommitRule(0), 4),
    ],
)
def test_a_doubted_last_pass_is_none_where_drafts_had_its_words_and_found_none(
    found, fed_s, rule, kept
):
    talk = SteppedStream(rule)
    for at in range(fed_s):
        talk.stream.feed(np.ones(SAMPLE_RATE, np.float32), at * SAMPLE_RATE)
        assert talk.stream.begin()
        talk.messages += talk.stream.done(recognition("you", 0.99, -0.6, 0.36))
    talk.mark(1)
    talk.begin()
    talk.messages += talk.stream.done(found)
    assert (len(talk.words), talk.reached) == (kept, [1])


def test_a_doubted_last_pass_goes_on_from_what_drafts_committed():
    talk = SteppedStream()
    text = "one of us has to go there now"
    for at in range(12):
        talk.stream.feed(np.ones(SAMPLE_RATE, np.float32), at * SAMPLE_RATE)
        assert talk.stream.begin()
        draft = recognition(" ".join(text.split()[: at + 1]), 0.7, -0.6, 0.7, length=SAMPLE_RATE)
        talk.messages += talk.stream.done(draft)
    talk.mark(1)
    talk.begin()
    found = recognition(f"{text} or so", 0.7, -0.6, 0.7, length=SAMPLE_RATE)
    talk.messages += talk.stream.done(found)
    assert talk.text == f"{text} or so"


def test_the_outer_words_of_an_utterance_are_no_longer_than_its_sound():
    noise = np.random.default_rng(3).standard_normal(4 * SAMPLE_RATE).astype(np.float32)
    audio = 0.001 * noise
    audio[SAMPLE_RATE : 3 * SAMPLE_RATE] = 0.1 * noise[SAMPLE_RATE : 3 * SAMPLE_RATE]
    words = [Word(" a", 0, 2 * SAMPLE_RATE), Word(" b", 2 * SAMPLE_RATE, 4 * SAMPLE_RATE)]
    near = SAMPLE_RATE // 10
    one, two = within_sound(words, audio, first=True, last=True)
    assert abs(one.start - SAMPLE_RATE) < near
    assert abs(two.end - 3 * SAMPLE_RATE) < near
    assert (one.end, two.start) == (words[0].end, words[1].start)
    assert within_sound(words, audio, first=False, last=False) == tuple(words)
    for same in (np.zeros(SAMPLE_RATE, np.float32), audio[:100]):
        assert within_sound(words, same, first=True, last=True) == tuple(words)
    late = [Word(" c", 7 * SAMPLE_RATE // 2, 4 * SAMPLE_RATE)]
    [word] = within_sound(late, audio, first=True, last=True)
    assert word.start <= word.end
