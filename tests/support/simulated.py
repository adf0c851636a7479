"""An event loop whose clock is simulated: time passes when there is nothing else to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from voxlive.vad.detector import SpeechModel, VoiceDetector

_T = TypeVar("_T")
_LONGEST_S = 1e7


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Timers are due at once, one after another; ``time`` is what it would have been.

    ``working`` tell whether a thread works that will call back: until then no time passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self.working: list[Callable[[], bool]] = []
        waiting = self._selector.select

        def select(timeout: float | None = None):
            if not timeout:
                return waiting(timeout)
            events = waiting(0)
            while not events:
                held = any(working() for working in self.working)
                events = waiting(0.001 if held else 0)
                if not held:
                    break
            if not events:
                self._now += timeout
            if self._now > _LONGEST_S:
                raise RuntimeError("nothing happens any more, and somebody still waits for it")
            return events

        self._selector.select = select

    def time(self) -> float:
        return self._now


def simulate(main: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main)


class SimulatedDetector(VoiceDetector):
    """One whose work takes no simulated time. Made on the loop that it is used on."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__(model)
        loop = asyncio.get_running_loop()
        if isinstance(loop, SimulatedLoop):
            loop.working.append(lambda: self._busy)
