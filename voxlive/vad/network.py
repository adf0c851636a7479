"""A network that all sessions of a process share, on a thread of its own, loaded when it is needed.

Who asks at the same time is answered by one batch. For networks that keep nothing between
questions; the voice detector, which does, has lanes (``detector.py``).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from voxlive.checkpoints.packages import is_known, part_file
from voxlive.errors import UnsupportedOption, VadError

Array = NDArray[np.float32]
Answer = TypeVar("Answer")
Network = Callable[[Sequence[Array]], Sequence[Answer]]

_MAX_BATCH = 8


class NetworkFailed(VadError):
    """The network cannot be loaded, or failed; or it was closed."""


class NetworkMissing(UnsupportedOption):
    """The network's file is not on this machine."""


def read_network(name: str, missing: Callable[[], NetworkMissing], path: Path | None) -> bytes:
    """The file of a part (``checkpoints.packages``), or another one that holds the same.

    Raises what is ``missing``, and NetworkFailed where it holds something else.
    """
    path = path or part_file(name)
    if path is None:
        raise missing()
    content = path.read_bytes()
    if not is_known(name, content):
        raise NetworkFailed(f"{path} is damaged: voxlive models fetch {name} repairs it")
    return content


class SharedNetwork(Generic[Answer]):
    """Answers questions, which are float32 [n] at 16 kHz, by the network that ``load`` loads.

    Bound: what its sessions ask, one question of each at a time. ``name`` is for messages.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Network[Answer]],
        missing: Callable[[], NetworkMissing | None],
    ) -> None:
        """``missing``: why it cannot be loaded, None where its file is here."""
        self._name = name
        self._missing = missing
        self._load = load
        self._network: Network[Answer] | None = None
        self._waiting: list[tuple[Array, Future[Answer]]] = []
        self._asked: list[tuple[Array, Future[Answer]]] = []  # the thread's
        self._lock = threading.Lock()
        self._worker: ThreadPoolExecutor | None = None
        self._closed = False

    def prepare(self) -> None:
        """Have the network loaded, on its thread. Raises what is ``missing``.

        After ``close`` it raises NetworkFailed.
        """
        if self._network is None and (problem := self._missing()):
            raise problem
        self._submit()

    async def ask(self, audio: Array) -> Answer:
        """The network's answer. Raises NetworkFailed. The event loop runs meanwhile."""
        done: Future[Answer] = Future()
        with self._lock:
            self._waiting.append((audio, done))
        self._submit()
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """End the thread; who waits is told so. Blocks for one batch. May be called twice."""
        with self._lock:
            self._closed = True
            worker, self._worker = self._worker, None
        if worker:
            worker.shutdown()
        with self._lock:
            left, self._waiting = self._waiting, []
        for _, done in left:
            if done.set_running_or_notify_cancel():
                done.set_exception(NetworkFailed(f"the {self._name} was closed"))

    def _submit(self) -> None:
        with self._lock:
            if self._closed:
                raise NetworkFailed(f"the {self._name} was closed")
            if self._worker is None:
                thread = self._name.replace(" ", "-")
                self._worker = ThreadPoolExecutor(1, thread_name_prefix=thread)
            self._worker.submit(self._on_answered, self._worker.submit(self._answer))

    def _answer(self) -> None:
        """Load the network unless it is, and answer who waits, a batch at most."""
        with self._lock:
            batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
        self._asked = [one for one in batch if one[1].set_running_or_notify_cancel()]
        if self._network is None:
            self._network = self._load()
        if self._asked:
            answers = self._network([audio for audio, _ in self._asked])
            for (_, done), answer in zip(self._asked, answers, strict=True):
                done.set_result(answer)

    def _on_answered(self, outcome: Future[None]) -> None:
        """Fail the batch if the network did."""
        if error := outcome.exception():
            failed = NetworkFailed(f"the {self._name} failed: {error}")
            failed.__cause__ = error
            for _, done in self._asked:
                if not done.done():
                    done.set_exception(failed)
        self._asked = []
