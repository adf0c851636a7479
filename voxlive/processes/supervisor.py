"""Finds children that hang: those that have something to do and do not get on with it.

One rule for every child process. While it has nothing to do it may be silent for ever; while it
gets on, however slowly, it has time; else a deadline passes, and it is ended and replaced.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

DEADLINE_S = 30.0
"""Beyond any one step of a sound engine: what takes longer reports in between."""
_LOOKS = 8
"""How often within a deadline a child is looked at."""
_SUSPENDED = 4
"""Looks that fell out, from which the server itself is taken not to have run meanwhile."""
_SHORTEST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class Work(NamedTuple):
    """Whether a child has anything to do, and a number that changes whenever it gets on."""

    busy: bool
    done: int


class Watched(Protocol):
    """A child, as its supervisor sees it. Called on the supervisor's thread."""

    @property
    def work(self) -> Work:
        """What it has to do and how far it has come."""
        ...

    @property
    def deadline_s(self) -> float:
        """How long it may be busy with what it does now without getting on."""
        ...

    def on_deadline(self, work: Work) -> None:
        """Its deadline has passed at this work: fail what it works for, end it, replace it."""
        ...


class Deadline:
    """How long a child has not got on, as it was seen at intervals. Pure: any clock will do.

    Only time in which it was watched counts. When the watcher itself did not run (a suspended
    machine, a stopped container) the child most likely did not either: it gets all its time anew.
    ``every_s``: the watcher's interval, where it may be longer than an eighth of the deadline.
    """

    def __init__(self, every_s: float = 0.0) -> None:
        self._every_s = every_s
        self._seen: Work | None = None
        self._at = 0.0
        self._waited_s = 0.0

    def passed(self, work: Work, now: float, deadline_s: float) -> bool:
        """Whether it has been busy at the same work for so long; begins anew when it was."""
        since, self._at = now - self._at, now
        if not work.busy:
            self._seen = None
            return False
        interval = max(deadline_s / _LOOKS, self._every_s)
        if work != self._seen or since > _SUSPENDED * interval:
            self._seen, self._waited_s = work, 0.0
            return False
        self._waited_s += since
        if self._waited_s < deadline_s:
            return False
        self._seen = None
        return True


class Backoff:
    """Pauses before a child is started again: doubled while starts fail, short after a success."""

    def __init__(self) -> None:
        self._pause_s = 0.0

    def next_s(self, *, served: bool) -> float:
        """The pause after a child that ended; ``served``: it had come up."""
        doubled = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._pause_s = _SHORTEST_PAUSE_S if served else max(_SHORTEST_PAUSE_S, doubled)
        return self._pause_s


class Supervisor:
    """A thread that looks at children several times within ``deadline_s``, their shortest."""

    def __init__(self, children: Sequence[Watched], deadline_s: float) -> None:
        self._children = [(child, Deadline()) for child in children]
        self._every_s = deadline_s / _LOOKS
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more. May be called twice."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._every_s):
            for child, deadline in self._children:
                work = child.work
                if deadline.passed(work, time.monotonic(), child.deadline_s):
                    child.on_deadline(work)
