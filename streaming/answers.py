"""From the engine's thread to the event loop: what comes together is one call, not many."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from .engine import Message


class Answers:
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
