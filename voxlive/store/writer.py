"""What live sessions write to a store: one thread, a batch after another, for all of them.

Nobody waits for long: a store that is late or fails is passed by, and caught up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from itertools import islice

from voxlive.store.contract import (
    AddWords,
    Guarded,
    Operation,
    OperationDropped,
    SessionClaimed,
    SessionStore,
    StoreError,
)

log = logging.getLogger(__name__)

MAX_WAIT_S = 0.05
"""How long what a client gets waits for the store."""
MAX_WAITING = 200_000
"""Words, and other operations, that wait for a store which fails: some 100 MB. At the bound what is
new is dropped and counted; the numbers of words tell where some are missing."""
_MAX_BATCH = 2000
_RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)
CLOSE_TIMEOUT_S = 5.0

Written = asyncio.Future["StoreError | None"]
"""The outcome of an operation: None once it is written, else why it waits or never will be."""
_Pending = tuple[Operation, Written | None]


class SessionWriter(ABC):
    """What a session's recording writes by, on an event loop.

    ``late`` and ``passed_by`` count operations that a client did not wait for, since the store was
    late or failed.
    """

    late: int
    passed_by: int

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """Whether what is new is dropped."""

    @property
    @abstractmethod
    def is_late(self) -> bool:
        """Whether nothing was written for longer than a client waits: it need not wait again."""

    @abstractmethod
    def put(self, operation: Operation, written: Written | None = None) -> StoreError | None:
        """As ``write``, in any thread; returns why it has to wait or is dropped."""

    @abstractmethod
    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> int:
        """Write what waits, for this long at most; returns how much is lost. Blocks."""

    async def settle(self, written: Written, wait_s: float | None = None) -> bool:
        """Wait until it is written, or has failed; whether it came to that in time.

        ``wait_s``: for so long at most, None: ``MAX_WAIT_S``. Not at all while the store is late.
        """
        if not (written.done() or self.is_late):
            await asyncio.wait((written,), timeout=MAX_WAIT_S if wait_s is None else wait_s)
        return written.done()

    def write(self, operation: Operation) -> Written:
        """Have it written, after those before it. The result is None, or why it has to wait."""
        written: Written = asyncio.get_running_loop().create_future()
        if failure := self.put(operation, written):
            written.set_result(failure)
        return written


class StoreWriter(SessionWriter):
    """One thread that writes: at once, and then all that has come meanwhile, in one transaction.

    What fails is tried again, before anything newer, until it succeeds or the writer is closed.
    ``write`` is called on an event loop, everything else in any thread.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._waiting: deque[_Pending] = deque()
        self._weight = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._began_at: float | None = None  # when the batch that is written now was first tried
        self._failure: StoreError | None = None
        self.written = self.late = self.passed_by = self.dropped = 0
        """Operations: written; that a client did not wait for, since the store was late or failed;
        and lost at the bound."""
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Words and other operations that are not written yet."""
        return self._weight

    @property
    def is_full(self) -> bool:
        """Whether what is new is dropped."""
        return self._weight >= MAX_WAITING

    @property
    def is_late(self) -> bool:
        """Whether nothing was written for longer than a client waits: it need not wait again."""
        began_at = self._began_at
        return began_at is not None and time.monotonic() - began_at > MAX_WAIT_S

    @property
    def failure(self) -> StoreError | None:
        """Why nothing is written at the moment."""
        return self._failure

    def put(self, operation: Operation, written: Written | None = None) -> StoreError | None:
        """As ``write``, in any thread; returns why it has to wait or is dropped."""
        weight = weight_of(operation)
        with self._changed:
            if self._closing.is_set() or self._weight + weight > MAX_WAITING:
                self.dropped += 1
                return OperationDropped("too much waits for the store")
            self._waiting.append((operation, written))
            self._weight += weight
            self._changed.notify()
            return self._failure

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> int:
        """Write what waits, for this long at most; returns how much is lost."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join(timeout_s)
        return self._weight

    def _run(self) -> None:
        failed = 0
        while True:
            with self._changed:
                while not (self._waiting or self._closing.is_set()):
                    self._changed.wait()
                batch = list(islice(self._waiting, _MAX_BATCH))
                if not batch:
                    return
            self._began_at = self._began_at or time.monotonic()
            try:
                refused = self._store.apply([operation for operation, _ in batch])
            except StoreError as error:
                self._fail(error, batch)
                if self._closing.wait(_RETRY_S[min(failed, len(_RETRY_S) - 1)]) and failed:
                    return
                failed += 1
                continue
            failed, self._began_at = 0, None
            self._succeed(batch, refused)

    def _succeed(self, batch: list[_Pending], refused: frozenset[Guarded]) -> None:
        with self._changed:
            for _ in batch:
                self._waiting.popleft()
            self._weight -= sum(weight_of(operation) for operation, _ in batch)
            recovered, self._failure = self._failure, None
            self.written += len(batch)
        if recovered:
            log.warning("the store works again; %d operations are caught up", len(batch))
        if refused:
            claimed = SessionClaimed("another server goes on with this session")
            _resolve((future for one, future in batch if one in refused), claimed)
            batch = [pending for pending in batch if pending[0] not in refused]
        _resolve((future for _, future in batch), None)

    def _fail(self, error: StoreError, batch: list[_Pending]) -> None:
        with self._changed:
            first, self._failure = self._failure is None, error
        if first:
            log.error("the store fails, and is tried again: %s", error.message)
        _resolve((future for _, future in batch), error)


def weight_of(operation: Operation) -> int:
    """Of how many it counts towards ``MAX_WAITING``."""
    if isinstance(operation, Guarded):
        return sum(map(weight_of, operation.operations))
    return len(operation.words) if isinstance(operation, AddWords) else 1


def _resolve(futures: Iterable[Written | None], result: StoreError | None) -> None:
    """Give futures their result, on their own loops; one that has ended needs none."""
    loops: dict[asyncio.AbstractEventLoop, list[Written]] = {}
    for future in filter(None, futures):
        loops.setdefault(future.get_loop(), []).append(future)

    def set_results(mine: list[Written]) -> None:
        for future in mine:
            if not future.done():
                future.set_result(result)

    for loop, mine in loops.items():
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(set_results, mine)
