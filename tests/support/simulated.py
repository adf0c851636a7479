"""An event loop whose clock is simulated: time passes when there is nothing else to do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Timers are due at once, one after another; ``time`` is what it would have been."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        waiting = self._selector.select

        def select(timeout: float | None = None):
            if not timeout:
                return waiting(timeout)
            events = waiting(0)
            while not events:
                held = self.held()
                events = waiting(0.001 if held else 0)
                if not held:
                    break
            if not events:
                self._now += timeout
            return events

        self._selector.select = select

    def held(self) -> bool:
        """Whether a thread works that will call back: until then no time passes."""
        return False

    def time(self) -> float:
        return self._now


def simulate(main: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main)
