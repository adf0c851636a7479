"""The store, which the host alone opens, for a worker: what is written, and what is resumed.

What is written goes to the host's writer, so that the sessions of all workers are one batch. The
contract is that of ``store.writer``: nobody waits for long, and what is late is caught up.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING, Any

from voxlive.store.contract import OperationDropped, ResumableStore, StoreError
from voxlive.store.writer import (
    CLOSE_TIMEOUT_S,
    MAX_WAIT_S,
    MAX_WAITING,
    SessionWriter,
    Written,
    weight_of,
)
from voxlive.web.workers import StoreCall, StoreWrite, StoreWritten
from voxlive.web.workers.channel import WorkerChannel

if TYPE_CHECKING:
    from voxlive.store.contract import (
        ClaimedSession,
        Operation,
        StoredResumable,
    )
    from voxlive.web.recorder import Recorder


class HostWriter(SessionWriter):
    """The ``StoreWriter`` of a worker: the host's. On the event loop, but for ``put``."""

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self._numbers = count(1)
        # By number: the operation's weight, when it was given, and who waits for it.
        self._waiting: OrderedDict[int, tuple[int, float, Written | None]] = OrderedDict()
        self._weight = 0
        self._changed = threading.Condition()
        self.late = self.passed_by = self.dropped = 0
        channel.on(StoreWritten, self._on_written)

    @property
    def is_full(self) -> bool:
        """Whether what is new is dropped."""
        return self._weight >= MAX_WAITING

    @property
    def is_late(self) -> bool:
        """Whether nothing was written for longer than a client waits: it need not wait again."""
        with self._changed:
            oldest = next(iter(self._waiting.values()), None)
        return oldest is not None and time.monotonic() - oldest[1] > MAX_WAIT_S

    def put(self, operation: Operation, written: Written | None = None) -> StoreError | None:
        """See ``SessionWriter``."""
        weight = weight_of(operation)
        with self._changed:
            if self._weight + weight > MAX_WAITING:
                self.dropped += 1
                return OperationDropped("too much waits for the store")
            number = next(self._numbers)
            self._waiting[number] = weight, time.monotonic(), written
            self._weight += weight
            self._channel.tell(StoreWrite(number, operation))
        return None

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> int:
        """See ``SessionWriter``: the host writes what waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout_s)
            return self._weight

    def _on_written(self, done: StoreWritten) -> None:
        with self._changed:
            weight, _, written = self._waiting.pop(done.number)
            self._weight -= weight
            self._changed.notify_all()
        if written and not written.done():
            written.set_result(done.result)


class HostStore(ResumableStore):
    """The store of a worker, by calls of the host's."""

    def __init__(self, channel: WorkerChannel, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self._loop = loop

    def resumable(self, token: str) -> StoredResumable | None:
        """See ``ResumableStore``."""
        found: StoredResumable | None = self._call("resumable", token)
        return found

    def resumable_named(self, name: str) -> StoredResumable | None:
        """See ``ResumableStore``."""
        found: StoredResumable | None = self._call("resumable_named", name)
        return found

    def claim(self, session: str, epoch: int, holder: str) -> ClaimedSession | None:
        """See ``ResumableStore``."""
        claimed: ClaimedSession | None = self._call("claim", session, epoch, holder)
        return claimed

    def _call(self, name: str, *args: object) -> Any:
        call = self._channel.ask(StoreCall(name, args))
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


def serve_store(recorder: Recorder, channel: WorkerChannel) -> None:
    """At the host: have a worker's calls and writes done."""

    async def call(asked: StoreCall) -> object:
        return await asyncio.to_thread(getattr(recorder.store, asked.name), *asked.args)

    def write(asked: StoreWrite) -> None:
        def on_written(written: Written) -> None:
            channel.tell(StoreWritten(asked.number, written.result()))

        recorder.writer.write(asked.operation).add_done_callback(on_written)

    channel.answer(StoreCall, call)
    channel.on(StoreWrite, write)
