"""The bounded queue of events between a session and whoever reads them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .bell import Bell
from .events import Draft, Event, Lag, SessionClosed, SessionError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Outbox:
    """Events in order for one reader.

    A draft or lag that nobody has read yet is replaced by the next one. When ``limit`` other
    events wait, the reader is taken for lost: ``put`` says so by returning False, once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._arrived = Bell()
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
