from hypothesis import given
from hypothesis import strategies as st

from voxlive.streaming.backlog import Backlog

steps = st.lists(st.tuples(st.sampled_from(["feed", "skip", "progress"]), st.integers(0, 50)))


@given(steps)
def test_the_backlog_is_what_was_fed_and_not_been_through(steps):
    backlog = Backlog()
    waiting: set[int] = set()
    now = through = 0
    for step, count in steps:
        if step == "feed":
            backlog.feed(now, now + count)
            waiting |= set(range(now, now + count))
        if step == "progress":
            through = min(now, through + count)
            backlog.progress(through)
            waiting = {sample for sample in waiting if sample >= through}
        else:
            now += count
        assert backlog.samples == len(waiting)
