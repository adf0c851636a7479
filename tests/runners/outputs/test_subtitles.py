import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.timed import timed_segment, timed_word

from voxlive.runners.outputs.subtitles import CueStyle, cues, srt, vtt
from voxlive.values import Segment, Word, seconds

STYLE = CueStyle()
GOLDEN = Path(__file__).parents[2] / "golden" / "subtitles.json"


def evenly_timed(text: str, pace: float = 0.3, start: float = 0.0) -> list[Word]:
    """The words of a text at an even pace, without gaps; a ``|`` is a breath of 0.4 s."""
    words, now = [], start
    for piece in text.split():
        if piece == "|":
            now += 0.4
            continue
        begin, now = now, now + pace
        words.append(timed_word(f" {piece}", begin, now))
    return words


def segments(*utterances: list[Word]) -> list[Segment]:
    return [
        timed_segment(n, "".join(w.text for w in words), words=tuple(words))
        for n, words in enumerate(utterances)
    ]


def texts(*utterances: list[Word], style: CueStyle = STYLE) -> list[str]:
    return ["\n".join(cue.lines) for cue in cues(segments(*utterances), style)]


def test_a_short_sentence_is_one_line():
    assert texts(evenly_timed("We bought apples.")) == ["We bought apples."]


def test_two_lines_break_after_the_clause():
    utterance = evenly_timed(
        "When the rain had stopped at last, we went out to see the garden again.", 0.2
    )
    assert texts(utterance) == [
        "When the rain had stopped at last,\nwe went out to see the garden again."
    ]


def test_a_long_speech_breaks_where_sentences_end():
    utterance = evenly_timed(
        "The first sentence is of a fair length. The second one is just about as long as that. "
        "And the third one ends it all in a few more words.",
        0.2,
    )
    assert [text.replace("\n", " ") for text in texts(utterance)] == [
        "The first sentence is of a fair length.",
        "The second one is just about as long as that.",
        "And the third one ends it all in a few more words.",
    ]


def test_without_punctuation_cues_break_at_breaths():
    utterance = evenly_timed(
        "one two three four five six seven eight nine ten | eleven twelve thirteen", 0.6
    )
    assert [text.split()[0] for text in texts(utterance)] == ["one", "eleven"]


def test_segments_and_pauses_are_never_in_one_cue():
    first, second = evenly_timed("yes"), evenly_timed("no", start=0.4)
    assert texts(first, second) == ["yes", "no"]
    assert texts(evenly_timed("before") + evenly_timed("after", start=2.0)) == ["before", "after"]


def test_a_cue_stays_for_a_second_unless_the_next_one_comes():
    [alone] = cues(segments(evenly_timed("hi", start=3.0)))
    assert (alone.start_ms, alone.end_ms) == (3000, 3000 + STYLE.shortest_ms)
    hi, there = cues(segments(evenly_timed("hi"), evenly_timed("there", start=0.5)))
    assert (hi.end_ms, there.start_ms) == (420, 500)


@pytest.mark.parametrize("style", [STYLE, CueStyle(shortest_ms=3000)])
def test_no_cue_outlasts_the_audio(style):
    utterance = segments(evenly_timed("hi there"), evenly_timed("you", start=3.0))
    whole = seconds(utterance[-1].words[-1].end) + 0.1
    free, held = cues(utterance, style), cues(utterance, style, whole)
    assert held[:-1] == free[:-1]
    assert free[-1].end_ms > whole * 1000 >= held[-1].end_ms > held[-1].start_ms


def test_scripts_without_spaces_are_joined_and_wrapped():
    utterance = [
        timed_word(char, n / 10, (n + 1) / 10) for n, char in enumerate("今日は晴れです" * 8)
    ]
    found = cues(segments(utterance))
    assert "".join("".join(cue.lines) for cue in found) == "今日は晴れです" * 8
    assert max(len(line) for cue in found for line in cue.lines) == STYLE.line // 2


def test_a_word_longer_than_a_line_is_not_lost():
    assert "".join(cues(segments([timed_word("x" * 100, 0, 0.1)]))[0].lines) == "x" * 100


