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

from ...checkpoints.errors import CheckpointError
from ..engine import EngineError, Failed
from ..log_text import portable
from ..pauses import spare_pauses
from ..registry import load_engine
from .mail import Mail, letters
from .wire import (
    Answer,
    Boot,
    Check,
    Close,
    Feed,
    Logged,
    Mark,
    Open,
    Pulse,
    Ready,
    Refused,
    Reply,
    Told,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..engine import Engine, Message, Stream, StreamOptions

_LAST_RITES_S = 5
_MOST_WAITING = 1000
_PULSE_S = 0.25


def main(fd: int) -> None:
    """Serve over the socket ``fd`` until it closes."""
    # The host ends its engine itself, after it has drained its sessions.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    connection = Connection(fd)
    incoming = letters(connection)
    match next(incoming, []):
        case [Boot() as boot]:
            mail: Mail[Reply] = Mail(connection, "mail")
            logging.basicConfig(level=boot.level, handlers=[Forward(mail)])
            logging.captureWarnings(capture=True)
            engine = _load(boot, connection, mail)
            if engine is None:
                next(incoming, None)  # the host hangs up when it has heard why
            else:
                Desk(engine, mail).serve(incoming)
                # An end that hangs must not outlive the host: the alarm ends the process.
                signal.alarm(_LAST_RITES_S)
                engine.shutdown()
    os._exit(0)


def _load(boot: Boot, connection: Connection, mail: Mail[Reply]) -> Engine | None:
    loaded = threading.Event()
    threading.Thread(target=_watch, args=(connection, loaded), daemon=True).start()
    try:
        engine = load_engine(boot.model, boot.options)
    except (EngineError, CheckpointError) as error:
        mail.put(Refused(error))
        return None
    spare_pauses()
    loaded.set()
    mail.put(Ready(engine.info))
    return engine


def _watch(connection: Connection, loaded: threading.Event) -> None:
    """End the process if the host goes while it loads: until then it has nothing to say."""
    wait([connection])
    if not loaded.is_set():
        os._exit(0)


class Desk:
    """Takes the host's commands to the engine. ``serve`` runs on the main thread."""

    def __init__(self, engine: Engine, mail: Mail[Reply]) -> None:
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
            case Feed(ident, pcm, at) if stream := self._streams.get(ident):
                stream.feed(np.frombuffer(pcm, np.float32), at)
            case Mark(ident, marker, flush) if stream := self._streams.get(ident):
                (stream.flush if flush else stream.end_utterance)(marker)
            case Close(ident) if stream := self._streams.pop(ident, None):
                stream.close()
            case Open(ident, options):
                self._open(ident, options)
            case Check(number, timeout):
                self._checks.submit(self._check, number, timeout)

    def _open(self, ident: int, options: StreamOptions) -> None:
        try:
            self._streams[ident] = self._engine.open(options, partial(self._tell, ident))
        except EngineError as error:
            self._tell(ident, Failed(error.code, error.message))

    def _check(self, number: int, timeout: float) -> None:
        self._mail.put(Answer(number, self._engine.check(timeout)))

    def _tell(self, ident: int, message: Message) -> None:
        self._mail.put(Told(ident, message))

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


class Forward(logging.Handler):
    """Hands what is logged here to the host, which knows how the user wants it.

    Where much waits to be sent already, records are dropped; the next one that is sent says so.
    """

    def __init__(self, mail: Mail[Reply]) -> None:
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
        self._mail.put(Logged(sent))


if __name__ == "__main__":
    main(int(sys.argv[1]))
