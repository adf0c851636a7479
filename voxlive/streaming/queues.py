"""The queues of a session, and cheap waiting for them.

``Inbox``: commands on their way to a session. ``Outbox``: events on their way to the reader. Each
has a bound and states what happens at it. ``Wakeup`` and ``Timeout`` are an event and a time-out
that cost little where they are used for every message. Everything is called on one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from voxlive.streaming.events import Draft, Event, Lag, SessionClosed, SessionError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

MAX_AUDIO_BYTES = 256 << 10
"""Bytes of audio that may wait in an inbox by default: 8 s of 16 kHz PCM."""
MAX_SOCKET_BYTES = 64 << 20
"""Bytes of audio that may wait in the inbox behind a socket: half an hour of 16 kHz PCM. A socket
that is not read answers no ping, and either side's keepalive ends it: so it is read far ahead."""
MAX_OTHER_COMMANDS = 10_000
"""Commands other than audio that may wait in an inbox."""
PIECE_OVERHEAD = 200
"""Bytes of memory that a piece of audio takes beside its samples, and that are counted with it."""
MAX_EVENTS = 2000
"""Entries that may wait in an outbox."""
_MAX_JOINED_BYTES = 4096

_Command = TypeVar("_Command")
_Notice = TypeVar("_Notice")


class Wakeup:
    """An ``asyncio.Event`` without memory, for one task, which checks its condition first."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None

    def notify(self) -> None:
        """Wake the task that waits, if one does."""
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self) -> None:
        """Wait for the next ``notify``."""
        self._waiting = self._loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None


class Inbox(Generic[_Command]):
    """Commands in order for one reader; those that are ``bytes`` are audio.

    At ``max_bytes`` of audio or ``max_others`` other commands, ``put`` waits. Small pieces of audio
    that follow each other are joined, since each piece has its overhead.
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
        """Whether there is a command to take."""
        return bool(self._commands)

    def offer(self, command: _Command | bytes) -> bool:
        """Add a command if there is room for it now; returns whether there was."""
        if self._bytes >= self._max_bytes or self._others >= self._max_others:
            return False
        if not (self._commands and self._try_join(command)):
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
        """Remove the oldest command; waits for one."""
        while not self._commands:
            await self._arrived.wait()
        command = self._commands.popleft()
        self._count(command, -1)
        self._room.set()
        return command

    def trim(self, max_bytes: int) -> None:
        """Drop the newest commands until at most ``max_bytes`` of audio are left."""
        while self._bytes > max_bytes and len(self._commands) > 1:
            self._count(self._commands.pop(), -1)
        self._room.set()

    def clear(self) -> None:
        """Drop all commands."""
        self._commands.clear()
        self._bytes = self._others = 0
        self._room.set()

    def _try_join(self, command: _Command | bytes) -> bool:
        last = self._commands[-1]
        if not (isinstance(command, bytes) and isinstance(last, bytes)):
            return False
        if len(last) + len(command) > _MAX_JOINED_BYTES:
            return False
        self._commands[-1] = last + command
        self._bytes += len(command)
        return True

    def _count(self, command: _Command | bytes, sign: int) -> None:
        if isinstance(command, bytes):
            self._bytes += sign * (len(command) + PIECE_OVERHEAD)
        else:
            self._others += sign


class Outbox(Generic[_Notice]):
    """What goes out, in order for one reader: events with their source, and notices.

    A source is a session; notices are whatever else the reader sends, such as replies. A draft or
    lag that has not been read is replaced by the next one, unless every one is to be kept. When
    ``limit`` entries wait, the reader counts as gone, and ``put`` returns False.
    """

    def __init__(self, limit: int = MAX_EVENTS) -> None:
        self._limit = limit
        self._entries: deque[tuple[str, Event | _Notice]] = deque()
        self._arrived = Wakeup()
        self._room = asyncio.Event()
        self._closed: set[str] = set()
        self._reader_waits = False
        self.on_idle: Callable[[], object] = lambda: None
        """Called where it becomes ``idle``."""

    def put(self, event: Event, source: str = "", *, keep: bool = False) -> bool:
        """Add an event; False when the bound is reached. After the close events are dropped."""
        if source in self._closed:
            return True
        if isinstance(event, Draft | Lag) and self._entries and not keep:
            last_source, last = self._entries[-1]
            same_source = (last_source, getattr(last, "source", "")) == (source, event.source)
            if type(last) is type(event) and same_source:
                self._entries.pop()
        self._entries.append((source, event))
        self._arrived.notify()
        return len(self._entries) < self._limit

    @property
    def idle(self) -> bool:
        """Whether its reader, by ``take``, has dealt with everything and waits for more."""
        return self._reader_waits and not self._entries

    def add_notice(self, notice: _Notice) -> None:
        """Add a notice, past the bound if need be."""
        self._entries.append(("", notice))
        self._arrived.notify()

    async def put_notice(self, notice: _Notice) -> None:
        """Add a notice, once less than half of the bound is taken: the rest is for events."""
        while 2 * len(self._entries) >= self._limit:
            self._room.clear()
            await self._room.wait()
        self.add_notice(notice)

    def close(self, *last: SessionError | SessionClosed, source: str = "") -> None:
        """Add a source's last events, past the bound if need be; later events are dropped."""
        if source not in self._closed:
            self._entries.extend((source, event) for event in last)
            self._closed.add(source)
            self._arrived.notify()

    def pop(self) -> tuple[str, Event | _Notice] | None:
        """Remove the oldest entry; None if there is none."""
        if not self._entries:
            return None
        self._room.set()
        return self._entries.popleft()

    async def take(self) -> tuple[str, Event | _Notice]:
        """Remove the oldest entry; waits for one."""
        while (entry := self.pop()) is None:
            self._reader_waits = True
            self.on_idle()
            try:
                await self._arrived.wait()
            finally:
                self._reader_waits = False
        return entry

    async def read(self) -> AsyncIterator[Event | _Notice]:
        """Every entry, where there is one source, until that is closed and all is read."""
        while True:
            while entry := self.pop():
                yield entry[1]
            if self._closed:
                return
            await self._arrived.wait()


class Timeout:
    """``with timeout.within(s)`` is ``asyncio.timeout(s)``, for one block after another.

    A block only sets the deadline. One timer checks whether it has passed, and is set again for the
    deadline of the block that it finds: once in ``s`` seconds, however many blocks there are.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = self._timer_at = inf
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False  # by this time-out
        self._cancelling = 0  # requests by others, when the block began

    def within(self, seconds: float | None) -> Self:
        """Let the block take so many seconds from now on, or for ever; else raises TimeoutError."""
        self._deadline = inf if seconds is None else self._loop.time() + seconds
        return self

    def __enter__(self) -> None:
        self._task = asyncio.current_task(self._loop)
        if self._task is None:
            raise RuntimeError("a time-out needs a task that it may cancel")
        self._cancelling = self._task.cancelling()
        if self._deadline < self._timer_at:
            self._start_timer(self._deadline)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        task, self._task, self._deadline = self._task, None, inf
        if self._cancelled and task:
            self._cancelled = False
            # Cancelled by others meanwhile: that stands.
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError

    def _start_timer(self, moment: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(moment, self._on_timer), moment

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, inf
        if self._task is None or self._deadline == inf:
            return
        if self._deadline <= self._loop.time():
            self._deadline = inf
            self._cancelled = self._task.cancel()
        else:
            self._start_timer(self._deadline)
