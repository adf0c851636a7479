"""How much an engine has been fed and has not been through: silence in between does not count."""

from __future__ import annotations

from collections import deque


class Backlog:
    """The stretches of a session's clock that its engine still has before it. Pure.

    Adjoining ones are one, so there are as many as there are pauses within the backlog.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._stretches: deque[tuple[int, int]] = deque()

    def feed(self, start: int, end: int) -> None:
        """The engine was fed samples ``start`` to ``end``."""
        self.samples += end - start
        if self._stretches and self._stretches[-1][1] == start:
            start, _ = self._stretches.pop()
        self._stretches.append((start, end))

    def progress(self, upto: int) -> None:
        """The engine has been through all before sample ``upto``."""
        while self._stretches and self._stretches[0][0] < upto:
            start, end = self._stretches.popleft()
            self.samples -= min(end, upto) - start
            if upto < end:
                self._stretches.appendleft((upto, end))
