"""The server's end of an engine in a process of its own: an ``Engine`` like any other.

What streams hand over goes out as it comes. Nothing but ``check`` waits for the process: what a
stream needs to know is in the engine's info, and how far the engine has come is sent unasked. By
that a supervisor sees when it hangs.

``ProcessEngine`` starts the process. A thread lives with it: it reads what that sends and, when it
has ended of itself or was ended, fails its streams and starts the next one. Other processes of the
server may share it (``shared.py``).
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from itertools import count
from typing import TYPE_CHECKING, Protocol

import numpy as np

from voxlive.engines.contract import (
    DurationHistogram,
    Failed,
    HistogramSnapshot,
    Progressed,
    Reached,
    Withdrawn,
)
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
from voxlive.processes.process import BatchedSender, ChildProcess, exit_status
from voxlive.processes.supervisor import Backoff, Supervisor, Work

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import EngineInfo, EngineOptions, Message, Sink, StreamOptions
    from voxlive.errors import CheckpointError
    from voxlive.values import Samples

_MODULE = "voxlive.engines.remote.child"

log = logging.getLogger(__name__)


class EngineLink:
    """A socket to an engine's process, and how far that is with the commands that it was sent.

    They are counted on both sides: what has not been handled yet is work as well. ``number`` is the
    process's, among those that the engine has had.
    """

    def __init__(self, sender: BatchedSender[EngineCommand], number: int) -> None:
        self.number = number
        self.progress = EngineProgress(0, False, 0, DurationHistogram().read())
        self._sender = sender
        self._sent = 0
        self._closes: deque[int] = deque()
        self._lock = threading.Lock()

    def send(self, command: EngineCommand) -> None:
        """A command to the loaded engine; never blocks."""
        with self._lock:
            self._sent += 1
            if isinstance(command, CloseStream):
                self._closes.append(self._sent)
            self._sender.put(command)

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
    """One stream of the engine: ``send`` takes its commands, ``release`` its number at its end.

    Audio that the engine has no use for before more of it comes (``Progressed.wanted``) is held
    here until it has: so a chunk of 20 ms is no message of its own. ``step`` is that of its info.
    """

    def __init__(
        self,
        ident: int,
        trail: int,
        sink: Sink,
        send: Callable[[EngineCommand], None],
        release: Callable[[int], None],
        step: int = 0,
    ) -> None:
        self.sink = sink
        self.trail = trail
        self._ident = ident
        self._send = send
        self._release = release
        self._closed = False
        self._held: list[bytes] = []
        self._held_at = self._fed_upto = self._given_upto = 0
        self._wanted = 0
        self._awaited: int | None = None
        self._step = step

    def feed(self, audio: Samples, at: int) -> None:
        """See the contract."""
        if at != self._fed_upto:
            self._give_held()
        if not self._held:
            self._held_at = at
        self._held.append(np.asarray(audio, np.float32).tobytes())
        self._fed_upto = at + len(audio)
        if self._fed_upto >= self._wanted:
            self._give()

    def end_utterance(self, marker: int) -> None:
        """See the contract."""
        self._mark(marker, flush=False)

    def flush(self, marker: int) -> None:
        """See the contract."""
        self._mark(marker, flush=True)

    def progress(self, message: Progressed) -> Progressed:
        """How far the engine has come, with what is held, of which it would have no use.

        As ``reached``, from the thread that reads from the process.
        """
        if self._awaited is None:
            self._wanted = self._next(message.wanted)
        done = bool(self._held) and message.upto == self._given_upto
        return Progressed(self._fed_upto) if done else message

    def reached(self, marker: int) -> None:
        """What the engine wants next is not from before this marker any more."""
        if marker == self._awaited:
            self._awaited = None

    def close(self) -> None:
        """See the contract."""
        if not self._closed:
            self._put(CloseStream(self._ident))
            self._closed = True
            self._release(self._ident)

    def _mark(self, marker: int, *, flush: bool) -> None:
        self._awaited = marker
        self._give_held()
        self._put(MarkStream(self._ident, marker, flush))

    def _give_held(self) -> None:
        """What is held, before a gap or a mark: then what the engine wants next is not known."""
        self._wanted = 0
        if self._held:
            self._give()

    def _give(self) -> None:
        held, self._held = self._held, []
        self._given_upto = self._fed_upto
        self._wanted = self._next(self._wanted)
        self._put(FeedStream(self._ident, b"".join(held), self._held_at))

    def _next(self, wanted: int) -> int:
        """The first that is wanted behind what was given; 0 if that is not known."""
        steps = self._given_upto - wanted + self._step
        return wanted + max(0, steps // self._step) * self._step if wanted and self._step else 0

    def _put(self, command: EngineCommand) -> None:
        if not self._closed:
            self._send(command)


_ANSWER_S = 2.0
_LATER = "try again in a moment"
_CLOSING = 4
"""Streams for each slot that may be closed here and not there yet: their audio is on its way."""


class Slots(Protocol):
    """The slots of an engine that several processes of a server share."""

    @property
    def in_use(self) -> int:
        """How many are taken, by all of them."""
        ...

    def take(self, capacity: int) -> bool:
        """Take one for this process; False if so many are taken. Never waits for a process."""
        ...

    def give_back(self, count: int = 1) -> None:
        """This process has that many fewer."""
        ...


class RemoteEngine:
    """An engine behind a link, whoever has started its process: see the module and the contract.

    ``slots``: where they are counted if other processes have streams of this engine too.
    """

    info: EngineInfo

    def __init__(self, deadline_s: float, slots: Slots | None = None) -> None:
        self.deadline_s = deadline_s
        self._slots = slots
        self._lock = threading.Lock()
        self._link: EngineLink | None = None
        self._streams: dict[int, ProcessStream] = {}
        self._checks: dict[int, Future[str | None]] = {}
        self._numbers = count(1)
        # Why there is no engine now; None while there is one.
        self._fault: str | None = "the engine is being loaded"
        self._closed = threading.Event()
        self._supervisor = Supervisor([self], self.deadline_s)

    @property
    def in_use(self) -> int:
        """See the contract."""
        return self._slots.in_use if self._slots else len(self._streams)

    @property
    def steps(self) -> RemoteEngine:
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

    def withdraw(self, within_s: float) -> None:
        """Tell every stream to be replaced by one of another engine (``Withdrawn``)."""
        for stream in tuple(self._streams.values()):
            stream.sink(Withdrawn(within_s))

    def open(self, options: StreamOptions, sink: Sink) -> ProcessStream:
        """See the contract; EngineError ``engine_failed`` while there is no engine."""
        with self._lock:
            link = self._require_link()
            self.info.validate(options)
            if link.closing > _CLOSING * (self.info.capacity + 8):
                raise EngineError("engine_failed", f"the engine does not get on; {_LATER}")
            self._take_slot()
            ident, trail = next(self._numbers), self.info.trail(options)
            stream = ProcessStream(ident, trail, sink, link.send, self._release, self.info.step)
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

    def _take_slot(self) -> None:
        capacity = self.info.capacity
        full = len(self._streams) >= capacity
        if full or (self._slots and not self._slots.take(capacity)):
            raise EngineFull(capacity)

    def _release(self, ident: int) -> None:
        with self._lock:
            if self._streams.pop(ident, None) and self._slots:
                self._slots.give_back()

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
            self._fault = (
                f"the engine's process has not got on for {self.deadline_s:g} s and was ended"
            )
        self._end_process(link, self._fault)
        self._fail_waiting()

    def _end_process(self, link: EngineLink, fault: str) -> None:
        """Have the process ended, which hangs."""
        raise NotImplementedError

    # What comes from the process.

    def _receive(self, reply: object, link: EngineLink) -> None:
        match reply:
            case StreamMessage(ident, message):
                self._deliver(ident, message)
            case EngineProgress():
                link.update(reply)
            case CheckResult(number, fault):
                self._finish_check(number, fault)

    def _deliver(self, ident: int, message: Message) -> None:
        stream = self._streams.get(ident)
        if not stream:
            return
        if isinstance(message, Failed):
            stream.close()
        elif isinstance(message, Progressed):
            message = stream.progress(message)
        elif isinstance(message, Reached):
            stream.reached(message.marker)
        stream.sink(message)

    def _finish_check(self, number: int, fault: str | None) -> None:
        with self._lock:
            check = self._checks.pop(number, None)
        if check:
            check.set_result(fault)

    def _fail_waiting(self) -> None:
        """There is no engine any more: fail all that waits for something from it."""
        with self._lock:
            streams, self._streams = self._streams, {}
            checks, self._checks = self._checks, {}
            if self._slots and streams:
                self._slots.give_back(len(streams))
        for check in checks.values():
            check.set_result(f"{self._fault}; {_LATER}")
        if not self._closed.is_set():
            for stream in streams.values():
                stream.sink(Failed("engine_failed", f"{self._fault}; start again in a moment"))


class Sharer(Protocol):
    """Another process of the server, which has streams of an engine too."""

    def on_engine(self, end: socket.socket, number: int) -> None:
        """There is a process, the ``number``-th; a socket to it, which is the caller's."""
        ...

    def on_engine_lost(self, number: int, fault: str) -> None:
        """That process has ended."""
        ...

    def on_withdraw(self) -> None:
        """The engine is to end for good: streams are to be replaced by those of another one."""
        ...


