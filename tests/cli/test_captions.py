from voxlive.cli.captions import Captions
from voxlive.streaming.clock import SAMPLE_RATE
from voxlive.streaming.events import Draft, Lag, SegmentClosed, SessionError, Word, Words


def test_a_line_grows_and_is_printed_when_its_segment_closes():
    captions = Captions()
    start = 3725 * SAMPLE_RATE
    assert captions.take(Words(0, (Word(" Good", start, start + 800),))) == []
    assert captions.take(Draft(0, " morn")) == []
    assert (captions.committed, captions.draft) == (" Good", " morn")
    captions.take(Words(0, (Word(" morning.", start + 800, start + 1600),)))
    captions.take(Draft(0, ""))
    assert captions.take(SegmentClosed(0, start, start + 1600, " Good morning.")) == [
        "1:02:05  Good morning."
    ]
    assert (captions.committed, captions.draft) == ("", "")


def test_lag_is_said_when_it_matters():
    captions = Captions()
    captions.take(Lag(0.4))
    assert captions.note == ""
    captions.take(Lag(3.2))
    assert captions.note == "(3 s behind)"


def test_errors_are_lines():
    assert Captions().take(SessionError("code", "what to do")) == ["voxlive: what to do"]
