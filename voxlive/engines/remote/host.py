"""A process with an engine, its socket, and the way out to it.

One stream of an engine in another process.

The server's end of an engine in a process of its own: an ``Engine`` like any other.

A thread lives with the process: it starts it, hears it and, when it has ended of itself, fails its
streams and starts the next one. What streams hand over goes out as it comes. Nothing but ``check``
waits for the process: what a stream needs to know is in the engine's info, and how far the engine
has come is pushed. By that a supervisor sees when it hangs, and ends it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from itertools import count
from multiprocessing.connection import Connection
from typing import IO, TYPE_CHECKING

import numpy as np

from voxlive.engines.contract import Durations, Failed, Reading
from voxlive.engines.remote.wire import (
    BatchedSender,
    CheckEngine,
    CloseStream,
    EngineAnswer,
    EngineCommand,
    EngineLogRecord,
    EngineReady,
    EngineRefused,
    FeedStream,
    LoadEngine,
    MarkStream,
    OpenStream,
    Pulse,
    StreamMessage,
    read_messages,
)
from voxlive.errors import EngineError, EngineFull
from voxlive.processes.process import kill_group
from voxlive.processes.supervisor import Supervisor, Work

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import EngineInfo, EngineOptions, Message, Sink, StreamOptions
    from voxlive.errors import CheckpointError
    from voxlive.values import Samples

_COMMAND = (sys.executable, "-P", "-m", "voxlive.engines.remote.child")
_END_S = 8.0
_LONGEST_LINE = 4096

log = logging.getLogger(__name__)


class Link:
    """Starts a process that shares nothing with this one but a socket. Raises OSError.

    Commands are counted on both sides: what has not been obeyed yet is work as well.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    (*_COMMAND, str(theirs.fileno())),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    # A terminal shows how a download gets on. All else goes through the log here,
                    # which waits for no reader: a process that writes to a full pipe stops.
                    stderr=None if os.isatty(2) else subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError:
                self._socket.close()
                raise
        self._connection = Connection(os.dup(self._socket.fileno()))
        self.mail: BatchedSender[EngineCommand] = BatchedSender(self._connection, "engine-mail")
        self.pid = self._process.pid
        self.pulse = Pulse(0, False, 0, Durations().read())
        self._sent = 0
        self._closes: deque[int] = deque()
        self._lock = threading.Lock()
        if stderr := self._process.stderr:
            follow = threading.Thread(
                target=_follow, args=(stderr, self.pid), name="engine-stderr", daemon=True
            )
            follow.start()

    def send(self, command: EngineCommand) -> None:
        """A command to the loaded engine; never blocks."""
        with self._lock:
            self._sent += 1
            if isinstance(command, CloseStream):
                self._closes.append(self._sent)
            self.mail.put(command)

    def hear(self, pulse: Pulse) -> None:
        """How far the engine has come."""
        with self._lock:
            self.pulse = pulse
            while self._closes and self._closes[0] <= pulse.obeyed:
                self._closes.popleft()

    @property
    def work(self) -> Work:
        """What the engine has to do, what is on its way to it included, and how far it has come."""
        with self._lock:
            busy = self.pulse.busy or self._sent > self.pulse.obeyed
            return Work(busy, self.pulse.obeyed + self.pulse.done)

    @property
    def closing(self) -> int:
        """Streams that were closed here and not there yet: until then it holds their audio."""
        with self._lock:
            return len(self._closes)

    def replies(self) -> Iterator[object]:
        """What comes from there, until the process ends or someone hangs up. Blocks."""
        for letter in read_messages(self._connection):
            yield from letter

    def hang_up(self) -> None:
        """Let the process go: both ends see their socket close. Any thread may."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """End the process at once. Any thread may."""
        if self._process.poll() is None:
            kill_group(self.pid)
        self.hang_up()

    def end(self) -> str:
        """Wait for the process's end, which is killed in the end; how it ended."""
        self.hang_up()
        self.mail.close()
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self._connection.close()
        self._socket.close()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _follow(stderr: IO[bytes], pid: int) -> None:
    """Log what the process and its own children write, until all of them have ended."""
    with stderr:
        while line := stderr.readline(_LONGEST_LINE):
            if said := line.decode(errors="replace").strip():
                log.warning("engine %d: %s", pid, said)


