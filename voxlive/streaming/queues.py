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

    def notify(self) -> None:
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

MAX_AUDIO_BYTES = 256 << 10
"""Bytes of audio that wait in a session unless its owner says otherwise: 8 s of 16 kHz PCM."""
MAX_SOCKET_BYTES = 64 << 20
"""Bytes of audio that wait behind a socket: half an hour of 16 kHz PCM. A socket that is not read
answers no ping, and either side's keepalive ends it; so it is read as far ahead as this."""
MAX_OTHER_COMMANDS = 10_000
"""Commands that are no audio."""
PIECE_OVERHEAD = 200
"""Bytes that a piece of audio takes besides its samples, which are counted with it."""
_JOINED = 4096


class Inbox(Generic[_Command]):
    """Commands in order for one reader; those that are ``bytes`` are audio.

    At ``max_bytes`` of audio or ``max_others`` of the rest, ``put`` waits. A little audio behind a
    little is joined to it: many small pieces take more room.
    """

    def __init__(
        self, max_bytes: int = MAX_AUDIO_BYTES, max_others: int = MAX_OTHER_COMMANDS
    ) -> None:
        self._max_bytes = max_bytes
        self._max_others = max_others
        self._commands: deque[_Command | bytes] = deque()
        self._bytes = 0
        self._others = 0
        self._arrived = Wakeup()
        self._room = asyncio.Event()

    @property
    def waiting(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._commands)

    def offer(self, command: _Command | bytes) -> bool:
        """Add a command if there is room for it now; whether there was."""
        if self._bytes >= self._max_bytes or self._others >= self._max_others:
            return False
        if not (self._commands and self._joins(command)):
            self._commands.append(command)
            self._count(command, 1)
        self._arrived.notify()
        return True

    async def put(self, command: _Command | bytes) -> None:
        """Add a command, once there is room."""
        while not self.offer(command):
            self._room.clear()
            await self._room.wait()

    async def take(self) -> _Command | bytes:
        """Remove the oldest; waits for one."""
        while not self._commands:
            await self._arrived.wait()
        command = self._commands.popleft()
        self._count(command, -1)
        self._room.set()
        return command

    def trim(self, max_bytes: int) -> None:
        """Forget the newest commands, until no more audio than that is left."""
        while self._bytes > max_bytes and len(self._commands) > 1:
            self._count(self._commands.pop(), -1)
        self._room.set()

    def clear(self) -> None:
        """Forget what waits."""
        self._commands.clear()
        self._bytes = self._others = 0
        self._room.set()

    def _joins(self, command: _Command | bytes) -> bool:
        last = self._commands[-1]
        if not (isinstance(command, bytes) and isinstance(last, bytes)):
            return False
        if len(last) + len(command) > _JOINED:
            return False
        self._commands[-1] = last + command
        self._bytes += len(command)
        return True

    def _count(self, command: _Command | bytes, sign: int) -> None:
        if isinstance(command, bytes):
            self._bytes += sign * (len(command) + PIECE_OVERHEAD)
        else:
            self._others += sign


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


_Notice = TypeVar("_Notice")

MAX_EVENTS = 2000
"""Entries that wait in an outbox. Then its session ends, and notices wait."""


class Outbox(Generic[_Notice]):
    """What goes out, in order for one reader: events, each with its source, and other notices.

    A draft or lag that nobody has read yet is replaced by the next one. When ``limit`` entries
    wait, the reader is taken for lost: ``put`` says so by returning False.
    """

    def __init__(self, limit: int = MAX_EVENTS) -> None:
        self._limit = limit
        self._entries: deque[tuple[str, Event | _Notice]] = deque()
        self._arrived = Wakeup()
        self._room = asyncio.Event()
        self._closed: set[str] = set()

    def put(self, event: Event, source: str = "") -> bool:
        """Add an event; False when the bound is reached. After the close events are dropped."""
        if source in self._closed:
            return True
        if isinstance(event, Draft | Lag) and self._entries:
            last_source, last = self._entries[-1]
            if type(last) is type(event) and last_source == source:
                self._entries.pop()
        self._entries.append((source, event))
        self._arrived.notify()
        return len(self._entries) < self._limit

    def add(self, notice: _Notice) -> None:
        """Add a notice, whatever waits."""
        self._entries.append(("", notice))
        self._arrived.notify()

    async def put_notice(self, notice: _Notice) -> None:
        """Add a notice, once less than half of the room is taken: the rest is for events."""
        while 2 * len(self._entries) >= self._limit:
            self._room.clear()
            await self._room.wait()
        self.add(notice)

    def close(self, *last: SessionError | SessionClosed, source: str = "") -> None:
        """Add a source's last events, past the bound if need be; nothing is taken after them."""
        if source not in self._closed:
            self._entries.extend((source, event) for event in last)
            self._closed.add(source)
            self._arrived.notify()

    def pop(self) -> tuple[str, Event | _Notice] | None:
        """Remove the oldest, if there is any."""
        if not self._entries:
            return None
        self._room.set()
        return self._entries.popleft()

    async def take(self) -> tuple[str, Event | _Notice]:
        """Remove the oldest; waits for one."""
        while (entry := self.pop()) is None:
            await self._arrived.wait()
        return entry

    async def read(self) -> AsyncIterator[Event | _Notice]:
        """Every entry of the one source, until it is closed and all is read."""
        while True:
            while entry := self.pop():
                yield entry[1]
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
