"""One task's wait for something that others do on the same loop.

The bounded queue of what a session has still to do.

From the engine's thread to the event loop: what comes together is one call, not many.

The bounded queue of events between a session and whoever reads them.

A time-out for what is waited for all the time and hardly ever comes too late.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from voxlive.streaming.events import Draft, Event, Lag, SessionClosed, SessionError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from voxlive.engines.contract import Message


class Wakeup:
    """An ``asyncio.Event`` for one who waits and looks for himself what there is.

    It remembers nothing: whoever waits has seen before that there is nothing to do.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None

    @property
    def awaited(self) -> bool:
        """Whether someone waits and it has not rung yet."""
        return self._waiting is not None and not self._waiting.done()

    def ring(self) -> None:
        """Wake who waits, if anyone does."""
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self) -> None:
        """Until it rings the next time."""
        self._waiting = self._loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None


_Command = TypeVar("_Command")


class Inbox(Generic[_Command]):
    """Commands in order for one reader. ``limit`` may wait, then ``put`` does."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._commands: deque[_Command] = deque()
        self._arrived = Wakeup()
        self._room = asyncio.Event()

    def offer(self, command: _Command) -> bool:
        """Add a command if there is room for it now; whether there was."""
        if len(self._commands) >= self._limit:
            return False
        self._commands.append(command)
        self._arrived.ring()
        return True

    async def put(self, command: _Command) -> None:
        """Add a command, once there is room."""
        while not self.offer(command):
            self._room.clear()
            await self._room.wait()

    async def take(self) -> _Command:
        """Remove the oldest; waits for one."""
        while not self._commands:
            await self._arrived.wait()
        self._room.set()
        return self._commands.popleft()

    def clear(self) -> None:
        """Forget what waits."""
        self._commands.clear()
        self._room.set()


class EngineMessages:
    """Messages in order to ``hear``, on the loop. As many wait as the engine has audio to say."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hear: Callable[[Message], None]) -> None:
        self._loop = loop
        self._hear = hear
        self._waiting: deque[Message] = deque()
        self._called = False

    def put(self, message: Message) -> None:
        """Take a message on the engine's thread."""
        self._waiting.append(message)
        if not self._called:
            self._called = True
            # The loop may close before the call when a server is torn down.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # Before anything is taken: what is put from here on is either taken or called for.
        self._called = False
        while self._waiting:
            self._hear(self._waiting.popleft())


class Outbox:
    """Events in order for one reader.

    A draft or lag that nobody has read yet is replaced by the next one. When ``limit`` other
    events wait, the reader is taken for lost: ``put`` says so by returning False, once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._arrived = Wakeup()
        self._closed = False

    def put(self, event: Event) -> bool:
        """Add an event; False when the bound is reached. After the close events are dropped."""
        if self._closed:
            return True
        if (
            isinstance(event, Draft | Lag)
            and self._events
            and type(self._events[-1]) is type(event)
        ):
            self._events[-1] = event
        else:
            self._events.append(event)
        self._arrived.ring()
        return len(self._events) < self._limit

    def close(self, *last: SessionError | SessionClosed) -> None:
        """Add the last events, past the bound if need be; nothing is taken after them."""
        if not self._closed:
            self._events.extend(last)
            self._closed = True
            self._arrived.ring()

    async def read(self) -> AsyncIterator[Event]:
        """Every event, until the outbox is closed and empty."""
        while True:
            while self._events:
                yield self._events.popleft()
            if self._closed:
                return
            await self._arrived.wait()


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