class ProcessStream:
    """See the contract. ``send`` takes its commands, ``release`` its number when it is over."""

    def __init__(
        self,
        ident: int,
        trail: int,
        sink: Sink,
        send: Callable[[EngineCommand], None],
        release: Callable[[int], None],
    ) -> None:
        self.sink = sink
        self.trail = trail
        self._ident = ident
        self._send = send
        self._release = release
        self._closed = False

    def feed(self, audio: Samples, at: int) -> None:
        """See the contract."""
        self._put(FeedStream(self._ident, np.asarray(audio, np.float32).tobytes(), at))

    def end_utterance(self, marker: int) -> None:
        """See the contract."""
        self._put(MarkStream(self._ident, marker, flush=False))

    def flush(self, marker: int) -> None:
        """See the contract."""
        self._put(MarkStream(self._ident, marker, flush=True))

    def close(self) -> None:
        """See the contract."""
        if not self._closed:
            self._put(CloseStream(self._ident))
            self._closed = True
            self._release(self._ident)

    def _put(self, command: EngineCommand) -> None:
        if not self._closed:
            self._send(command)


_ANSWER_S = 2.0
_LATER = "try again in a moment"
_LONGEST_WAIT_S = 30.0
_CLOSING = 4
"""Streams for each slot that may be closed here and not there yet: their audio is on its way."""