class ProcessEngine(RemoteEngine):
    """See the module and the contract. Of use once it is loaded; ``start`` waits for that.

    ``environment`` is what that of the process has besides this one's.
    """

    def __init__(
        self,
        model: LocalModel,
        options: EngineOptions,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(options.deadline_s)
        self._load = LoadEngine(model, options)
        self._environment = environment or {}
        self._process: ChildProcess[EngineCommand] | None = None
        self._sharers: list[Sharer] = []
        self._started = count(1)
        # Why its process has to end, where it does not end of itself.
        self._closing_error: str | None = None
        self._loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

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
    def pid(self) -> int | None:
        """The process, for diagnosis."""
        return self._process.pid if self._process else None

    def share(self, slots: Slots) -> None:
        """Count slots there from now on. Before the first stream."""
        self._slots = slots

    def add_sharer(self, sharer: Sharer) -> None:
        """Give it a socket to every process of the engine, from the present one on."""
        with self._lock:
            self._sharers.append(sharer)
            if self._link and not self._fault:
                self._connect(sharer, self._link.number)

    def remove_sharer(self, sharer: Sharer) -> None:
        """It is gone, or needs the engine no more."""
        with self._lock, suppress(ValueError):
            self._sharers.remove(sharer)

    def withdraw(self, within_s: float) -> None:
        """See ``RemoteEngine``; the sharers' streams too."""
        super().withdraw(within_s)
        with self._lock:
            sharers = tuple(self._sharers)
        for sharer in sharers:
            sharer.on_withdraw()

    def end_process(self, number: int, fault: str) -> None:
        """End that process, which a sharer has found hanging; nothing if it has ended already."""
        with self._lock:
            link = self._link
            if not link or self._fault or link.number != number:
                return
            self._fault = fault
        self._end_process(link, fault)
        self._fail_waiting()

    def shutdown(self) -> None:
        """See the contract."""
        self._supervisor.close()
        with self._lock:
            self._closed.set()
            if self._process:
                self._process.disconnect()
        self._thread.join()

    def _connect(self, sharer: Sharer, number: int) -> None:
        """Under the lock. Where the process is gone, that is told next."""
        ours, theirs = socket.socketpair()
        with theirs, suppress(OSError):
            assert self._process
            self._process.hand_over("sharer", theirs.fileno())
        sharer.on_engine(ours, number)

    def _end_process(self, link: EngineLink, fault: str) -> None:
        with self._lock:
            process = self._process if self._link is link else None
            self._closing_error = fault if process else None
        if process:
            process.kill()

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
            process: ChildProcess[EngineCommand] = ChildProcess(
                _MODULE, "engine", environment=self._environment, takes_descriptors=True
            )
        except OSError as failure:
            self._fault = f"the engine's process cannot be started: {failure}"
            return False
        process.sender.put(self._load)
        link = EngineLink(process.sender, next(self._started))
        with self._lock:
            self._process, self._link = process, link
            if self._closed.is_set():
                process.disconnect()
        served = False
        for reply in process.messages():
            match reply:
                case EngineReady(info):
                    self._on_ready(info, link)
                    served = True
                case EngineRefused(error):
                    self._refuse(error, process)
                case _:
                    self._receive(reply, link)
        self._on_exit(process.end(), link, served=served)
        return served

    def _on_ready(self, info: EngineInfo, link: EngineLink) -> None:
        with self._lock:
            self.info, self._fault = info, None
            for sharer in self._sharers:
                self._connect(sharer, link.number)
        if not self._loaded.done():
            self._loaded.set_result(None)

    def _refuse(
        self, error: EngineError | CheckpointError, process: ChildProcess[EngineCommand]
    ) -> None:
        self._closing_error = f"the engine cannot be loaded: {error}"
        if not self._loaded.done():
            self._loaded.set_exception(error)
        process.disconnect()

    def _on_exit(self, code: int, link: EngineLink, *, served: bool) -> None:
        """The process has ended: so do its streams, and checks."""
        loading = "" if served else " while it was loading the model"
        with self._lock:
            ended = f"the engine's process {exit_status(code)}{loading}"
            self._fault = fault = self._closing_error or ended
            self._process = self._link = self._closing_error = None
            for sharer in self._sharers:
                sharer.on_engine_lost(link.number, fault)
        self._fail_waiting()
