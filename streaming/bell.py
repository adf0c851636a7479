"""One task's wait for something that others do on the same loop."""

from __future__ import annotations

import asyncio


class Bell:
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
