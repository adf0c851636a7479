"""What a client has sent ahead of its session: kept, so that the socket is read all the time.

A socket that is not read answers no ping, and either side's keepalive ends it. A client that plays
a file faster than the engine hears it would lose its session that way.
"""

from __future__ import annotations

import asyncio
from collections import deque

from .protocols.contract import Action, Audio

MAX_AHEAD = 64 << 20
"""Bytes of audio: half an hour of 16 kHz PCM. Beyond that the socket is not read after all."""
MAX_OTHERS = 10_000
"""Actions that are no audio, such as answers that are not read. Beyond that, the same."""


class Ahead:
    """Actions in order, for one writer and one reader."""

    def __init__(self, limit: int = MAX_AHEAD) -> None:
        self._limit = limit
        self._actions: deque[Action] = deque()
        self._bytes = 0
        self._others = 0
        self._changed = asyncio.Condition()

    @property
    def waiting(self) -> bool:
        """Whether there is anything to get."""
        return bool(self._actions)

    async def put(self, action: Action) -> None:
        """Append; waits while as much as is allowed is waiting already."""
        async with self._changed:
            await self._changed.wait_for(self._has_room)
            self._actions.append(action)
            self._count(action, 1)
            self._changed.notify_all()

    async def get(self) -> Action:
        """Remove the oldest; waits for one."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._actions)
            action = self._actions.popleft()
            self._count(action, -1)
            self._changed.notify_all()
            return action

    def _has_room(self) -> bool:
        return self._bytes < self._limit and self._others < MAX_OTHERS

    def _count(self, action: Action, sign: int) -> None:
        if isinstance(action, Audio):
            self._bytes += sign * len(action.data)
        else:
            self._others += sign
