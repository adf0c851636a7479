import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.timed import timed_segment, timed_word

from voxlive.runners.joining import join, needs_space
from voxlive.values import Segment, samples


def segments_of(words, timed=False, **more):
    text = "".join(f" {word}" for word in words)
    if not timed:
        return (timed_segment(0, text, **more),) if words else ()
    own = tuple(timed_word(f" {word}", at / 4, (at + 1) / 4) for word, at in words)
    return (Segment(0, "".join(word.text for word in own), own[0].start, own[-1].end, own),)


def joined(before, after, start, end):
    return join(before, after, samples(start), samples(end))


def text_of(*parts):
    return " ".join(segment.text.strip() for part in parts for segment in part)


vocabulary = st.lists(st.text("abcdefghij", min_size=2, max_size=6), min_size=1, unique=True)


@given(words=vocabulary, data=st.data())
def test_no_word_is_lost_or_stands_twice(words, data):
    """Two hearings of one text, which overlap; what an edge cuts off is heard as something else."""
    begin = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(begin + 1, min(len(words), begin + 12)))
    before, after = words[:end], words[begin:]
    common = end - begin
    if common > 1 and data.draw(st.booleans()):
        before = [*before[:-1], "XX"]
        common -= 1
    if common > 1 and data.draw(st.booleans()):
        after = ["YY", *after[1:]]
    assert text_of(*joined(segments_of(before), segments_of(after), 10.0, 12.0)) == " ".join(words)


@given(words=vocabulary)
def test_without_a_common_word_all_stay(words):
    other = [f"x{word}" for word in words]
    assert text_of(*joined(segments_of(words), segments_of(other), 1, 3)) == " ".join(
        [*words, *other]
    )


def test_case_and_punctuation_do_not_hide_a_word():
    first, second = joined(
        segments_of(["we", "saw", "The", "dog,"]), segments_of(["the", "dog", "ran."]), 1, 3
    )
    assert text_of(first, second) == "we saw The dog, ran."


def test_a_repeated_word_is_not_joined_with_its_first():
    before = ["the", "cat", "and", "the", "dog"]
    after = ["the", "dog", "and", "the", "cow"]
    assert (
        text_of(*joined(segments_of(before), segments_of(after), 1, 3))
        == "the cat and the dog and the cow"
    )


def test_words_with_times_are_divided_in_the_middle_when_none_agrees():
    before = segments_of([("one", 0), ("two", 4), ("tree", 7)], timed=True)
    after = segments_of([("wo", 4), ("three", 6), ("four", 9)], timed=True)
    first, second = joined(before, after, 1.0, 2.0)
    assert text_of(first, second) == "one two three four"
    assert (first[-1].end, second[0].start) == (samples(1.25), samples(1.5))


def test_a_common_word_far_from_the_overlap_in_time_joins_nothing():
    before = segments_of([("so", 0), ("one", 8), ("two", 9)], timed=True)
    after = segments_of([("three", 11), ("four", 13), ("so", 40)], timed=True)
    assert text_of(*joined(before, after, 2.0, 3.0)) == "so one two three four so"


def test_a_script_without_spaces_is_joined_by_characters():
    before, after = (timed_segment(0, "今日はいい天気"),), (timed_segment(0, "い天気ですね"),)
    first, second = joined(before, after, 1, 3)
    assert "".join(segment.text for segment in (*first, *second)) == "今日はいい天気ですね"


def test_segments_that_lose_all_their_words_are_gone_and_the_others_untouched():
    before = (
        timed_segment(0, " a b", 0, 1, speaker="1"),
        timed_segment(1, " c d", 1, 3, speaker="2"),
    )
    after = (timed_segment(0, " c d", 2, 3), timed_segment(1, " e", 3, 4))
    first, second = joined(before, after, 2, 3)
    assert first == before
    assert second == after[1:]


@pytest.mark.parametrize(
    ("before", "after", "needed"),
    [
        ("a", "b", True),
        ("a", " b", False),
        ("天", "気", False),
        ("天", "a", True),
        ("", "a", False),
    ],
)
def test_a_space_goes_between_words_of_scripts_that_have_it(before, after, needed):
    assert needs_space(before, after) is bool(needed)
