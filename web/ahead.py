"""What a client has sent ahead of its session: kept, so that the socket is read all the time.

A socket that is not read answers no ping, and either side's keepalive ends it. A client that plays
a file faster than the engine hears it would lose its session that way.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ..streaming.bell import Bell
from .protocols.contract import Action, Audio

MAX_AHEAD = 64 << 20
"""Bytes of audio: half an hour of 16 kHz PCM. Beyond that the socket is not read after all."""
MAX_OTHERS = 10_000
"""Actions that are no audio, such as answers that are not read. Beyond that, the same."""
_JOINED = 4096
EACH = 200
"""Bytes that an action takes besides its audio, which are counted with it."""


class Ahead:
    """Actions in order, for one reader."""

    def __init__(self, limit: int = MAX_AHEAD) -> None:
        self._limit = limit
        self._actions: deque[Action] = deque()
        self._bytes = 0
        self._others = 0
        self._arrived = Bell()
        self._room = asyncio.Event()

    @property
    def waiting(self) -> bool:
        """Whether there is anything to get."""
        return bool(self._actions)

    @property
    def idle(self) -> bool:
        """Whether nothing is to be got and whatever was got before is done."""
        return self._arrived.awaited

    async def put(self, action: Action) -> None:
        """Append; waits while as much as is allowed is waiting already."""
        while not self._has_room():
            self._room.clear()
            await self._room.wait()
        if not self._joins(action):
            self._actions.append(action)
            self._count(action, 1)
        self._arrived.ring()

    async def get(self) -> Action:
        """Remove the oldest; waits for one."""
        while not self._actions:
            await self._arrived.wait()
        action = self._actions.popleft()
        self._count(action, -1)
        self._room.set()
        return action

    def _joins(self, action: Action) -> bool:
        """Add a little audio to the little that came last: many small pieces take more room."""
        last = self._actions[-1] if self._actions else None
        if not (isinstance(action, Audio) and isinstance(last, Audio)):
            return False
        if last.source != action.source or len(last.data) + len(action.data) > _JOINED:
            return False
        self._actions[-1] = Audio(last.data + action.data, last.source)
        self._bytes += len(action.data)
        return True

    def _has_room(self) -> bool:
        return self._bytes < self._limit and self._others < MAX_OTHERS

    def _count(self, action: Action, sign: int) -> None:
        if isinstance(action, Audio):
            self._bytes += sign * (len(action.data) + EACH)
        else:
            self._others += sign
