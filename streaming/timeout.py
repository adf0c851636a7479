"""A time-out for what is waited for all the time and hardly ever comes too late."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType


class Timeout:
    """``with timeout.within(s)`` is ``asyncio.timeout(s)``, for one block after another.

    A block only sets the moment. One timer looks whether it has passed, and goes on to the moment
    of the block that it finds: once in ``s`` seconds, however many blocks there are.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = self._looks = inf
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False  # by this time-out
        self._cancelling = 0  # requests by others, when the block began

    def within(self, seconds: float | None) -> Self:
        """The block has so long from now on; None: for ever."""
        self._due = inf if seconds is None else self._loop.time() + seconds
        return self

    def __enter__(self) -> None:
        self._task = asyncio.current_task(self._loop)
        if self._task is None:
            raise RuntimeError("a time-out needs a task that it may cancel")
        self._cancelling = self._task.cancelling()
        if self._due < self._looks:
            self._look_at(self._due)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        task, self._task, self._due = self._task, None, inf
        if self._cancelled and task:
            self._cancelled = False
            # Whoever else cancelled the task meanwhile is obeyed.
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError

    def _look_at(self, moment: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer, self._looks = self._loop.call_at(moment, self._look), moment

    def _look(self) -> None:
        self._timer, self._looks = None, inf
        if self._task is None or self._due == inf:
            return
        if self._due <= self._loop.time():
            self._due = inf
            self._cancelled = self._task.cancel()
        else:
            self._look_at(self._due)
