from hypothesis import given
from hypothesis import strategies as st

from voxlive.streaming.events import LiveTranscript, SegmentClosed, Words
from voxlive.values import Word

TEXTS = st.text(min_size=1, max_size=8).map(lambda text: " " + text)
STEPS = st.lists(st.one_of(st.lists(TEXTS, max_size=4), st.just("close"), TEXTS), max_size=30)


@given(STEPS)
def test_joined_deltas_equal_joined_segments_equal_the_text(steps: list[list[str] | str]) -> None:
    transcript = LiveTranscript()
    deltas: list[str] = []
    segments: list[SegmentClosed] = []
    for at, step in enumerate(steps):
        if step == "close":
            closed = transcript.close_segment()
            if closed is not None:
                segments.append(closed)
        elif isinstance(step, str):
            transcript.set_draft(step)
        else:
            event = transcript.commit(tuple(Word(text, at, at + 1) for text in step))
            if event is not None:
                assert event.segment == len(segments)
                deltas.append(event.text)
    closed = transcript.close_segment()
    if closed is not None:
        segments.append(closed)
    assert "".join(deltas) == transcript.text == "".join(segment.text for segment in segments)
    assert [segment.id for segment in segments] == list(range(len(segments)))


def test_first_word_loses_its_space_and_no_other() -> None:
    transcript = LiveTranscript()
    assert transcript.commit((Word(" one", 0, 10), Word(" two", 10, 20))) == Words(
        0, (Word("one", 0, 10), Word(" two", 10, 20))
    )
    assert transcript.close_segment() == SegmentClosed(0, 0, 20, "one two")
    assert transcript.commit((Word(" three", 30, 40),)) == Words(1, (Word(" three", 30, 40),))
    assert transcript.text == "one two three"


def test_scripts_without_spaces_are_joined_as_they_come() -> None:
    transcript = LiveTranscript()
    transcript.commit((Word("今日", 0, 1), Word("は", 1, 2)))
    assert transcript.text == "今日は"


def test_a_draft_is_emitted_once_and_is_no_part_of_the_text() -> None:
    transcript = LiveTranscript()
    first = transcript.set_draft(" maybe")
    assert first is not None
    assert first.text == "maybe"
    assert transcript.set_draft(" maybe") is None
    transcript.commit((Word(" sure", 0, 1),))
    cleared = transcript.set_draft("")
    assert cleared is not None
    assert cleared.text == ""
    assert transcript.text == "sure"


def test_closing_an_empty_segment_emits_nothing() -> None:
    transcript = LiveTranscript()
    assert transcript.close_segment() is None
    assert transcript.commit(()) is None
