"""Inside an engine's process: it loads one engine and serves it until its socket closes.

Where several processes of a server share it, each has a socket of its own to it, which the host
hands over. When that closes, its streams end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from socket import socket
from typing import TYPE_CHECKING

import numpy as np

from voxlive.engines import load_engine
from voxlive.engines.contract import BatchEngine, Failed
from voxlive.engines.remote import (
    CheckEngine,
    CheckResult,
    CloseStream,
    EngineProgress,
    EngineReady,
    EngineRefused,
    EngineReply,
    FeedStream,
    LoadEngine,
    MarkStream,
    OpenStream,
    StreamMessage,
)
from voxlive.errors import CheckpointError, EngineError
from voxlive.processes.process import (
    BatchedSender,
    exiting_with_parent,
    handed_over,
    read_messages,
    run_child,
    tune_interpreter,
)

if TYPE_CHECKING:
    from voxlive.engines.contract import Engine, Message, Stream, StreamOptions

_REPORT_S = 0.25


def serve(end: socket, sender: BatchedSender[EngineReply]) -> Callable[[], None] | None:
    """Load the engine that the first command names, and serve it until the socket closes."""
    incoming = chain.from_iterable(read_messages(end))
    load = next(incoming, None)
    if not isinstance(load, LoadEngine):
        return None
    try:
        with exiting_with_parent(end):
            engine = load_engine(load.model, load.options)
            tune_interpreter()
    except (EngineError, CheckpointError) as error:
        sender.put(EngineRefused(error))
        next(incoming, None)  # the host disconnects once it has read why
        return None
    sender.put(EngineReady(engine.info))
    senders = Senders(engine)
    senders.add(sender)
    sharers = threading.Thread(
        target=_serve_sharers, args=[engine, senders], name="sharers", daemon=True
    )
    sharers.start()
    EngineServer(engine, sender).serve(incoming)
    return engine.shutdown


class Senders:
    """All that messages of an engine go to, which are sent together where it works in rounds."""

    def __init__(self, engine: Engine) -> None:
        self._senders: tuple[BatchedSender[EngineReply], ...] = ()
        self._lock = threading.Lock()
        if isinstance(engine, BatchEngine):
            engine.after_round = self._notify

    def add(self, sender: BatchedSender[EngineReply]) -> None:
        """From now on."""
        with self._lock:
            self._senders = (*self._senders, sender)

    def remove(self, sender: BatchedSender[EngineReply]) -> None:
        """It is gone."""
        with self._lock:
            self._senders = tuple(one for one in self._senders if one is not sender)

    def _notify(self) -> None:
        for sender in self._senders:
            sender.notify()


def _serve_sharers(engine: Engine, senders: Senders) -> None:
    """Serve those whose sockets the host hands over, each on a thread of its own."""
    for name, fd in handed_over():
        threading.Thread(
            target=_serve_sharer, args=[engine, senders, fd], name=name, daemon=True
        ).start()


def _serve_sharer(engine: Engine, senders: Senders, fd: int) -> None:
    with socket(fileno=fd) as end:
        sender: BatchedSender[EngineReply] = BatchedSender(end, "sender")
        sender.put(EngineReady(engine.info))
        senders.add(sender)
        EngineServer(engine, sender).serve(chain.from_iterable(read_messages(end)))
        senders.remove(sender)
        sender.close()


class EngineServer:
    """Takes commands from one socket to the engine. ``serve`` runs on a thread of its own."""

    def __init__(self, engine: Engine, sender: BatchedSender[EngineReply]) -> None:
        self._engine = engine
        self._sender = sender
        self._streams: dict[int, Stream] = {}
        self._checks = ThreadPoolExecutor(1, thread_name_prefix="check")
        self._handled = 0
        self._changed = threading.Event()
        self._over = False
        self._in_rounds = isinstance(engine, BatchEngine)

    def serve(self, commands: Iterable[object]) -> None:
        """Handle commands until there are no more, then close the streams."""
        threading.Thread(target=self._report_progress, name="progress", daemon=True).start()
        for command in commands:
            self._handle(command)
            self._handled += 1
            if not self._changed.is_set():
                self._changed.set()
        self._over = True
        self._changed.set()
        for stream in self._streams.values():
            stream.close()
        self._checks.shutdown(wait=False, cancel_futures=True)

    def _handle(self, command: object) -> None:
        match command:
            case FeedStream(ident, pcm, at) if stream := self._streams.get(ident):
                stream.feed(np.frombuffer(pcm, np.float32), at)
            case MarkStream(ident, marker, flush) if stream := self._streams.get(ident):
                (stream.flush if flush else stream.end_utterance)(marker)
            case CloseStream(ident) if stream := self._streams.pop(ident, None):
                stream.close()
            case OpenStream(ident, options):
                self._open(ident, options)
            case CheckEngine(number, timeout):
                self._checks.submit(self._check, number, timeout)

    def _open(self, ident: int, options: StreamOptions) -> None:
        try:
            self._streams[ident] = self._engine.open(options, partial(self._reply, ident))
        except EngineError as error:
            self._reply(ident, Failed(error.code, error.message))

    def _check(self, number: int, timeout: float) -> None:
        self._sender.put(CheckResult(number, self._engine.check(timeout)))

    def _reply(self, ident: int, message: Message) -> None:
        late = self._in_rounds and not isinstance(message, Failed)
        self._sender.put(StreamMessage(ident, message), soon=not late)

    def _report_progress(self) -> None:
        """Send how far the engine has come, whenever that has changed."""
        reported: EngineProgress | None = None
        while not self._over:
            self._changed.clear()
            handled = self._handled  # before what is left of it
            busy, done = self._engine.work
            progress = EngineProgress(handled, busy, done, self._engine.steps.read())
            if progress != reported:
                self._sender.put(progress)
            reported = progress
            time.sleep(_REPORT_S)
            if not busy:
                self._changed.wait()


if __name__ == "__main__":
    run_child(serve)
