"""One stream over a recogniser of whole utterances, without threads and models."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scripted_recogniser import WORD
from support.stepped_stream import NOW, SteppedStream

from voxlive.engines.contract import (
    Committed,
    Drafted,
    LanguageFound,
    Progressed,
    Reached,
)
from voxlive.engines.utterances.commitment import CommitRule
from voxlive.engines.utterances.engine import DRAFT
from voxlive.engines.utterances.utterance import (
    MAX_WAITING,
    DuePass,
    LanguageVote,
    Overrun,
    PassPlan,
)
from voxlive.recognisers.contract import PassOptions, Recognition
from voxlive.values import SAMPLE_RATE, Word


def test_drafts_grow_words_are_committed_and_the_mark_brings_the_rest():
    talk = SteppedStream()
    talk.feed(1, 2)
    talk.passes()
    assert talk.messages == [Drafted(" w1 w2"), Progressed(2 * WORD)]
    talk.feed(3)
    assert not talk.one_pass()  # not enough new audio for a draft
    talk.feed(4)
    talk.passes()
    assert talk.text == "w1 w2"
    assert [m.text for m in talk.messages if isinstance(m, Drafted)] == [" w1 w2", " w3 w4"]
    talk.mark(7)
    assert talk.reached == []
    talk.passes()
    assert talk.text == "w1 w2 w3 w4"
    assert talk.messages[-1] == Reached(7)
    assert [(w.start, w.end) for w in talk.words] == [(i * WORD, (i + 1) * WORD) for i in range(4)]


def test_every_other_draft_keeps_more_hypotheses():
    talk = SteppedStream()
    made = []
    for number in range(1, 9):
        talk.feed(2 * number, 2 * number + 1)
        if number == 5:
            talk.mark(1)
        talk.begin()
        made.append("last" if talk.due.final else "wide" if talk.due.wide else "draft")
        talk.finish()
    assert made == ["draft", "wide", "draft", "wide", "last", "draft", "wide", "draft"]


def test_marks_are_answered_in_order_behind_their_words():
    talk = SteppedStream()
    talk.mark(1)
    assert talk.reached == [1]
    talk.feed(1, 2)
    talk.mark(2)
    talk.mark(3)
    talk.feed(3, 4, gap=5 * WORD)
    talk.mark(4)
    assert talk.reached == [1]
    talk.passes()
    assert talk.reached == [1, 2, 3, 4]
    kinds = [
        m.marker if isinstance(m, Reached) else len(m.words)
        for m in talk.messages
        if isinstance(m, Reached | Committed)
    ]
    assert kinds == [1, 2, 2, 3, 2, 4]
    assert talk.words[2].start == 7 * WORD


def test_a_mark_that_comes_during_a_pass_waits_for_a_last_one():
    talk = SteppedStream(CommitRule(0))
    talk.feed(1, 2)
    due = talk.stream.begin()
    talk.mark(1)
    talk.messages += talk.stream.done(talk.recogniser.recognise(due.audio))
    assert talk.reached == []
    talk.passes()
    assert (talk.text, talk.reached) == ("w1 w2", [1])


def test_silence_that_was_left_out_moves_the_words_behind_it():
    talk = SteppedStream()
    talk.feed(1, 2)
    talk.feed(3, gap=10 * WORD)
    talk.mark(1)
    talk.passes()
    assert [(w.start, w.end) for w in talk.words] == [
        *((0, WORD), (WORD, 2 * WORD), (12 * WORD, 13 * WORD)),
    ]


def test_a_long_utterance_is_cut_where_it_is_quiet_and_no_word_is_lost_or_doubled():
    plan = PassPlan(longest_s=10, shortest_cut_s=4)
    talk = SteppedStream(CommitRule(0), plan, drafts=False)
    said = [*range(1, 15), 0, *range(15, 28), 0, *range(28, 40), 0, 0, *range(40, 57)]
    for number in said:
        talk.feed(number)
        talk.passes()
    talk.mark(1)
    talk.passes()
    assert talk.text.split() == [f"w{n}" for n in range(1, 57)]
    starts = [at * WORD for at, number in enumerate(said) if number]
    assert [word.start for word in talk.words] == starts
    assert max(talk.recogniser.lengths) <= 10 * SAMPLE_RATE
    assert talk.stream.waiting == 0


def test_no_draft_is_made_where_nobody_wants_one():
    talk = SteppedStream(CommitRule(0), drafts=False)
    talk.feed(1, 2, 3, 4)
    assert talk.stream.begin() is None
    talk.mark(1)
    talk.passes()
    assert not [m for m in talk.messages if isinstance(m, Drafted)]
    assert talk.text == "w1 w2 w3 w4"


def test_more_than_may_wait_is_refused():
    talk = SteppedStream()
    talk.stream.feed(np.zeros(MAX_WAITING, np.float32), 0)
    with pytest.raises(Overrun):
        talk.stream.feed(np.zeros(1, np.float32), MAX_WAITING)


def is_draft(how: PassOptions) -> bool:
    return how.margin_s == DRAFT.margin_s


def wrong_end(words, _number, how):
    """The last word of a draft is another one each time."""
    if not is_draft(how) or not words:
        return words
    return [*words[:-1], Word(f" x{_number}", words[-1].start, words[-1].end)]


def loops(words, number, how):
    """Every other draft repeats its last words."""
    return words if not is_draft(how) or number % 2 else [*words, *words[-2:] * 5]


def nothing(words, number, how):
    """Every third draft finds nothing."""
    return words if not is_draft(how) or number % 3 else []


def shifted(words, number, how):
    """Times of drafts are off by up to a third of a word."""
    if not is_draft(how):
        return words
    by = (number * 977) % (WORD // 3)
    return [Word(w.text, w.start + by, w.end + by, w.probability) for w in words]


def unsure(words, _number, how):
    """Last passes over a few words alone are wrong and know it; behind others they are right."""
    if is_draft(how) or how.before or len(words) > 4:
        return words
    return [Word(" x", words[0].start, words[-1].end, 0.3)] if words else []


@pytest.mark.parametrize(
    ("silence", "said"), [(2, "w8 w9"), (18, "w8 w9"), (22, "x")], ids=["1 s", "9 s", "11 s"]
)
def test_a_short_utterance_that_is_unsure_is_recognised_behind_those_before(silence, said):
    talk = SteppedStream(CommitRule(2, 2.0), script=unsure, drafts=False)
    talk.feed(1, 2, 3, 4, 5, 6, 7)
    talk.mark(1)
    talk.passes()
    talk.feed(8, 9, gap=silence * WORD)
    talk.mark(2)
    talk.passes()
    assert talk.text == f"w1 w2 w3 w4 w5 w6 w7 {said}"
    begin = (7 + silence) * WORD
    assert (talk.words[7].start, talk.words[-1].end) == (begin, begin + 2 * WORD)
    lengths = [7, 2] if said == "x" else [7, 2, 9]
    assert talk.recogniser.lengths == [length * WORD for length in lengths]


def test_at_the_pause_alone_an_utterance_is_recognised_by_itself():
    talk = SteppedStream(CommitRule(0), script=unsure)
    for said in ((1, 2, 3, 4, 5, 6, 7), (8, 9)):
        talk.feed(*said, gap=WORD)
        talk.mark(said[0])
        talk.passes()
    assert talk.text == "w1 w2 w3 w4 w5 w6 w7 x"


@pytest.mark.parametrize(
    ("last", "first", "gap", "said"),
    [
        ((" w3...", 0.5), (" W3", 0.6), 1, "w1 w2 w3... w4"),
        ((" w3\u2026", None), (" w3,", None), 1, "w1 w2 w3\u2026 w4"),
        ((" w3.", 0.5), (" W3", 0.6), 1, "w1 w2 w3. W3 w4"),
        ((" w3...", 0.9), (" W3", 0.6), 1, "w1 w2 w3... W3 w4"),
        ((" w3...", 0.5), (" W3", 0.9), 1, "w1 w2 w3... W3 w4"),
        ((" w3...", 0.5), (" w5", 0.5), 1, "w1 w2 w3... w5 w4"),
        ((" w3...", 0.5), (" W3", 0.6), 3, "w1 w2 w3... W3 w4"),
    ],
)
@pytest.mark.parametrize("passes", [2, 0])
def test_a_word_at_which_an_utterance_breaks_off_comes_once(last, first, gap, said, passes):
    """But for utterances that are recognised by themselves."""

    def script(words, _number, how):
        found = []
        for word in words:
            if word.text == " w3":
                text, probability = last if word is words[-1] else first
                word = replace(word, text=text, probability=probability)
            found.append(word)
        return found

    talk = SteppedStream(CommitRule(passes, 9.0), PassPlan(before_s=0), script=script, drafts=False)
    talk.feed(1, 2, 3)
    talk.mark(1)
    talk.feed(3, 4, gap=gap * WORD)
    talk.mark(2)
    talk.passes()
    both = f"w1 w2{last[0]}{first[0]} w4"
    assert talk.text == (said if passes else both)
    assert talk.reached == [1, 2]


def test_what_goes_before_is_no_longer_than_the_plan_has_it():
    talk = SteppedStream(CommitRule(2, 2.0), PassPlan(before_s=4.0), script=unsure, drafts=False)
    for number in range(1, 60, 10):
        talk.feed(*range(number, number + 8), 0, number + 8)
        talk.mark(number)
        talk.feed(number + 9, gap=WORD)
        talk.mark(number + 1)
        talk.passes()
    assert talk.text.split() == [f"w{number}" for number in range(1, 61)]
    assert max(talk.recogniser.lengths) <= 10 * WORD
    assert 4 * WORD < min(talk.recogniser.lengths[2::3]) <= 9 * WORD


@pytest.mark.parametrize("found", ["again", "nothing", "less sure", "a loop"])
def test_what_is_no_better_behind_the_words_before_is_not_taken(found):
    def script(words, _number, how):
        if how.before is None:
            return [replace(word, probability=0.5) for word in words]
        behind = {
            "again": [" w5", " w6"],
            "nothing": [],
            "less sure": [" y"],
            "a loop": [" y", " z"] * 5,
        }[found]
        p = 0.4 if found == "less sure" else 0.9
        return [Word(text, words[0].start, words[-1].end, p) for text in behind]

    talk = SteppedStream(CommitRule(2, 2.0), script=script, drafts=False)
    for said in ((1, 2, 3, 4, 5, 6, 7), (8, 9)):
        talk.feed(*said, gap=WORD)
        talk.mark(said[0])
        talk.passes()
    assert 9 * WORD in talk.recogniser.lengths
    assert talk.text == "w1 w2 w3 w4 w5 w6 w7 w8 w9"


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.integers(1, 4)),
        st.tuples(st.just("gap"), st.integers(1, 6)),
        st.just(("mark", 0)),
        st.just(("pass", 0)),
        st.just(("begin", 0)),
        st.just(("finish", 0)),
    ),
    max_size=60,
)


@given(
    _STEPS,
    st.sampled_from([None, wrong_end, loops, nothing, shifted, unsure]),
    st.sampled_from(
        [
            NOW,
            CommitRule(2, 1.0),
            CommitRule(3, 0.5),
            CommitRule(0),
            CommitRule(2, 2.0, sure_lag_s=0.5),
        ]
    ),
)
def test_every_word_comes_once_in_order_before_its_mark(steps, script, rule):
    plan = PassPlan(longest_s=6, shortest_cut_s=3) if script else PassPlan(longest_s=1000)
    talk = SteppedStream(rule, plan, script)
    number = marker = 0
    due: dict[int, int] = {}
    for kind, count in steps:
        match kind:
            case "feed":
                talk.feed(*range(number + 1, number + count + 1))
                number += count
            case "gap":
                talk.at += count * WORD
            case "mark":
                marker += 1
                due[marker] = number
                talk.mark(marker)
            case "pass":
                talk.one_pass()
            case "begin":
                talk.begin()
            case "finish":
                talk.finish()
    marker += 1
    due[marker] = number
    talk.mark(marker)
    talk.finish()
    talk.passes()
    assert talk.reached == list(range(1, marker + 1))
    said: list[int] = []
    for message in talk.messages:
        if isinstance(message, Committed):
            said += [int(w.text[2:]) for w in message.words if w.text.startswith(" w")]
        elif isinstance(message, Reached) and script is None:
            assert said == [*range(1, due[message.marker] + 1)]
    assert said == sorted(set(said))
    assert all(one.end <= two.start for one, two in pairwise(talk.words))
    assert all(word.end <= talk.at for word in talk.words)
    progress = [m.upto for m in talk.messages if isinstance(m, Progressed)]
    assert progress == sorted(progress)


@given(_STEPS, st.randoms(use_true_random=False), st.sampled_from([NOW, CommitRule(3, 0.5)]))
def test_whatever_a_recogniser_finds_times_are_in_order_and_marks_behind_words(steps, random, rule):
    """Passes find other words each time, more or fewer, in any order, behind the audio's end."""

    def anything(words, _number, _how):
        found = [w for w in words * 2 if random.random() < 0.6]
        random.shuffle(found)
        by = random.randrange(-WORD, WORD)
        change = [random.choice((w.text, " other", " .", "")) for w in found]
        return [
            Word(text, max(0, w.start + by), max(0, w.end + by))
            for text, w in zip(change, found, strict=True)
        ]

    talk = SteppedStream(rule, PassPlan(longest_s=6, shortest_cut_s=3), anything)
    ends: dict[int, int] = {}
    for kind, count in steps:
        match kind:
            case "feed":
                talk.feed(*range(1, count + 1))
            case "gap":
                talk.at += count * WORD
            case "mark":
                ends[len(ends) + 1] = talk.at
                talk.mark(len(ends))
            case "pass":
                talk.one_pass()
            case "begin":
                talk.begin()
            case "finish":
                talk.finish()
    talk.mark(len(ends) + 1)
    talk.finish()
    talk.passes()
    assert talk.reached == list(range(1, len(ends) + 2))
    assert all(word.start <= word.end for word in talk.words)
    assert all(one.end <= two.start for one, two in pairwise(talk.words))
    before: list[Word] = []
    for message in talk.messages:
        if isinstance(message, Committed):
            before += message.words
        elif isinstance(message, Reached):
            end = ends.get(message.marker, talk.at)
            assert all(word.end <= end for word in before)