class ProcessEngine:
    """See the module and the contract. Of use once it is loaded; ``start`` waits for that."""

    info: EngineInfo

    def __init__(self, model: LocalModel, options: EngineOptions) -> None:
        self._boot = LoadEngine(model, options, logging.getLogger().getEffectiveLevel())
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._streams: dict[int, ProcessStream] = {}
        self._checks: dict[int, Future[str | None]] = {}
        self._numbers = count(1)
        # Why there is no engine now; None while there is one.
        self._fault: str | None = "the engine is being loaded"
        # Why its process has to end, where it does not end of itself.
        self._verdict: str | None = None
        self.deadline_s = options.deadline_s
        self._down = threading.Event()
        self._loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        self._supervisor = Supervisor([self], self.deadline_s)

    @classmethod
    def start(cls, model: LocalModel, options: EngineOptions) -> ProcessEngine:
        """Start a process and load the model. Blocks; raises EngineError, CheckpointError."""
        engine = cls(model, options)
        with ExitStack() as undo:
            undo.callback(engine.shutdown)
            engine.wait_until_loaded()
            undo.pop_all()
        return engine

    def wait_until_loaded(self) -> None:
        """Blocks; raises EngineError or CheckpointError where the model cannot be loaded."""
        self._loaded.result()

    @property
    def in_use(self) -> int:
        """See the contract."""
        return len(self._streams)

    @property
    def steps(self) -> ProcessEngine:
        """See the contract and ``read``."""
        return self

    def read(self) -> Reading:
        """How long the engine's steps have taken, as it last told."""
        link = self._link
        return link.pulse.steps if link else Durations().read()

    @property
    def pid(self) -> int | None:
        """The process, for diagnosis."""
        return self._link.pid if self._link else None

    def open(self, options: StreamOptions, sink: Sink) -> ProcessStream:
        """See the contract; EngineError ``engine_failed`` while there is no engine."""
        with self._lock:
            link = self._reached()
            self.info.validate(options)
            if len(self._streams) >= self.info.capacity:
                raise EngineFull(self.info.capacity)
            if link.closing > _CLOSING * (self.info.capacity + 8):
                raise EngineError("engine_failed", f"the engine does not get on; {_LATER}")
            ident, trail = next(self._numbers), self.info.trail(options)
            stream = ProcessStream(ident, trail, sink, link.send, self._release)
            self._streams[ident] = stream
            link.send(OpenStream(ident, options))
        return stream

    def check(self, timeout: float) -> str | None:
        """See the contract; where there is no engine, why."""
        answer: Future[str | None] = Future()
        try:
            with self._lock:
                number = next(self._numbers)
                self._reached().send(CheckEngine(number, timeout))
                self._checks[number] = answer
            return answer.result(timeout + _ANSWER_S)
        except EngineError as error:
            return error.message
        except TimeoutError:
            return f"the engine did not answer in {timeout + _ANSWER_S:g} s; {_LATER}"
        finally:
            with self._lock:
                self._checks.pop(number, None)

    def shutdown(self) -> None:
        """See the contract."""
        self._supervisor.close()
        with self._lock:
            self._down.set()
            if self._link:
                self._link.hang_up()
        self._thread.join()

    def _release(self, ident: int) -> None:
        with self._lock:
            self._streams.pop(ident, None)

    def _reached(self) -> Link:
        if self._down.is_set():
            raise EngineError("shutting_down", "the engine was shut down")
        if self._fault or not self._link:
            raise EngineError("engine_failed", f"{self._fault}; {_LATER}")
        return self._link

    # For the supervisor.

    @property
    def work(self) -> Work:
        """See the contract; none while there is no engine: how long it loads is not known."""
        link = self._link
        return link.work if link and not self._fault else Work(busy=False, done=0)

    def hangs(self, work: Work) -> None:
        """See Watched: its streams are told at once, whatever becomes of the process."""
        with self._lock:
            link = self._link
            if not link or self._fault or link.work != work:
                return
            self._verdict = self._fault = (
                f"the engine's process has not got on for {self.deadline_s:g} s and was ended"
            )
        link.kill()
        self._fail()

    # The thread that lives with the process.

    def _run(self) -> None:
        wait = 1.0
        while not self._down.is_set():
            served = self._live()
            if not self._loaded.done():
                self._loaded.set_exception(EngineError("engine_failed", str(self._fault)))
            if self._loaded.exception():
                return
            if not self._down.is_set():
                log.error("%s; it is started again", self._fault)
                wait = 1.0 if served else min(2 * wait, _LONGEST_WAIT_S)
                self._down.wait(wait)

    def _live(self) -> bool:
        """One process, from its start to its end; whether it came to serve."""
        try:
            link = Link()
        except OSError as none:
            self._fault = f"the engine's process cannot be started: {none}"
            return False
        with self._lock:
            self._link = link
            if self._down.is_set():
                link.hang_up()
        link.mail.put(self._boot)
        served = False
        for reply in link.replies():
            match reply:
                case StreamMessage(ident, message):
                    self._tell(ident, message)
                case Pulse():
                    link.hear(reply)
                case EngineAnswer(number, fault):
                    self._answer(number, fault)
                case EngineLogRecord(record):
                    logging.getLogger(record.name).handle(record)
                case EngineReady(info):
                    self.info, self._fault, served = info, None, True
                    if not self._loaded.done():
                        self._loaded.set_result(None)
                case EngineRefused(error):
                    self._refuse(error, link)
        self._bury(link.end(), served=served)
        return served

    def _refuse(self, error: EngineError | CheckpointError, link: Link) -> None:
        self._verdict = f"the engine cannot be loaded: {error}"
        if not self._loaded.done():
            self._loaded.set_exception(error)
        link.hang_up()

    def _tell(self, ident: int, message: Message) -> None:
        stream = self._streams.get(ident)
        if stream and isinstance(message, Failed):
            stream.close()
        if stream:
            stream.sink(message)

    def _answer(self, number: int, fault: str | None) -> None:
        with self._lock:
            answer = self._checks.pop(number, None)
        if answer:
            answer.set_result(fault)

    def _bury(self, ended: str, *, served: bool) -> None:
        """Tell everyone that the process has ended."""
        loading = "" if served else " while it was loading the model"
        with self._lock:
            self._fault = self._verdict or f"the engine's process {ended}{loading}"
            self._link = self._verdict = None
        self._fail()

    def _fail(self) -> None:
        """There is no engine any more: tell all who wait for something from it."""
        with self._lock:
            streams, self._streams = self._streams, {}
            checks, self._checks = self._checks, {}
        for answer in checks.values():
            answer.set_result(f"{self._fault}; {_LATER}")
        if not self._down.is_set():
            for stream in streams.values():
                stream.sink(Failed("engine_failed", f"{self._fault}; start again in a moment"))
