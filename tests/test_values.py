from hypothesis import given
from hypothesis import strategies as st

from voxlive.values import Timeline

PIECES = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20)


@given(PIECES, st.integers(0, 1000))
def test_every_sample_stands_where_it_was_fed(pieces: list[tuple[int, int]], cut: int) -> None:
    timeline = Timeline()
    clocks: list[int] = []
    now = 0
    for gap, count in pieces:
        now += gap
        timeline.extend(now, count)
        clocks.extend(range(now, now + count))
        now += count
    first = min(cut, len(clocks))
    timeline.forget(first)
    assert timeline.length == len(clocks)
    for offset in range(first, len(clocks)):
        assert timeline.clock(offset, end=False) == clocks[offset]
        if offset > first:
            assert timeline.clock(offset) == clocks[offset - 1] + 1


def test_an_offset_beyond_the_audio_is_its_end() -> None:
    timeline = Timeline()
    timeline.extend(100, 10)
    timeline.extend(500, 10)
    assert timeline.clock(10) == 110
    assert timeline.clock(10, end=False) == 500
    assert timeline.clock(99) == timeline.clock(99, end=False) == 510
