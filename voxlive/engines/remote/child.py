"""Inside an engine's process: it loads one engine and serves it until its socket closes.

Run as a module of its own rather than through multiprocessing, which would import the parent's main
module here too. However the host ends, this process ends: its socket closes.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

import numpy as np

from voxlive.engines.contract import Failed
from voxlive.engines.registry import load_engine
from voxlive.engines.remote.wire import (
    BatchedSender,
    CheckEngine,
    CloseStream,
    EngineAnswer,
    EngineLogRecord,
    EngineReady,
    EngineRefused,
    EngineReply,
    FeedStream,
    LoadEngine,
    MarkStream,
    OpenStream,
    Pulse,
    StreamMessage,
    read_messages,
)
from voxlive.errors import CheckpointError, EngineError
from voxlive.processes.logs import portable
from voxlive.processes.process import tune_interpreter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voxlive.engines.contract import Engine, Message, Stream, StreamOptions

SHUTDOWN_TIMEOUT_S = 5
_MOST_WAITING = 1000
_PULSE_S = 0.25


def main(fd: int) -> None:
    """Serve over the socket ``fd`` until it closes."""
    # The host ends its engine itself, after it has drained its sessions.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    connection = Connection(fd)
    incoming = read_messages(connection)
    match next(incoming, []):
        case [LoadEngine() as boot]:
            mail: BatchedSender[EngineReply] = BatchedSender(connection, "mail")
            logging.basicConfig(level=boot.level, handlers=[ForwardLogs(mail)])
            logging.captureWarnings(capture=True)
            engine = _load(boot, connection, mail)
            if engine is None:
                next(incoming, None)  # the host hangs up when it has heard why
            else:
                EngineServer(engine, mail).serve(incoming)
                # An end that hangs must not outlive the host: the alarm ends the process.
                signal.alarm(SHUTDOWN_TIMEOUT_S)
                engine.shutdown()
    os._exit(0)


def _load(
    boot: LoadEngine, connection: Connection, mail: BatchedSender[EngineReply]
) -> Engine | None:
    loaded = threading.Event()
    threading.Thread(target=_watch, args=(connection, loaded), daemon=True).start()
    try:
        engine = load_engine(boot.model, boot.options)
    except (EngineError, CheckpointError) as error:
        mail.put(EngineRefused(error))
        return None
    tune_interpreter()
    loaded.set()
    mail.put(EngineReady(engine.info))
    return engine


def _watch(connection: Connection, loaded: threading.Event) -> None:
    """End the process if the host goes while it loads: until then it has nothing to say."""
    wait([connection])
    if not loaded.is_set():
        os._exit(0)


class EngineServer:
    """Takes the host's commands to the engine. ``serve`` runs on the main thread."""

    def __init__(self, engine: Engine, mail: BatchedSender[EngineReply]) -> None:
        self._engine = engine
        self._mail = mail
        self._streams: dict[int, Stream] = {}
        self._checks = ThreadPoolExecutor(1, thread_name_prefix="check")
        self._obeyed = 0
        self._news = threading.Event()

    def serve(self, incoming: Iterable[list[object]]) -> None:
        """Obey until the socket closes."""
        threading.Thread(target=self._keep_pulse, name="pulse", daemon=True).start()
        for letter in incoming:
            for command in letter:
                self._obey(command)
                self._obeyed += 1
            self._news.set()

    def _obey(self, command: object) -> None:
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
            self._streams[ident] = self._engine.open(options, partial(self._tell, ident))
        except EngineError as error:
            self._tell(ident, Failed(error.code, error.message))

    def _check(self, number: int, timeout: float) -> None:
        self._mail.put(EngineAnswer(number, self._engine.check(timeout)))

    def _tell(self, ident: int, message: Message) -> None:
        self._mail.put(StreamMessage(ident, message))

    def _keep_pulse(self) -> None:
        """Tell how far the engine has come, while there is anything new to tell."""
        told: Pulse | None = None
        while True:
            self._news.clear()
            obeyed = self._obeyed  # before what is left of it
            busy, done = self._engine.work
            pulse = Pulse(obeyed, busy, done, self._engine.steps.read())
            if pulse != told:
                self._mail.put(pulse)
            told = pulse
            time.sleep(_PULSE_S)
            if not busy:
                self._news.wait()


class ForwardLogs(logging.Handler):
    """Hands what is logged here to the host, which knows how the user wants it.

    Where much waits to be sent already, records are dropped; the next one that is sent says so.
    """

    def __init__(self, mail: BatchedSender[EngineReply]) -> None:
        super().__init__()
        self._mail = mail
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """See Handler."""
        if self._mail.waiting >= _MOST_WAITING:
            self._dropped += 1
            return
        sent = portable(record)
        if self._dropped:
            sent.msg = f"{sent.msg} ({self._dropped} lines of the engine's were dropped before)"
            self._dropped = 0
        self._mail.put(EngineLogRecord(sent))


if __name__ == "__main__":
    main(int(sys.argv[1]))
