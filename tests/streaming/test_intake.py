import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxlive.streaming.queues import UndecidedAudio, UndecidedOverflow
from voxlive.vad.gate import WINDOW, Gate, GateOptions
from voxlive.values import SAMPLE_RATE


def ramp(start, end):
    return np.arange(start, end, dtype=np.float32)


def test_ranges_are_taken_as_they_were_appended():
    undecided = UndecidedAudio()
    undecided.append(ramp(0, 5))
    undecided.append(ramp(5, 6))
    undecided.append(ramp(6, 20))
    assert undecided.take(0, 3).tolist() == [0, 1, 2]
    undecided.drop(4)
    taken = undecided.take(4, 10)
    assert taken.dtype == np.float32
    assert taken.tolist() == [4, 5, 6, 7, 8, 9]
    assert undecided.take(12, 20).tolist() == ramp(12, 20).tolist()
    assert (undecided.start, undecided.end) == (20, 20)


def test_an_empty_range_can_be_taken():
    undecided = UndecidedAudio()
    undecided.append(ramp(0, 0))
    assert undecided.take(0, 0).shape == (0,)
    undecided.drop(0)
    assert undecided.end == 0


def test_a_range_within_one_piece_is_not_copied():
    undecided, samples = UndecidedAudio(), ramp(0, 10)
    undecided.append(samples)
    undecided.drop(2)
    assert undecided.take(3, 7).base is samples
    assert undecided.take(7, 10).base is samples


def test_an_append_beyond_the_capacity_is_refused():
    undecided = UndecidedAudio(capacity=10)
    undecided.append(ramp(0, 8))
    with pytest.raises(UndecidedOverflow, match=r"8 samples wait .* 3 more .* 10"):
        undecided.append(ramp(8, 11))
    undecided.append(ramp(8, 10))
    undecided.drop(4)
    undecided.append(ramp(10, 14))
    assert undecided.take(4, 14).tolist() == ramp(4, 14).tolist()


@pytest.mark.parametrize(("start", "end"), [(1, 5), (2, 11), (6, 5), (-1, 3)])
def test_a_range_that_is_not_held_is_refused(start, end):
    undecided = UndecidedAudio()
    undecided.append(ramp(0, 10))
    undecided.drop(2)
    with pytest.raises(ValueError, match="not within 2 to 10"):
        undecided.take(start, end)
    assert (undecided.start, undecided.end) == (2, 10)


def test_dropping_samples_that_are_not_held_is_refused():
    undecided = UndecidedAudio()
    undecided.append(ramp(0, 10))
    undecided.drop(2)
    for upto in (1, 11):
        with pytest.raises(ValueError, match="not within 2 to 10"):
            undecided.drop(upto)


def test_the_default_capacity_suffices_for_every_gate_and_two_seconds():
    longest = GateOptions(min_speech_ms=2_000, pre_roll_ms=2_000)
    undecided = UndecidedAudio()
    undecided.append(ramp(0, Gate(longest, 0).max_undecided + WINDOW + 2 * SAMPLE_RATE))


@given(
    st.lists(st.integers(0, 40), max_size=30),
    st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=30),
)
def test_pieces_of_any_size_give_the_same_samples(sizes, steps):
    undecided, steps = UndecidedAudio(), iter(steps)
    for size in sizes:
        undecided.append(ramp(undecided.end, undecided.end + size))
        taken, length = next(steps, (True, 0))
        start, end = undecided.start, min(undecided.end, undecided.start + length)
        if taken:
            assert undecided.take(start, end).tolist() == ramp(start, end).tolist()
        else:
            undecided.drop(end)
        assert undecided.start == end
    start, end = undecided.start, undecided.end
    assert undecided.take(start, end).tolist() == ramp(start, end).tolist()
    assert end == sum(sizes)
