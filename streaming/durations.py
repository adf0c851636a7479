"""How long things took, counted in fixed classes: cheap to add to, read at any time."""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """``counts`` are of what took at most each of ``bounds`` seconds; ``count`` is of all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    count: int
    total_s: float


class Readable(Protocol):
    """What can be asked how long things took."""

    def read(self) -> Reading:
        """What was counted so far."""
        ...


class Durations:
    """A histogram of seconds. Thread-safe. ``bounds`` ascend."""

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total_s = 0.0
        self._lock = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Count one more."""
        at = bisect_left(self._bounds, seconds)
        with self._lock:
            self._counts[at] += 1
            self._total_s += seconds

    def read(self) -> Reading:
        """What was counted so far."""
        with self._lock:
            counts, total_s = tuple(self._counts), self._total_s
        *cumulated, count = accumulate(counts)
        return Reading(self._bounds, tuple(cumulated), count, total_s)
