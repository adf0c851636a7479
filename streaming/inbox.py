"""The bounded queue of what a session has still to do."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from .bell import Bell

_Command = TypeVar("_Command")


class Inbox(Generic[_Command]):
    """Commands in order for one reader. ``limit`` may wait, then ``put`` does."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._commands: deque[_Command] = deque()
        self._arrived = Bell()
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