def test_srt_and_vtt_of_nothing():
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n\n"


def test_srt_and_vtt_as_written():
    found = cues(
        segments(
            evenly_timed("Fish & <chips> -->", 0.5, start=3661.25), evenly_timed("Bye.", start=3670)
        )
    )
    assert srt(found) == (
        "1\n01:01:01,250 --> 01:01:03,250\nFish & <chips> ->\n\n"
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
        st.integers(0, 2000),
        st.integers(0, 9000),
    ),
    max_size=40,
)


styles = st.builds(
    CueStyle,
    line=st.integers(5, 60),
    lines=st.integers(1, 4),
    shortest_ms=st.integers(1, 2000),
    longest_ms=st.integers(2000, 9000),
)


@given(st.lists(timed_words, max_size=4), styles)
def test_every_word_is_shown_once_in_order_within_the_limits(spec, style):
    now, utterance = 0, []
    for entries in spec:
        words = []
        for text, gap, length in entries:
            words.append(timed_word(f" {text}", (now + gap) / 1000, (now + gap + length) / 1000))
            now += gap + length
        utterance.append(words)
    found = cues(segments(*utterance), style)
    shown = "".join("".join(cue.lines) for cue in found)
    assert shown.replace(" ", "") == "".join(w.text.strip() for words in utterance for w in words)
    for cue in found:
        assert cue.start_ms < cue.end_ms <= cue.start_ms + style.longest_ms
        assert all(0 < len(line) <= style.line for line in cue.lines)
        assert len(cue.lines) <= max(style.lines, -(-60 // style.line))
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(found))


def test_the_style_can_be_set():
    utterance = evenly_timed("We bought apples, and pears, and plums.", 0.4)
    assert texts(utterance, style=CueStyle(line=18, lines=1)) == [
        "We bought apples,",
        "and pears,",
        "and plums.",
    ]
    assert texts(utterance, style=CueStyle(line=17, lines=3)) == [
        "We bought apples,\nand pears, and\nplums."
    ]


@pytest.mark.parametrize("wrong", [{"line": 0}, {"lines": 0}, {"shortest_ms": 8000}])
def test_a_style_that_no_cue_can_have_is_refused(wrong):
    with pytest.raises(ValueError, match="cue"):
        CueStyle(**wrong)


def test_a_segment_without_word_times_is_one_cue_of_its_length():
    text = " This was said by a model that knows when a sentence began and ended, and no more."
    [cue] = cues([timed_segment(0, text, 1.0, 12.5)])
    assert (cue.start_ms, cue.end_ms) == (1000, 12_500)
    assert " ".join(cue.lines) == text.strip()
    assert all(len(line) <= STYLE.line for line in cue.lines)


def test_the_golden_cues_are_laid_out():
    for case in json.loads(GOLDEN.read_text()):
        given = [
            timed_segment(0, "", words=tuple(timed_word(**word) for word in segment["words"]))
            if "words" in segment
            else timed_segment(0, **segment)
            for segment in case["segments"]
        ]
        found = cues(given, duration=case["duration"])
        shown = [{"start": c.start_ms, "end": c.end_ms, "lines": [*c.lines]} for c in found]
        assert shown == case["cues"], case["name"]
        assert (srt(found), vtt(found)) == (case["srt"], case["vtt"]), case["name"]


def test_blank_words_are_counted_with_the_cue_after_them():
    [cue] = cues(segments([timed_word(" ", 0, 0.2), timed_word(" day", 2, 2.4)]))
    assert (cue.lines, cue.words) == (("day",), 2)


@pytest.mark.parametrize("arrow", ["-->", "--->", "-->-->", "- - >-->"])
def test_no_text_is_an_arrow(arrow):
    utterance = segments([timed_word(f" a {arrow} b", 0, 1)])
    for written in (srt(cues(utterance)), vtt(cues(utterance))):
        assert written.count("-->") == 1


def test_a_segment_without_times_is_no_subtitle():
    with pytest.raises(ValueError, match="times"):
        cues([timed_segment(0, "Good day.")])
    assert cues([timed_segment(0, " ")]) == []
