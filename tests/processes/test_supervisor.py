"""Who has work and does not get on is found, and nobody else; times are numbers, not a clock's."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from voxlive.processes.supervisor import Backoff, Deadline, Supervisor, Work

IDLE = Work(busy=False, done=7)
TICK = 1.0
LIMIT = 8.0


def passes(works: list[Work], gaps: list[float] | None = None) -> list[bool]:
    """What a deadline says of these works, one a tick or at these intervals."""
    deadline, now, said = Deadline(), 1000.0, []
    for at, work in enumerate(works):
        now += gaps[at] if gaps else TICK
        said.append(deadline.passed(work, now, LIMIT))
    return said


def test_who_is_busy_at_the_same_work_for_the_deadline_hangs():
    assert passes([Work(True, 1)] * 9) == [False] * 8 + [True]


def test_it_is_said_once_in_a_deadline():
    assert [at for at, passed in enumerate(passes([Work(True, 1)] * 27)) if passed] == [8, 17, 26]


def test_who_has_nothing_to_do_may_be_silent_for_ever():
    assert not any(passes([IDLE] * 1000))
    assert not any(passes([*[Work(True, 1)] * 8, IDLE] * 100)), "a rest in between is a rest"


@given(st.lists(st.integers(1, 8), min_size=1, max_size=60))
def test_who_gets_on_has_time_however_slow_it_is(lengths):
    works = [Work(True, step) for step, looks in enumerate(lengths) for _ in range(looks)]
    assert not any(passes(works))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=200))
def test_it_says_so_exactly_after_eight_ticks_without_a_change(states):
    works = [Work(busy, done) for busy, done in states]
    expected, run, before = [], 0, None
    for work in works:
        run = run + 1 if work.busy and work == before else 0
        expected.append(run == 8)
        before = None if run == 8 or not work.busy else work
    assert passes(works) == expected


def test_time_in_which_the_watcher_did_not_run_does_not_count():
    same = [Work(True, 1)] * 9
    assert not any(passes(same, [1.0] * 7 + [3600.0, 1.0])), "suspended just before the end"
    assert not any(passes(same * 20, [3600.0] * 180)), "whoever never runs can blame nobody"
    assert passes(same, [1.5] * 9).index(True) == 6, "a busy machine's late looks do count"


def test_a_child_that_hangs_is_told_by_the_thread_and_the_others_are_not():
    class Child:
        deadline_s = 0.2

        def __init__(self, work: Work) -> None:
            self.work = work
            self.hung = threading.Event()

        def on_deadline(self, work: Work) -> None:
            assert work == self.work
            self.hung.set()

    stuck, idle = Child(Work(True, 1)), Child(IDLE)
    supervisor = Supervisor([idle, stuck], 0.2)
    assert stuck.hung.wait(60)
    supervisor.close()
    supervisor.close()
    assert not idle.hung.is_set()


def test_pauses_between_starts_double_until_one_has_served():
    backoff = Backoff()
    assert [backoff.next_s(served=False) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert [backoff.next_s(served=served) for served in (True, False, True)] == [1, 2, 1]


def test_a_watcher_slower_than_an_eighth_of_the_deadline_finds_who_hangs():
    deadline, same = Deadline(every_s=6.0), Work(True, 1)
    assert [deadline.passed(same, now, LIMIT) for now in (100, 106, 112)] == [False, False, True]
