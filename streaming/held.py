"""Audio that the gate has not decided about yet, addressed by sample on the session's clock."""

from __future__ import annotations

from collections import deque

import numpy as np

from .clock import SAMPLE_RATE
from .engine import Samples


class HeldOverflow(Exception):
    """More audio was appended than may wait for a decision."""


class HeldAudio:
    """A queue of samples ``start`` to ``end``: appended behind, taken or dropped in front.

    It holds at most ``capacity`` samples; an append beyond that raises HeldOverflow and changes
    nothing. The default leaves room for the gate's longest hold and seconds of new audio.
    """

    def __init__(self, capacity: int = 8 * SAMPLE_RATE) -> None:
        self.start = 0
        self.end = 0
        self._capacity = capacity
        self._parts: deque[Samples] = deque()

    def append(self, samples: Samples) -> None:
        """Add float32 samples [n], which nobody may change any more, behind ``end``."""
        if self.end + len(samples) - self.start > self._capacity:
            raise HeldOverflow(
                f"{self.end - self.start} samples wait for a decision and {len(samples)} more do "
                f"not fit in {self._capacity}: append shorter pieces, and judge each one"
            )
        if len(samples):
            self._parts.append(samples)
            self.end += len(samples)

    def take(self, start: int, end: int) -> Samples:
        """Remove everything before ``end`` and return float32 [end - start], for reading."""
        self._check(start, end)
        self.drop(start)
        parts = []
        while self.start < end:
            part = self._parts[0][: end - self.start]
            self._remove(len(part))
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def drop(self, upto: int) -> None:
        """Forget every sample before ``upto``."""
        self._check(self.start, upto)
        while self.start < upto:
            self._remove(min(len(self._parts[0]), upto - self.start))

    def _remove(self, count: int) -> None:
        first = self._parts.popleft()
        if count < len(first):
            self._parts.appendleft(first[count:])
        self.start += count

    def _check(self, start: int, end: int) -> None:
        if not self.start <= start <= end <= self.end:
            raise ValueError(f"{start} to {end} is not within {self.start} to {self.end}")