def language_of(passes: list[tuple[float, bool, str, float | None]]) -> list[LanguageFound]:
    """What comes of passes over so many seconds: final, with this language and probability."""
    vote = LanguageVote()
    found = []
    for length_s, final, language, p in passes:
        due = DuePass(np.zeros(round(length_s * SAMPLE_RATE), np.float32), final)
        found.append(vote.add(due, Recognition(language=language, language_p=p)))
    return [one for one in found if one]


def test_the_first_probable_language_over_two_seconds_holds():
    passes = [(0.7, False, "fr", 0.9), (1.4, False, "fr", 0.9), (2.1, False, "de", 0.4)]
    passes += [(2.8, False, "de", 0.8), (3.5, False, "fr", 1.0)]
    assert language_of(passes) == [LanguageFound("de", 0.8)]
    assert language_of([(2.0, True, "de", None)]) == [LanguageFound("de", None)]


def test_short_utterances_vote_on_the_language_for_ten_seconds_at_most():
    short = [(1.0, True, "fr" if n % 3 else "de", 0.6) for n in range(12)]
    assert language_of(short[:9]) == []
    assert language_of(short) == [LanguageFound("fr", None)]


def test_silence_has_no_language():
    vote = LanguageVote()
    nothing = Recognition(language="cy", language_p=0.9, no_speech=0.9, mean_logprob=-2)
    assert vote.add(DuePass(np.zeros(5 * SAMPLE_RATE, np.float32), True), nothing) is None
    assert vote.language is None


def test_a_pass_asks_for_the_task_and_the_language_that_are_in_force():
    talk = SteppedStream(CommitRule(0), task="translate", drafts=False)
    talk.feed(1, 2, 3, 4, 5)
    talk.mark(1)
    due = talk.stream.begin()
    assert (due.language, due.task) == (None, "translate")
    talk.messages += talk.stream.done(Recognition(language="de", language_p=0.9))
    assert talk.messages[0] == LanguageFound("de", 0.9)
    talk.feed(1)
    talk.mark(2)
    due = talk.stream.begin()
    assert (due.language, due.task) == ("de", "translate")
