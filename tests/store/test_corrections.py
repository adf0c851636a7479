"""What corrections make of a transcript."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxlive.store.contract import Correction, StoredSession, StoredTranscript, StoredWord

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SESSION = StoredSession("s", "anyone", NOW, "live", "/v1/live", "scripted")


def transcript(*corrections: tuple[int, int, str]) -> StoredTranscript:
    texts = ("The", " quick", " brown", " fox")
    words = tuple(
        StoredWord(n, 0, text, 1000 * n, 1000 * n + 900, 0.5) for n, text in enumerate(texts)
    )
    made = tuple(Correction(*one, "ann", NOW) for one in corrections)
    return StoredTranscript(SESSION, (), words, made)


@pytest.mark.parametrize(
    ("corrections", "text"),
    [
        ([], "The quick brown fox"),
        ([(1, 2, "slow")], "The slow brown fox"),
        ([(0, 1, " A ")], "A quick brown fox"),
        ([(1, 3, "red")], "The red fox"),
        ([(3, 4, "")], "The quick brown"),
        ([(1, 2, "slow"), (1, 2, "fast")], "The fast brown fox"),
        ([(1, 3, "red"), (2, 4, "green cat")], "The quick green cat"),
        ([(0, 1, "A"), (3, 4, "dog")], "A quick brown dog"),
        ([(1, 4, "end"), (0, 1, "An")], "An end"),
    ],
)
def test_the_last_correction_of_a_word_is_in_force(corrections, text):
    made = transcript(*corrections)
    assert "".join(word.text for word in made.corrected()) == text
    assert made.text == "The quick brown fox"


spans = st.tuples(st.integers(0, 3), st.integers(1, 4)).filter(lambda span: span[0] < span[1])


@given(st.lists(st.tuples(spans, st.text("ab ", max_size=2)), max_size=8))
def test_a_correction_is_in_force_until_a_later_one_has_a_word_in_common(made):
    corrections = [(first, stop, text) for (first, stop), text in made]
    in_force = []
    for one in corrections:
        in_force = [c for c in in_force if c[1] <= one[0] or one[1] <= c[0]] + [one]
    texts = ["The", " quick", " brown", " fox"]
    for first, stop, text in in_force:
        space = " " if first else ""
        texts[first:stop] = [space + text.strip() if text.strip() else ""] + [""] * (
            stop - first - 1
        )
    found = transcript(*corrections).corrected()
    assert [word.text for word in found] == [text for text in texts if text]


def test_a_corrected_word_has_the_times_of_those_that_it_stands_for():
    word = transcript((1, 3, "red")).corrected()[1]
    assert (word.number, word.start, word.end, word.probability) == (1, 1000, 2900, None)


def test_between_the_words_of_a_source_those_of_another_are_corrected_by_themselves():
    sources = ("me", "them", "me", "them")
    texts = ("I", "You", " do.", " don't.")
    words = tuple(
        StoredWord(n, n % 2, text, 1000 * n, 1000 * n + 900, source=source)
        for n, (text, source) in enumerate(zip(texts, sources, strict=True))
    )
    made = (Correction(0, 3, "I did.", "ann", NOW), Correction(1, 2, "They", "ann", NOW))
    found = StoredTranscript(SESSION, (), words, made).corrected()
    assert [(word.source, word.text) for word in found] == [
        ("me", "I did."),
        ("them", "They"),
        ("them", " don't."),
    ]
