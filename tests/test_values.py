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


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=6), st.integers(0, 60))
def test_what_is_behind_a_cut_keeps_its_place(pieces: list[tuple[int, int]], cut: int) -> None:
    whole, rest, at = Timeline(), Timeline(), 0
    for gap, length in pieces:
        at += gap
        for timeline in (whole, rest):
            timeline.extend(at, length)
        at += length
    cut = min(cut, whole.length)
    rest.cut(cut)
    for timeline in (whole, rest):
        timeline.extend(at + 3, 2)
    assert rest.length == whole.length - cut
    for offset in range(rest.length):
        assert rest.clock(offset, end=False) == whole.clock(offset + cut, end=False)
        assert rest.clock(offset + 1) == whole.clock(offset + cut + 1)
