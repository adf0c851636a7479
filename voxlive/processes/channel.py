"""Messages between two processes of this program, in batches, over a socket.

Batches are pickles, and whoever can write a pickle can run code where it is read. So they are read
from one end of a socket pair alone whose other end a child of this process has, or its parent: the
same program of the same user. What comes from a network or a file never gets here.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from socket import SHUT_RDWR, SHUT_WR
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket

MAX_WAITING = 1 << 20
"""Messages that may wait for a process that reads none, above what any caller's own bound lets
wait; beyond it the connection ends, and so does what it was for."""
MAX_BATCH = 1024
"""Messages of a batch."""
MAX_BYTES = 1 << 30
"""Of a batch, above what ``MAX_BATCH`` messages amount to; a longer one is damage, and the end."""
PAUSE_S = 0.001
"""Between two batches. Each wakes a thread over there that takes the interpreter from the others,
so thousands of messages a second must not be thousands of batches."""

_Message = TypeVar("_Message")


class BatchedSender(Generic[_Message]):
    """Sends what any thread puts, in order; what comes together goes together.

    Nobody waits for it: how much waits is bounded by the callers, and by ``MAX_WAITING``.
    """

    def __init__(self, end: socket, name: str) -> None:
        self._end = end
        self._connection = Connection(os.dup(end.fileno()), readable=False)
        self._waiting: deque[_Message] = deque()
        self._sending = threading.Lock()
        self._wakeup = threading.Semaphore(0)
        self._notified = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, message: _Message) -> None:
        """Take a message; never blocks. What is put when the other end is gone is lost."""
        if self._closed:
            return
        self._waiting.append(message)
        if len(self._waiting) > MAX_WAITING:
            self._closed = True
            hang_up(self._end)
        if not self._notified:
            self._notified = True
            self._wakeup.release()

    @property
    def waiting(self) -> int:
        """How many messages have not been sent."""
        return len(self._waiting)

    def flush(self) -> None:
        """Send what waits on the caller's thread, before the process ends. Blocks."""
        with suppress(OSError):
            self._send_waiting()

    def close(self) -> None:
        """Send nothing more; what waits is lost. Blocks while a batch is being sent."""
        self._closed = True
        self._wakeup.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            # Whoever reads here sees that the other end is gone, and does what is to be done.
            with suppress(OSError):
                while self._wakeup.acquire() and not self._closed:
                    # Before anything is taken: what is put from here on is taken, or notified of.
                    self._notified = False
                    if self._waiting:
                        self._send_waiting()
                        time.sleep(PAUSE_S)
        finally:
            # Also after a message that cannot be pickled: the other end must not wait for it.
            self._closed = True
            self._waiting.clear()
            with suppress(OSError):
                self._end.shutdown(SHUT_WR)
            self._connection.close()

    def _send_waiting(self) -> None:
        with self._sending:
            while count := min(len(self._waiting), MAX_BATCH):
                batch = [self._waiting.popleft() for _ in range(count)]
                self._connection.send_bytes(pickle.dumps(batch, pickle.HIGHEST_PROTOCOL))


def read_messages(end: socket) -> Iterator[list[object]]:
    """The batches that the other end sends, until it is gone or someone hangs up. Blocks."""
    with Connection(os.dup(end.fileno()), writable=False) as connection:
        while True:
            try:
                data = connection.recv_bytes(MAX_BYTES)
            except (EOFError, OSError):
                return
            yield pickle.loads(data)  # noqa: S301


def hang_up(end: socket) -> None:
    """Both ends see the other go. Any thread may, at any time and more than once."""
    with suppress(OSError):
        end.shutdown(SHUT_RDWR)
