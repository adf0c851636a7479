"""Sends what any thread puts, in order; what comes together goes together."""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

PAUSE_S = 0.001
"""Between two letters. Each wakes a thread over there that takes the interpreter from the others,
so thousands of items a second must not be thousands of letters."""

_Item = TypeVar("_Item")


class Mail(Generic[_Item]):
    """One end's way out. The bound is the callers': sessions wait for those who are behind."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._waiting: deque[_Item] = deque()
        self._called = False
        self._closed = False
        self._bell = threading.Semaphore(0)
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def put(self, item: _Item) -> None:
        """Take an item; never blocks. What is put when the other end is gone is lost."""
        self._waiting.append(item)
        if not self._called:
            self._called = True
            self._bell.release()

    @property
    def waiting(self) -> int:
        """How many items have not been sent."""
        return len(self._waiting)

    def close(self) -> None:
        """Send nothing more; what waits is lost."""
        self._closed = True
        self._bell.release()

    def _run(self) -> None:
        # Whoever reads there sees that the other end is gone, and says so.
        with suppress(OSError):
            while self._bell.acquire() and not self._closed:
                # Before anything is taken: what is put from here on is either taken or called for.
                self._called = False
                letter = [self._waiting.popleft() for _ in range(len(self._waiting))]
                if letter:
                    self._connection.send_bytes(pickle.dumps(letter, pickle.HIGHEST_PROTOCOL))
                    time.sleep(PAUSE_S)


def letters(connection: Connection) -> Iterator[list[object]]:
    """What the other end sends, until it is gone. Blocks."""
    while True:
        try:
            letter = connection.recv_bytes()
        except (EOFError, OSError):
            return
        yield pickle.loads(letter)  # noqa: S301
