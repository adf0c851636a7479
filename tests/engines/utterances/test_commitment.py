"""When words of a growing utterance are committed, over recognisers that change their mind."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxlive.engines.utterances.commitment import Commitment, CommitRule, spelling
from voxlive.recognisers.vocabulary import TermMatcher
from voxlive.values import SAMPLE_RATE, Word

S = SAMPLE_RATE


def words(
    text: str, start_s: float = 0, length_s: float = 0.5, probability: float | None = None
) -> list[Word]:
    """A word every ``length_s``."""
    return [
        Word(
            f" {word}",
            round((start_s + i * length_s) * S),
            round((start_s + (i + 1) * length_s) * S),
            probability,
        )
        for i, word in enumerate(text.split())
    ]


def texts(committed) -> str:
    return "".join(word.text for word in committed).strip()


def run(rule: CommitRule, passes: list[str], every_s: float = 1.0) -> list[str]:
    commitment = Commitment(rule)
    return [
        texts(commitment.update(words(text), round((i + 1) * every_s * S)))
        for i, text in enumerate(passes)
    ]


def test_passes_that_agree_commit_what_lies_behind_the_lag():
    said = ["a b", "a b c d", "a b c d e f"]
    assert run(CommitRule(2, 0), said) == ["", "a b", "c d"]
    assert run(CommitRule(2, 1.0), said) == ["", "a b", "c d"]
    assert run(CommitRule(2, 1.5), said) == ["", "a", "b c"]
    assert run(CommitRule(3, 0), said) == ["", "", "a b"]
    assert run(CommitRule(2, 0, last=False), ["a b", "a b", "a b"]) == ["", "a", ""]
    assert run(CommitRule(0), said) == ["", "", ""]


def test_a_word_on_which_passes_do_not_agree_waits_no_longer_than_the_patience():
    rule = CommitRule(2, 0, patience_s=2.0)
    passes = ["a x", "a b c d", "a y c e f g", "a y z h i j k l", "a y z h i j k l m n"]
    assert run(rule, passes) == ["", "a", "y", "z h", "i j k l"]
    assert run(CommitRule(2, 0), passes)[:4] == ["", "a", "", "y"]


def test_a_pass_that_counts_as_none_interrupts_agreement_and_patience():
    commitment = Commitment(CommitRule(2, 0, patience_s=1.0))
    said = ["b", "b c", "a b c d", "a b c d e"]
    committed = []
    for i, text in enumerate(said):
        committed.append(texts(commitment.update(words(text), (i + 1) * S)))
        if i < 2:
            commitment.interrupt()
            assert commitment.draft.strip() == text
    assert committed == ["", "", "", "a b c d e"]  # behind the first two in a row


@pytest.mark.parametrize(
    ("before", "now", "certain"),
    [(0.9, 0.9, "a b c"), (0.9, 0.7, "a"), (0.7, 0.9, "a"), (None, 0.9, "a"), (None, None, "a")],
)
def test_words_of_which_all_passes_are_sure_wait_less(before, now, certain):
    commitment = Commitment(CommitRule(2, 2.0, sure_lag_s=1.0, sure=0.8))
    commitment.update(words("a b c d", probability=before), 2 * S)
    assert texts(commitment.update(words("a b c d e", probability=now), 5 * S // 2)) == certain


@pytest.mark.parametrize(("now", "certain"), [(0.2, ""), (0.3, "a"), (None, "a")])
@pytest.mark.parametrize("agreeing", [True, False])
def test_a_word_that_the_last_pass_hardly_believes_waits_longest(now, certain, agreeing):
    commitment = Commitment(CommitRule(2, 1.0, patience_s=1.0, unsure_lag_s=2.5))
    commitment.update(words("a b" if agreeing else "x b", probability=0.9), S)
    assert texts(commitment.update(words("a b", probability=now), 7 * S // 4)) == certain
    rest = commitment.update(words("a b", probability=now), 15 * S // 4)
    assert f"{certain} {texts(rest)}".strip() == "a b"


def surely(text: str) -> list[Word]:
    """As ``words``: a word for each fifth of a second of ``text/probability``, - for none."""
    return [
        Word(f" {word}", i * S // 5, (i + 1) * S // 5, float(p))
        for i, (word, _, p) in enumerate(one.partition("/") for one in text.split())
        if word != "-"
    ]


@pytest.mark.parametrize(
    ("passes", "last", "committed"),
    [
        # Two passes have a word and are surer of the next one with it; where it is does not matter.
        (["and/.2 mister/.8", "and/.1 mister/.9"], "- mister/.3 john/1", "and mister john"),
        (["in/1 the/.4 park/.9"] * 2, "in/1 - park/.6 now/1", "in the park now"),
        (["- mister/.3", *["and/.2 mister/.8"] * 2], "- mister/.3 john/1", "and mister john"),
        # One pass alone, or with two words for one; no surer; said twice; another neighbour.
        (["and/.2 mister/.9", "- mister/.3"], "- mister/.3 john/1", "mister john"),
        (["and/.2 mister/.9", "end/.2 mister/.9"], "- mister/.3 john/1", "mister john"),
        (["and/.9 mister/.5"] * 2, "- mister/.3 john/1", "mister john"),
        (["no/.9 no/.9 more/.9"] * 2, "no/.9 - more/.1", "no more"),
        (["on/1 the/.4 park/.9"] * 2, "in/1 - park/.6 now/1", "in park now"),
    ],
)
def test_a_word_of_two_passes_that_the_last_one_leaves_out_is_kept(passes, last, committed):
    commitment = Commitment(CommitRule(2, 9.0, surer=0.2))
    for text in passes:
        assert not commitment.update(surely(text), S)
    assert texts(commitment.finish(surely(last))) == committed
    plain = Commitment(CommitRule(2, 9.0))
    for text in passes:
        plain.update(surely(text), S)
    assert plain.finish(surely(last)) == tuple(surely(last))


def test_a_word_that_is_kept_comes_once_and_before_the_pause_too():
    commitment = Commitment(CommitRule(2, 0, patience_s=1.0, surer=0.2), TermMatcher(["mistral"]))
    commitment.update(surely("and/.2 mister/.9"), S // 5)
    commitment.update(surely("end/.2 mister/.2 john/.9"), S // 5)
    commitment.update(surely("and/.1 mister/.8"), S // 5)
    first = commitment.update(surely("- mister/.3 john/.9 was/.9"), 7 * S // 5)
    assert texts(first) == "and mister"
    assert [(word.start, word.end) for word in first] == [(0, S // 5), (S // 5, 2 * S // 5)]
    assert commitment.draft == " john was"
    assert (
        texts(commitment.finish(surely("and/.2 mister/.9 john/1 was/1 here/1"))) == "john was here"
    )


def test_agreement_is_on_letters_and_stops_at_the_first_difference():
    assert run(CommitRule(2, 0), ["Yes, we go", "yes we do go"]) == ["", "yes we"]
    assert spelling(" Don\u2019t,") == spelling("dont")
    assert spelling(" \u2026") == "..."


def test_a_pass_that_changes_committed_words_is_aligned_by_text_else_by_time():
    commitment = Commitment(CommitRule(2, 0))
    commitment.update(words("we go to"), 2 * S)
    assert texts(commitment.update(words("we go to the"), 2 * S)) == "we go to"
    # A word more in front: the committed text is found again.
    later = words("oh we go to the sea")
    assert texts(commitment.update(later, 3 * S)) == "the"
    assert commitment.draft == " sea"
    # Nothing of it is found: words behind the last committed one's end, by time.
    assert texts(commitment.finish(words("he does do it sea side"))) == "side"


def test_a_first_word_is_not_taken_for_the_same_one_further_on():
    commitment = Commitment(CommitRule(2, 0))
    for _ in range(2):
        commitment.update(words("there", length_s=0.2), S)
    changed = words("they're two of them out there now", length_s=0.2)
    assert texts(commitment.finish(changed)) == "two of them out there now"


def test_what_was_committed_is_not_said_again_at_the_joint():
    commitment = Commitment(CommitRule(2, 0))
    for _ in range(2):
        commitment.update(words("one two three"), 2 * S)
    # Times have moved by more than a word, so that the last words seem to be new.
    moved = words("two three four", 1.5)
    assert texts(commitment.finish(moved)) == "four"


def test_a_word_that_is_really_repeated_is_kept():
    commitment = Commitment(CommitRule(2, 0))
    for _ in range(2):
        commitment.update(words("no"), S)
    assert texts(commitment.finish(words("no no no"))) == "no no"


def test_the_pause_brings_the_rest_and_begins_anew():
    commitment = Commitment(CommitRule(2, 0))
    for _ in range(2):
        commitment.update(words("a b"), S)
    assert texts(commitment.finish(words("a b c d"))) == "c d"
    assert commitment.draft == ""
    assert commitment.end == 0
    assert texts(commitment.finish(words("a b"))) == "a b"


def test_a_long_utterance_is_cut_and_goes_on():
    commitment = Commitment(CommitRule(2, 0))
    for _ in range(2):
        commitment.update(words("a b c d e"), 3 * S)
    assert texts(commitment.cut(words("a b c d e f g"), 3 * S)) == "f"
    # The cut went through a word: it is recognised again behind it.
    assert texts(commitment.finish(words("f g h", -0.3))) == "g h"


@pytest.mark.parametrize("rule", [CommitRule(2, 0), CommitRule(2, 1.0), CommitRule(3, 0.5)])
def test_a_recogniser_that_knows_is_never_wrong(rule):
    everything = words("the quick brown fox jumps over the lazy dog and the quick brown cat")
    commitment, committed = Commitment(rule), []
    for newest in range(0, everything[-1].end, S // 3):
        committed += commitment.update([w for w in everything if w.end <= newest], newest)
    assert committed == everything[: len(committed)]
    assert (*committed, *commitment.finish(everything)) == tuple(everything)


_PASS = st.lists(st.sampled_from(["a", "b", "c", "A.", "d,"]), max_size=12).map(" ".join)


@given(
    st.lists(st.tuples(_PASS, st.floats(-0.6, 0.6), st.sampled_from([None, 0.5, 0.9])), max_size=8),
    _PASS,
    st.sampled_from(
        [
            CommitRule(2, 0),
            CommitRule(2, 1.0),
            CommitRule(3, 0),
            CommitRule(0),
            CommitRule(3, 0.5, patience_s=1.5),
            CommitRule(2, 2.0, patience_s=2.5, sure_lag_s=1.0),
            CommitRule(2, 1.0, patience_s=1.5, surer=0.2),
            CommitRule(2, 1.0, patience_s=1.5, unsure=0.5, unsure_lag_s=2.0),
        ]
    ),
)
def test_whatever_passes_say_words_come_once_in_order(passes, last, rule):
    commitment = Commitment(rule)
    committed: list[Word] = []
    newest = 0
    for text, shift, probability in passes:
        hypothesis = words(text, max(shift, 0), probability=probability)
        newest = max(newest, hypothesis[-1].end if hypothesis else 0)
        new = commitment.update(hypothesis, newest)
        lag_s = min(rule.lag_s, rule.sure_lag_s)
        assert all(word.end <= max(newest - S * lag_s, commitment.end) for word in new)
        committed += new
        assert commitment.end == (committed[-1].end if committed else 0)
    committed += commitment.finish(words(last))
    assert all(one.end <= two.start for one, two in pairwise(committed))
    assert all(word.start <= word.end for word in committed)


def test_terms_are_agreed_on_as_they_are_spelt_and_drafts_have_them():
    commitment = Commitment(CommitRule(2, 0), TermMatcher(["voxlive"]))
    assert texts(commitment.update(words("we run vox live"), 2 * S)) == ""
    assert commitment.draft == " we run voxlive"
    found = commitment.update(words("we run vox life now"), 2 * S)
    assert texts(found) == "we run voxlive"
    assert found[-1].original == "vox life"
    assert (found[-1].start, found[-1].end) == (S, 2 * S)
    rest = commitment.finish(words("we run vox live now here"))
    assert texts(rest) == "now here"


def test_a_term_takes_no_part_of_what_is_committed():
    """Half of it is committed before the other half is spoken: it is not written twice."""
    commitment = Commitment(CommitRule(2, 0), TermMatcher(["voxlive"]))
    commitment.update(words("we run vox"), 2 * S)
    assert texts(commitment.update(words("we run vox"), 2 * S)) == "we run vox"
    assert texts(commitment.finish(words("we run vox live now"))) == "live now"


@given(st.lists(st.sampled_from(["vox", "live", "voxlive", "we", "now"]), max_size=12))
def test_with_a_vocabulary_every_word_still_comes_once(said):
    commitment = Commitment(CommitRule(2, 0), TermMatcher(["voxlive"]))
    committed = []
    for upto in range(1, len(said) + 1):
        committed += commitment.update(words(" ".join(said[:upto])), upto * S)
    committed += commitment.finish(words(" ".join(said)))
    assert "".join(w.text for w in committed).replace(" ", "") == "".join(said)
    assert all(one.end <= two.start for one, two in pairwise(committed))
