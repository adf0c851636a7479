"""The server's end of an engine in a process of its own: an ``Engine`` like any other.

A thread lives with the process: it starts it, reads what it sends and, when it has ended of itself,
fails its streams and starts the next one. What streams hand over goes out as it comes. Nothing but
``check`` waits for the process: what a stream needs to know is in the engine's info, and how far
the engine has come is sent unasked. By that a supervisor sees when it hangs, and ends it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from voxlive.engines.contract import DurationHistogram, Failed, HistogramSnapshot, Withdrawn
from voxlive.engines.remote import (
    CheckEngine,
    CheckResult,
    CloseStream,
    EngineCommand,
    EngineProgress,
    EngineReady,
    EngineRefused,
    FeedStream,
    LoadEngine,
    MarkStream,
    OpenStream,
    StreamMessage,
)
from voxlive.errors import EngineError, EngineFull
from voxlive.processes.process import ChildProcess, exit_status
from voxlive.processes.supervisor import Backoff, Supervisor, Work

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import EngineInfo, EngineOptions, Message, Sink, StreamOptions
    from voxlive.errors import CheckpointError
    from voxlive.values import Samples

_MODULE = "voxlive.engines.remote.child"

log = logging.getLogger(__name__)


class EngineLink:
    """A process with an engine, and how far that is with the commands that it was sent.

    They are counted on both sides: what has not been handled yet is work as well.
    """

    def __init__(self, load: LoadEngine, environment: Mapping[str, str]) -> None:
        """Start the process and have it load. Raises OSError."""
        self.process: ChildProcess[EngineCommand] = ChildProcess(
            _MODULE, "engine", environment=environment
        )
        self.progress = EngineProgress(0, False, 0, DurationHistogram().read())
        self._sent = 0
        self._closes: deque[int] = deque()
        self._lock = threading.Lock()
        self.process.sender.put(load)

    def send(self, command: EngineCommand) -> None:
        """A command to the loaded engine; never blocks."""
        with self._lock:
            self._sent += 1
            if isinstance(command, CloseStream):
                self._closes.append(self._sent)
            self.process.sender.put(command)

    def update(self, progress: EngineProgress) -> None:
        """Take note of how far the engine has come."""
        with self._lock:
            self.progress = progress
            while self._closes and self._closes[0] <= progress.handled:
                self._closes.popleft()

    @property
    def work(self) -> Work:
        """What the engine has to do, what is on its way to it included, and how far it has come."""
        with self._lock:
            busy = self.progress.busy or self._sent > self.progress.handled
            return Work(busy, self.progress.handled + self.progress.done)

    @property
    def closing(self) -> int:
        """Streams that were closed here and not there yet: until then it holds their audio."""
        with self._lock:
            return len(self._closes)


class ProcessStream:
    """One stream of the engine: ``send`` takes its commands, ``release`` its number at its end."""

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
_CLOSING = 4
"""Streams for each slot that may be closed here and not there yet: their audio is on its way."""


class ProcessEngine:
    """See the module and the contract. Of use once it is loaded; ``start`` waits for that.

    ``environment`` is what that of the process has besides this one's.
    """

    info: EngineInfo

    def __init__(
        self,
        model: LocalModel,
        options: EngineOptions,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._load = LoadEngine(model, options)
        self._environment = environment or {}
        self._lock = threading.Lock()
        self._link: EngineLink | None = None
        self._streams: dict[int, ProcessStream] = {}
        self._checks: dict[int, Future[str | None]] = {}
        self._numbers = count(1)
        # Why there is no engine now; None while there is one.
        self._fault: str | None = "the engine is being loaded"
        # Why its process has to end, where it does not end of itself.
        self._closing_error: str | None = None
        self.deadline_s = options.deadline_s
        self._closed = threading.Event()
        self._loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        self._supervisor = Supervisor([self], self.deadline_s)

    @classmethod
    def start(
        cls,
        model: LocalModel,
        options: EngineOptions,
        environment: Mapping[str, str] | None = None,
    ) -> ProcessEngine:
        """Start a process and load the model. Blocks; raises EngineError, CheckpointError."""
        engine = cls(model, options, environment)
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

    def read(self) -> HistogramSnapshot:
        """How long the engine's steps have taken, as it last reported."""
        link = self._link
        return link.progress.steps if link else DurationHistogram().read()

    @property
    def fault(self) -> str | None:
        """Why there is no engine now; None while there is one."""
        return self._fault

    @property
    def pid(self) -> int | None:
        """The process, for diagnosis."""
        return self._link.process.pid if self._link else None

    def open(self, options: StreamOptions, sink: Sink) -> ProcessStream:
        """See the contract; EngineError ``engine_failed`` while there is no engine."""
        with self._lock:
            link = self._require_link()
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
                self._require_link().send(CheckEngine(number, timeout))
                self._checks[number] = answer
            return answer.result(timeout + _ANSWER_S)
        except EngineError as error:
            return error.message
        except TimeoutError:
            return f"the engine did not answer in {timeout + _ANSWER_S:g} s; {_LATER}"
        finally:
            with self._lock:
                self._checks.pop(number, None)

    def withdraw(self, within_s: float) -> None:
        """Tell every stream to be replaced by one of another engine (``Withdrawn``)."""
        for stream in tuple(self._streams.values()):
            stream.sink(Withdrawn(within_s))

    def shutdown(self) -> None:
        """See the contract."""
        self._supervisor.close()
        with self._lock:
            self._closed.set()
            if self._link:
                self._link.process.disconnect()
        self._thread.join()

    def _release(self, ident: int) -> None:
        with self._lock:
            self._streams.pop(ident, None)

    def _require_link(self) -> EngineLink:
        if self._closed.is_set():
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

    def on_deadline(self, work: Work) -> None:
        """See Watched: its streams fail at once, whatever becomes of the process."""
        with self._lock:
            link = self._link
            if not link or self._fault or link.work != work:
                return
            self._closing_error = self._fault = (
                f"the engine's process has not got on for {self.deadline_s:g} s and was ended"
            )
        link.process.kill()
        self._fail_waiting()

    # The thread that lives with the process.

    def _run(self) -> None:
        backoff = Backoff()
        while not self._closed.is_set():
            served = self._run_process()
            if not self._loaded.done():
                self._loaded.set_exception(EngineError("engine_failed", str(self._fault)))
            if self._loaded.exception():
                return
            if not self._closed.is_set():
                log.error("%s; it is started again", self._fault)
                self._closed.wait(backoff.next_s(served=served))

    def _run_process(self) -> bool:
        """One process, from its start to its end; whether it came to serve."""
        try:
            link = EngineLink(self._load, self._environment)
        except OSError as failure:
            self._fault = f"the engine's process cannot be started: {failure}"
            return False
        with self._lock:
            self._link = link
            if self._closed.is_set():
                link.process.disconnect()
        served = False
        for reply in link.process.messages():
            match reply:
                case StreamMessage(ident, message):
                    self._deliver(ident, message)
                case EngineProgress():
                    link.update(reply)
                case CheckResult(number, fault):
                    self._finish_check(number, fault)
                case EngineReady(info):
                    self.info, self._fault, served = info, None, True
                    if not self._loaded.done():
                        self._loaded.set_result(None)
                case EngineRefused(error):
                    self._refuse(error, link)
        self._on_exit(link.process.end(), served=served)
        return served

    def _refuse(self, error: EngineError | CheckpointError, link: EngineLink) -> None:
        self._closing_error = f"the engine cannot be loaded: {error}"
        if not self._loaded.done():
            self._loaded.set_exception(error)
        link.process.disconnect()

    def _deliver(self, ident: int, message: Message) -> None:
        stream = self._streams.get(ident)
        if stream and isinstance(message, Failed):
            stream.close()
        if stream:
            stream.sink(message)

    def _finish_check(self, number: int, fault: str | None) -> None:
        with self._lock:
            check = self._checks.pop(number, None)
        if check:
            check.set_result(fault)

    def _on_exit(self, code: int, *, served: bool) -> None:
        """The process has ended: so do its streams, and checks."""
        loading = "" if served else " while it was loading the model"
        with self._lock:
            ended = f"the engine's process {exit_status(code)}{loading}"
            self._fault = self._closing_error or ended
            self._link = self._closing_error = None
        self._fail_waiting()

    def _fail_waiting(self) -> None:
        """There is no engine any more: fail all that waits for something from it."""
        with self._lock:
            streams, self._streams = self._streams, {}
            checks, self._checks = self._checks, {}
        for check in checks.values():
            check.set_result(f"{self._fault}; {_LATER}")
        if not self._closed.is_set():
            for stream in streams.values():
                stream.sink(Failed("engine_failed", f"{self._fault}; start again in a moment"))
