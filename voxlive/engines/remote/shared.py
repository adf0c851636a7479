"""An engine that several processes of a server share, as it is in those that did not start it.

Each has a socket of its own to the engine's process, handed over by the server's first process,
which supervises that one: a ``SharedEngine`` is told when it has ended, and tells when it hangs.
Slots are counted once for all, in memory that they share: to take one waits for no process.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING, Self

from voxlive.engines.remote import EngineCommand, EngineReady
from voxlive.engines.remote.host import EngineLink, RemoteEngine
from voxlive.processes.process import PAUSE_S, BatchedSender, disconnect, read_messages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket

    from voxlive.engines.contract import EngineInfo

_TRIES, _PAUSE_S = 200, 0.00005
_TOLD_S = 10.0
"""After a process has ended it takes the first process so long at most to say why."""


class SlotTable:
    """How many slots, or other things, each process has: a number for every member, 0 the first.

    It is changed under a lock on the file, which the system frees when its holder dies.
    """

    def __init__(self, fd: int, member: int) -> None:
        """``fd``: of ``create``, which this owns from now on."""
        self.fd = fd
        self._member = member
        self._map = mmap.mmap(fd, 0)
        self._cells = memoryview(self._map).cast("i")

    @classmethod
    def create(cls, members: int) -> Self:
        """For so many beside the first process."""
        if sys.platform == "linux":
            fd = os.memfd_create("voxlive-slots")
        else:
            with tempfile.TemporaryFile(prefix="voxlive-slots-") as file:
                fd = os.dup(file.fileno())
        os.truncate(fd, struct.calcsize("i") * (members + 1))
        return cls(fd, 0)

    @property
    def in_use(self) -> int:
        """How many are taken, by all."""
        return sum(self._cells)

    def take(self, capacity: int) -> bool:
        """Take one; False if so many are taken, or a process stands still in the middle of it."""
        with self._locked() as locked:
            free = locked and self.in_use < capacity
            self._cells[self._member] += free
            return free

    def give_back(self, count: int = 1) -> None:
        """This process has that many fewer."""
        self._cells[self._member] -= count

    def set(self, count: int) -> None:
        """This process has so many."""
        self._cells[self._member] = count

    def clear(self, member: int) -> None:
        """That process is gone."""
        self._cells[member] = 0

    def close(self) -> None:
        """Free it, here."""
        self._cells.release()
        self._map.close()
        os.close(self.fd)

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        for _ in range(_TRIES):
            with suppress(BlockingIOError):
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_PAUSE_S)
        else:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN)


class SharedEngine(RemoteEngine):
    """See the module and the contract. Of use once it is linked.

    ``on_hang`` takes the number of a process that hangs, and a fault. ``sharers``: how many send to
    the engine's process; each does so the more rarely.
    """

    def __init__(
        self,
        info: EngineInfo,
        deadline_s: float,
        slots: SlotTable,
        sharers: int,
        on_hang: Callable[[int, str], object],
    ) -> None:
        self.info = info
        self._pause_s = PAUSE_S * sharers
        self._on_hang = on_hang
        self._end: socket | None = None
        self._serving = threading.Thread()
        self._linked = threading.Event()
        self._faults: dict[int, str] = {}
        self._told = threading.Condition()
        super().__init__(deadline_s, slots)

    @property
    def pid(self) -> int | None:
        """The first process knows it."""
        return None

    def link(self, end: socket, number: int) -> None:
        """There is a process, the ``number``-th: the socket to it. From one thread."""
        before = self._serving
        self._serving = threading.Thread(
            target=self._serve, args=[end, number, before], name="engine-link", daemon=True
        )
        self._serving.start()

    def wait_until_linked(self, timeout_s: float) -> None:
        """Blocks until there has been a process, for so long at most."""
        self._linked.wait(timeout_s)

    def lose(self, number: int, fault: str) -> None:
        """That process has ended."""
        with self._told:
            self._faults = {number: fault}
            self._told.notify_all()

    def shutdown(self) -> None:
        """See the contract."""
        self._supervisor.close()
        with self._lock:
            self._closed.set()
            if self._end:
                disconnect(self._end)

    def _end_process(self, link: EngineLink, fault: str) -> None:
        self._on_hang(link.number, fault)

    def _serve(self, end: socket, number: int, before: threading.Thread) -> None:
        """One process, from the socket to it to its end; ``before`` has served the one before."""
        if before.ident is not None:
            before.join()
        sender: BatchedSender[EngineCommand] = BatchedSender(end, "engine-sender", self._pause_s)
        link = EngineLink(sender, number)
        with self._lock:
            self._end = end
            if self._closed.is_set():
                disconnect(end)
        for reply in chain.from_iterable(read_messages(end)):
            if isinstance(reply, EngineReady):
                with self._lock:
                    self.info, self._link, self._fault = reply.info, link, None
                self._linked.set()
            else:
                self._receive(reply, link)
        with self._lock:
            self._fault = self._fault or "the engine's process has ended"
            self._link = self._end = None
        if not self._closed.is_set():
            self._fault = self._reason(number)
        self._fail_waiting()
        sender.close()
        end.close()

    def _reason(self, number: int) -> str:
        """Why that process has ended. Blocks until that is told; else it is to be ended."""
        with self._told:
            self._told.wait_for(lambda: number in self._faults or self._closed.is_set(), _TOLD_S)
        if number not in self._faults:
            self._on_hang(number, "the engine's process has broken off and was ended")
        return self._faults.get(number, "the engine's process has broken off")
