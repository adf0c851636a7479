import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxlive.streaming.intake import UndecidedAudio, UndecidedOverflow
from voxlive.vad.gate import WINDOW, Gate, GateOptions
from voxlive.values import SAMPLE_RATE


def ramp(start, end):
    return np.arange(start, end, dtype=np.float32)


def test_ranges_come_back_as_they_went_in():
    held = UndecidedAudio()
    held.append(ramp(0, 5))
    held.append(ramp(5, 6))
    held.append(ramp(6, 20))
    assert held.take(0, 3).tolist() == [0, 1, 2]
    held.drop(4)
    taken = held.take(4, 10)
    assert taken.dtype == np.float32
    assert taken.tolist() == [4, 5, 6, 7, 8, 9]
    assert held.take(12, 20).tolist() == ramp(12, 20).tolist()
    assert (held.start, held.end) == (20, 20)


def test_nothing_is_a_range_too():
    held = UndecidedAudio()
    held.append(ramp(0, 0))
    assert held.take(0, 0).shape == (0,)
    held.drop(0)
    assert held.end == 0


def test_a_range_within_what_came_at_once_is_not_copied():
    held, samples = UndecidedAudio(), ramp(0, 10)
    held.append(samples)
    held.drop(2)
    assert held.take(3, 7).base is samples
    assert held.take(7, 10).base is samples


def test_beyond_its_capacity_it_refuses_and_stays_as_it_was():
    held = UndecidedAudio(capacity=10)
    held.append(ramp(0, 8))
    with pytest.raises(UndecidedOverflow, match=r"8 samples wait .* 3 more .* 10"):
        held.append(ramp(8, 11))
    held.append(ramp(8, 10))
    held.drop(4)
    held.append(ramp(10, 14))
    assert held.take(4, 14).tolist() == ramp(4, 14).tolist()


@pytest.mark.parametrize(("start", "end"), [(1, 5), (2, 11), (6, 5), (-1, 3)])
def test_a_range_that_is_not_held_is_refused(start, end):
    held = UndecidedAudio()
    held.append(ramp(0, 10))
    held.drop(2)
    with pytest.raises(ValueError, match="not within 2 to 10"):
        held.take(start, end)
    assert (held.start, held.end) == (2, 10)


def test_dropping_what_is_gone_or_not_there_is_refused():
    held = UndecidedAudio()
    held.append(ramp(0, 10))
    held.drop(2)
    for upto in (1, 11):
        with pytest.raises(ValueError, match="not within 2 to 10"):
            held.drop(upto)


def test_the_default_has_room_for_the_longest_hold_and_two_seconds_of_new_audio():
    longest = GateOptions(min_speech_ms=2_000, pre_roll_ms=2_000)
    held = UndecidedAudio()
    held.append(ramp(0, Gate(longest, 0).max_undecided + WINDOW + 2 * SAMPLE_RATE))


@given(
    st.lists(st.integers(0, 40), max_size=30),
    st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=30),
)
def test_any_cuts_in_give_the_same_samples_out(sizes, steps):
    held, steps = UndecidedAudio(), iter(steps)
    for size in sizes:
        held.append(ramp(held.end, held.end + size))
        taken, length = next(steps, (True, 0))
        start, end = held.start, min(held.end, held.start + length)
        if taken:
            assert held.take(start, end).tolist() == ramp(start, end).tolist()
        else:
            held.drop(end)
        assert held.start == end
    start, end = held.start, held.end
    assert held.take(start, end).tolist() == ramp(start, end).tolist()
    assert end == sum(sizes)
