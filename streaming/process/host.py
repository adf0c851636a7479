"""The server's end of an engine in a process of its own: an ``Engine`` like any other.

A thread lives with the process: it starts it, hears it and, when it has ended of itself, fails its
streams and starts the next one. What streams hand over goes out as it comes. ``open`` alone waits
for an answer, a few milliseconds at most.
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
from .link import Link
from .stream import ProcessStream
from .wire import Answer, Ask, Boot, Check, Logged, Open, Ready, Refused, Steps, Told

if TYPE_CHECKING:
    from ...checkpoints.errors import CheckpointError
    from ..engine import EngineInfo, Message, Sink, StreamOptions
    from ..options import EngineOptions

log = logging.getLogger(__name__)

_ANSWER_S = 2.0
_LATER = "try again in a moment"
_LONGEST_WAIT_S = 30.0


class ProcessEngine:
    """See the module and the contract. Of use once it is loaded; ``start`` waits for that."""

    info: EngineInfo

    def __init__(self, model: str, options: EngineOptions) -> None:
        self._boot = Boot(model, options, logging.getLogger().getEffectiveLevel())
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._streams: dict[int, ProcessStream] = {}
        self._asked: dict[int, Future[object]] = {}
        self._numbers = count(1)
        self._steps = Durations().read()
        # Why there is no engine now; None while there is one.
        self._fault: str | None = "the engine is being loaded"
        self._silent = False  # it left a question open: none but a check waits for it again
        self._down = threading.Event()
        self._loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

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

    @property
    def pid(self) -> int | None:
        """The process, for diagnosis."""
        return self._link.pid if self._link else None

    def open(self, options: StreamOptions, sink: Sink) -> ProcessStream:
        """See the contract; EngineError ``engine_failed`` while there is no engine."""
        with self._lock:
            link = self._reached()
            if len(self._streams) >= self.info.capacity:
                raise EngineFull(self.info.capacity)
            ident = next(self._numbers)
            stream = ProcessStream(ident, sink, link.mail, self._release)
            self._streams[ident] = stream
        try:
            trail = self._ask(Open(ident, options), _ANSWER_S)
        except EngineError:
            stream.close()
            raise
        assert isinstance(trail, int)
        stream.trail = trail
        return stream

    def check(self, timeout: float) -> str | None:
        """See the contract; where there is no engine, why."""
        try:
            fault = self._ask(Check(timeout), timeout + _ANSWER_S)
        except EngineError as error:
            return error.message
        return None if fault is None else str(fault)

    def read(self) -> Reading:
        """How long the engine's steps have taken, as it last said; asks it."""
        try:
            steps = self._ask(Steps(), _ANSWER_S)
        except EngineError:
            return self._steps
        assert isinstance(steps, Reading)
        self._steps = steps
        return steps

    def shutdown(self) -> None:
        """See the contract."""
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

    def _ask(self, question: Open | Check | Steps, timeout: float) -> object:
        """The answer; raises EngineError where none comes, and what the engine raised."""
        answer: Future[object] = Future()
        with self._lock:
            mail = self._reached().mail
            if self._silent and not isinstance(question, Check):
                raise EngineError("engine_failed", f"the engine does not answer; {_LATER}")
            number = next(self._numbers)
            self._asked[number] = answer
        mail.put(Ask(number, question))
        try:
            return answer.result(timeout)
        except TimeoutError:
            self._silent = True
            message = f"the engine did not answer in {timeout:g} s; {_LATER}"
            raise EngineError("engine_failed", message) from None
        finally:
            with self._lock:
                self._asked.pop(number, None)

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
        refused = False
        for reply in link.replies():
            match reply:
                case Told(ident, message):
                    self._tell(ident, message)
                case Answer(number, value, error):
                    self._answer(number, value, error)
                case Logged(record):
                    logging.getLogger(record.name).handle(record)
                case Ready(info):
                    self.info, self._fault = info, None
                    if not self._loaded.done():
                        self._loaded.set_result(None)
                case Refused(error):
                    refused = True
                    self._refuse(error, link)
        return self._bury(link.end(), refused=refused)

    def _refuse(self, error: EngineError | CheckpointError, link: Link) -> None:
        self._fault = f"the engine cannot be loaded: {error}"
        if not self._loaded.done():
            self._loaded.set_exception(error)
        link.hang_up()

    def _tell(self, ident: int, message: Message) -> None:
        stream = self._streams.get(ident)
        if stream and isinstance(message, Failed):
            stream.close()
        if stream:
            stream.sink(message)

    def _answer(self, number: int, value: object, error: EngineError | None) -> None:
        with self._lock:
            answer = self._asked.pop(number, None)
            self._silent = False
        if answer and error:
            answer.set_exception(error)
        elif answer:
            answer.set_result(value)

    def _bury(self, ended: str, *, refused: bool) -> bool:
        """Tell everyone that the process has ended; whether it had served."""
        with self._lock:
            served = self._fault is None
            if not refused:
                loading = "" if served else " while it was loading the model"
                self._fault = f"the engine's process {ended}{loading}"
            self._link, self._silent = None, False
            streams, self._streams = self._streams, {}
            asked, self._asked = self._asked, {}
        for answer in asked.values():
            answer.set_exception(EngineError("engine_failed", str(self._fault)))
        if not self._down.is_set():
            for stream in streams.values():
                stream.sink(Failed("engine_failed", f"{self._fault}; start again in a moment"))
        return served
