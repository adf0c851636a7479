"""What an engine's process and its host say to each other: lists of these, pickled.

Both ends are this program. What comes many times a second is a tuple, which pickles fastest.

Sends what any thread puts, in order; what comes together goes together.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from voxlive.checkpoints.local_model import LocalModel
from voxlive.engines.contract import EngineInfo, EngineOptions, Message, Reading, StreamOptions
from voxlive.errors import CheckpointError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection


@dataclass(frozen=True, slots=True)
class LoadEngine:
    """The first command: load this model; log from ``level`` on."""

    model: LocalModel
    options: EngineOptions
    level: int


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A stream, known as ``ident`` from now on; a refusal comes as its ``Failed``."""

    ident: int
    options: StreamOptions


@dataclass(frozen=True, slots=True)
class CheckEngine:
    """Asks for the engine's own check; its answer carries the number."""

    number: int
    timeout: float


class FeedStream(NamedTuple):
    """Float32 samples in this machine's byte order, for ``Stream.feed``."""

    ident: int
    pcm: bytes
    at: int


class MarkStream(NamedTuple):
    """For ``Stream.flush`` or, without ``flush``, ``Stream.end_utterance``."""

    ident: int
    marker: int
    flush: bool


class CloseStream(NamedTuple):
    """For ``Stream.close``."""

    ident: int


@dataclass(frozen=True, slots=True)
class EngineReady:
    """The engine is loaded and warm."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class EngineRefused:
    """The engine cannot be loaded; the process ends."""

    error: EngineError | CheckpointError


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """To the check with this number: what is wrong, if anything."""

    number: int
    fault: str | None


class Pulse(NamedTuple):
    """How far the engine has come; pushed a few times a second while that changes.

    ``obeyed``: commands after the first that it was given; ``busy``: whether they have left it
    anything to do; ``done``: ``Work.done``; ``steps``: how long its steps have taken.
    """

    obeyed: int
    busy: bool
    done: int
    steps: Reading


class StreamMessage(NamedTuple):
    """An engine's message to a stream."""

    ident: int
    message: Message


@dataclass(frozen=True, slots=True)
class EngineLogRecord:
    """What was logged over there."""

    record: logging.LogRecord


EngineCommand = LoadEngine | OpenStream | CheckEngine | FeedStream | MarkStream | CloseStream
EngineReply = EngineReady | EngineRefused | EngineAnswer | Pulse | StreamMessage | EngineLogRecord


PAUSE_S = 0.001
"""Between two letters. Each wakes a thread over there that takes the interpreter from the others,
so thousands of items a second must not be thousands of letters."""

_Item = TypeVar("_Item")


class BatchedSender(Generic[_Item]):
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


def read_messages(connection: Connection) -> Iterator[list[object]]:
    """What the other end sends, until it is gone. Blocks."""
    while True:
        try:
            letter = connection.recv_bytes()
        except (EOFError, OSError):
            return
        yield pickle.loads(letter)  # noqa: S301
