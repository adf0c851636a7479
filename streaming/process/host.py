"""The server's end of an engine in a process of its own: an ``Engine`` like any other.

A thread lives with the process: it starts it, hears it and, when it has ended of itself, fails its
streams and starts the next one. What streams hand over goes out as it comes. Nothing but ``check``
waits for the process: what a stream needs to know is in the engine's info, and how far the engine
has come is pushed. By that a supervisor sees when it hangs, and ends it.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING

from ..durations import Durations, Reading
from ..engine import EngineError, EngineFull, Failed
from ..supervisor import Supervisor, Work
from .link import Link
from .stream import ProcessStream
from .wire import Answer, Boot, Check, Logged, Open, Pulse, Ready, Refused, Told

if TYPE_CHECKING:
    from ...checkpoints.errors import CheckpointError
    from ..engine import EngineInfo, Message, Sink, StreamOptions
    from ..options import EngineOptions

log = logging.getLogger(__name__)

_ANSWER_S = 2.0
_LATER = "try again in a moment"
_LONGEST_WAIT_S = 30.0
_CLOSING = 4
"""Streams for each slot that may be closed here and not there yet: their audio is on its way."""


class ProcessEngine:
    """See the module and the contract. Of use once it is loaded; ``start`` waits for that."""

    info: EngineInfo

    def __init__(self, model: str, options: EngineOptions) -> None:
        self._boot = Boot(model, options, logging.getLogger().getEffectiveLevel())
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
    def start(cls, model: str, options: EngineOptions) -> ProcessEngine:
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
            link.send(Open(ident, options))
        return stream

    def check(self, timeout: float) -> str | None:
        """See the contract; where there is no engine, why."""
        answer: Future[str | None] = Future()
        try:
            with self._lock:
                number = next(self._numbers)
                self._reached().send(Check(number, timeout))
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
                case Told(ident, message):
                    self._tell(ident, message)
                case Pulse():
                    link.hear(reply)
                case Answer(number, fault):
                    self._answer(number, fault)
                case Logged(record):
                    logging.getLogger(record.name).handle(record)
                case Ready(info):
                    self.info, self._fault, served = info, None, True
                    if not self._loaded.done():
                        self._loaded.set_result(None)
                case Refused(error):
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
