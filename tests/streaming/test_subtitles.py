from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from voxlive.streaming.clock import SAMPLE_RATE
from voxlive.streaming.events import Word
from voxlive.streaming.subtitles import LINE, LONGEST_MS, SHORTEST_MS, cues, srt, vtt


def spoken(text: str, pace: float = 0.3, start: float = 0.0) -> list[Word]:
    """The words of a text at an even pace, without gaps; a ``|`` is a breath of 0.4 s."""
    words, now = [], start
    for piece in text.split():
        if piece == "|":
            now += 0.4
            continue
        begin, now = now, now + pace
        words.append(Word(f" {piece}", round(begin * SAMPLE_RATE), round(now * SAMPLE_RATE)))
    return words


def texts(*segments: list[Word]) -> list[str]:
    return ["\n".join(cue.lines) for cue in cues(segments)]


def test_a_short_sentence_is_one_line():
    assert texts(spoken("We bought apples.")) == ["We bought apples."]


def test_two_lines_break_after_the_clause():
    said = spoken("When the rain had stopped at last, we went out to see the garden again.", 0.2)
    assert texts(said) == [
        "When the rain had stopped at last,\nwe went out to see the garden again."
    ]


def test_a_long_speech_breaks_where_sentences_end():
    said = spoken(
        "The first sentence is of a fair length. The second one is just about as long as that. "
        "And the third one ends it all in a few more words.",
        0.2,
    )
    assert [text.replace("\n", " ") for text in texts(said)] == [
        "The first sentence is of a fair length.",
        "The second one is just about as long as that.",
        "And the third one ends it all in a few more words.",
    ]


def test_without_punctuation_cues_break_at_breaths():
    said = spoken("one two three four five six seven eight nine ten | eleven twelve thirteen", 0.6)
    assert [text.split()[0] for text in texts(said)] == ["one", "eleven"]


def test_segments_and_pauses_are_never_in_one_cue():
    first, second = spoken("yes"), spoken("no", start=0.4)
    assert texts(first, second) == ["yes", "no"]
    assert texts(spoken("before") + spoken("after", start=2.0)) == ["before", "after"]


def test_a_cue_stays_for_a_second_unless_the_next_one_comes():
    [alone] = cues([spoken("hi", start=3.0)])
    assert (alone.start_ms, alone.end_ms) == (3000, 3000 + SHORTEST_MS)
    hi, there = cues([spoken("hi"), spoken("there", start=0.5)])
    assert (hi.end_ms, there.start_ms) == (500, 500)


def test_scripts_without_spaces_are_joined_and_wrapped():
    said = [Word(char, n * 1600, (n + 1) * 1600) for n, char in enumerate("今日は晴れです" * 8)]
    [cue] = cues([said])
    assert "".join(cue.lines) == "今日は晴れです" * 8
    assert all(len(line) <= LINE for line in cue.lines)


def test_a_word_longer_than_a_line_is_not_lost():
    assert "".join(cues([[Word("x" * 100, 0, 1600)]])[0].lines) == "x" * 100


def test_srt_and_vtt_of_nothing():
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n\n"


def test_srt_and_vtt_as_written():
    found = cues([spoken("Fish & <chips> -->", 0.5, start=3661.25), spoken("Bye.", start=3670)])
    assert srt(found) == (
        "1\n01:01:01,250 --> 01:01:03,250\nFish & <chips> -->\n\n"
        "2\n01:01:10,000 --> 01:01:11,000\nBye.\n\n"
    )
    assert vtt(found) == (
        "WEBVTT\n\n"
        "01:01:01.250 --> 01:01:03.250\nFish &amp; &lt;chips&gt; --&gt;\n\n"
        "01:01:10.000 --> 01:01:11.000\nBye.\n\n"
    )


timed_words = st.lists(
    st.tuples(
        st.text("abcdef,.?é", min_size=1, max_size=60),
        st.integers(0, 2 * SAMPLE_RATE),
        st.integers(0, 9 * SAMPLE_RATE),
    ),
    max_size=40,
)


@given(st.lists(timed_words, max_size=4))
def test_every_word_is_shown_once_in_order_within_the_limits(spec):
    now, segments = 0, []
    for entries in spec:
        words = []
        for text, gap, length in entries:
            words.append(Word(f" {text}", now + gap, now + gap + length))
            now += gap + length
        segments.append(words)
    found = cues(segments)
    shown = "".join("".join(cue.lines) for cue in found)
    assert shown.replace(" ", "") == "".join(w.text.strip() for words in segments for w in words)
    for cue in found:
        assert cue.start_ms < cue.end_ms <= cue.start_ms + LONGEST_MS
        assert all(0 < len(line) <= LINE for line in cue.lines)
        assert len(cue.lines) <= 2
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(found))
