"""Outside a runner's process: starts it, talks to it, watches it and, if need be, kills it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ..contract import Job, Progress, Refusal, RunnerSpec, Transcript, Update
from ..memory import mib
from .wire import Boot, Cancel, Command, Crashed, Ended, Ready, Reply, Start, Told, frame, read

if TYPE_CHECKING:
    from asyncio.subprocess import Process

log = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-P", "-m", "voxlive.runners.process.child")
_SCRATCH = "voxlive-runner-"
_LAST_WORDS = 20
_LAST_WORDS_S = 0.5
_LONGEST_WORDS = 300
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """The bounds of a runner's process; beyond each it is killed and its jobs are told.

    ``load_s`` is for loading the model. ``stall_s``: a job that neither tells a word nor gets on
    for so long hangs. A job may take ``timeout_s`` and ``timeout_factor`` times its audio.
    ``cancel_s``: a cancelled job ends within it. ``memory_limit`` is in bytes, its children's
    included. ``niceness`` puts it behind the live sessions.
    """

    load_s: float = 600.0
    stall_s: float = 180.0
    timeout_s: float = 120.0
    timeout_factor: float = 20.0
    cancel_s: float = 5.0
    close_s: float = 8.0
    watch_s: float = 0.5
    memory_limit: int | None = None
    niceness: int = 10


class RunnerDied(Exception):
    """The process ended under a job. ``guilty``: it is this job's doing, as far as one can tell."""

    def __init__(self, refusal: Refusal, *, guilty: bool) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.guilty = guilty


class Running:
    """A job in the process: who is told of it, and since when it has been silent."""

    def __init__(self, ident: int, told: Callable[[Update], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ident = ident
        self.outcome: asyncio.Future[Transcript] = loop.create_future()
        self.began = self.active = loop.time()
        self.total_s: float | None = None
        self.cancelled: float | None = None
        self._told = told
        self._done_s = -1.0

    def hear(self, update: Update, now: float) -> None:
        """Pass on what is news."""
        if isinstance(update, Progress):
            self.total_s = update.total_s
            if update.done_s <= self._done_s:
                return
            self._done_s = update.done_s
        self.active = now
        if self.cancelled is None:
            self._told(update)

    def end(self, outcome: Transcript | Exception) -> None:
        """Once: what comes of a job that was given up already interests nobody."""
        if self.outcome.done():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class RunnerProcess:
    """A loaded model in a process of its own. Made by ``start``; belongs to one event loop.

    ``changed`` is called when a slot became free and when the process ended.
    """

    def __init__(
        self, spec: RunnerSpec, options: ProcessOptions, changed: Callable[[], None]
    ) -> None:
        self.spec = spec
        self.slots = 0
        self.ended = False
        self._options = options
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[int] = self._loop.create_future()
        self._jobs: dict[int, Running] = {}
        self._idents = count()
        self._verdict: tuple[Refusal, int | None] | None = None
        self._closing = False
        self._child: Process | None = None
        self._life: asyncio.Task[None] | None = None
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._scratch = tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-")

    @classmethod
    async def start(
        cls, spec: RunnerSpec, options: ProcessOptions, changed: Callable[[], None]
    ) -> RunnerProcess:
        """Start a process and load the model. Raises Refusal, when it is ended as well."""
        process = cls(spec, options, changed)
        try:
            await process._spawn()
            async with asyncio.timeout(options.load_s):
                process.slots = await asyncio.shield(process._ready)
        except TimeoutError as error:
            await process.kill()
            message = f"{spec.model} was not loaded within {options.load_s:g} s"
            raise Refusal(500, "model_load_failed", message) from error
        except BaseException:
            await process.kill()
            raise
        return process

    @property
    def pid(self) -> int:
        """The process, for diagnosis."""
        return self._child.pid if self._child else 0

    @property
    def busy(self) -> int:
        """How many jobs it has, cancelled ones that have not ended included."""
        return len(self._jobs)

    @property
    def has_room(self) -> bool:
        """Whether it takes a job now."""
        return not self.ended and not self._verdict and self.busy < self.slots

    def begin(self, job: Job, told: Callable[[Update], None]) -> Running:
        """Begin a job; there must be room. Its outcome may be a Refusal or RunnerDied."""
        running = Running(next(self._idents), told)
        self._jobs[running.ident] = running
        self._send(Start(running.ident, job))
        return running

    def cancel(self, running: Running) -> None:
        """Nobody waits for the job any more; its outcome comes all the same within ``cancel_s``."""
        if running.ident in self._jobs and running.cancelled is None:
            running.cancelled = self._loop.time()
            self._send(Cancel(running.ident))

    async def close(self) -> None:
        """Let the model go and wait until the process has ended, which is killed in the end."""
        self._closing = True
        if self._life:
            self._writer.close()
            await asyncio.wait([self._life], timeout=self._options.close_s)
        await self.kill()

    async def kill(self) -> None:
        """End it at once and wait until it has ended."""
        self._closing = True
        self._kill()
        if self._life:
            await asyncio.shield(self._life)
        else:
            shutil.rmtree(self._scratch, ignore_errors=True)

    # Its life.

    async def _spawn(self) -> None:
        said = asyncio.StreamReader(_LONGEST_LINE)
        with ExitStack() as undo, ExitStack() as theirs:
            ours, socket_end = socket.socketpair()
            undo.callback(ours.close)
            theirs.callback(socket_end.close)
            pipe, stderr = os.pipe()
            theirs.callback(os.close, stderr)
            replies, self._writer = await asyncio.open_unix_connection(sock=ours)
            undo.callback(self._writer.close)
            self._stderr, _ = await self._loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(said), os.fdopen(pipe, "rb")
            )
            undo.callback(self._stderr.close)
            try:
                self._child = await self._exec(socket_end.fileno(), stderr)
            except OSError as error:
                message = f"a runner's process cannot be started: {error}"
                raise Refusal(503, "no_process", message, retry_after_s=5) from error
            undo.pop_all()
        self._life = self._loop.create_task(
            self._live(self._child, replies, said), name=f"runner-{self.pid}"
        )
        self._send(Boot(self.spec, self._options.niceness))

    async def _exec(self, fd: int, stderr: int) -> Process:
        """A process that shares nothing with this one but ``fd``; its models never go online."""
        return await asyncio.create_subprocess_exec(
            *_COMMAND,
            str(fd),
            pass_fds=[fd],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
            env=os.environ | {"TMPDIR": self._scratch, "HF_HUB_OFFLINE": "1"},
        )

    async def _live(
        self, child: Process, replies: asyncio.StreamReader, said: asyncio.StreamReader
    ) -> None:
        """Everything that goes on beside the process, until it has ended."""
        beside = [
            self._loop.create_task(self._watch()),
            self._loop.create_task(self._follow(said)),
        ]
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    self._hear(await read(replies))
        finally:
            code = await self._code(child)
            self._writer.close()
            # Its own children may hold its stderr for a while longer.
            await asyncio.wait(beside[1:], timeout=_LAST_WORDS_S)
            for task in beside:
                task.cancel()
            self._stderr.close()
            await asyncio.gather(*beside, return_exceptions=True)
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
            self._bury(code)

    async def _code(self, child: Process) -> int:
        """The exit code; with its socket closed it has no reason to live on."""
        try:
            async with asyncio.timeout(self._options.close_s):
                return await child.wait()
        except TimeoutError:
            self._kill()
            return await child.wait()

    def _hear(self, reply: Reply) -> None:
        match reply:
            case Ready(slots):
                self._ready.set_result(slots)
            case Told(ident, update):
                self._jobs[ident].hear(update, self._loop.time())
            case Ended(None, Refusal() as refusal):
                self._verdict = refusal, None
            case Ended(int(ident), outcome):
                self._jobs.pop(ident).end(outcome)
                self._changed()
            case Crashed(ident, reason):
                code = "model_load_failed" if ident is None else "runner_crashed"
                self._verdict = Refusal(500, code, self._failed(reason)), ident

    def _bury(self, code: int) -> None:
        """Tell everyone that it has ended, and of what."""
        self.ended = True
        refusal, guilty = self._verdict or (self._cause(code), None)
        if self._jobs or not self._ready.done() or not self._closing:
            log.warning("runner %d: %s", self.pid, refusal)
        if not self._ready.done():
            self._ready.set_exception(refusal)
            self._ready.exception()
        jobs, self._jobs = self._jobs, {}
        alone = len(jobs) == 1
        for ident, running in jobs.items():
            running.end(RunnerDied(refusal, guilty=alone or ident == guilty))
        self._changed()

    def _cause(self, code: int) -> Refusal:
        if self._closing:
            return Refusal(503, "shutting_down", "the server is shutting down")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        said = f"; its last words: {self._last_words[-1]}" if self._last_words else ""
        return Refusal(500, "runner_crashed", f"the process of {self.spec.model} {how}{said}")

    def _failed(self, reason: str) -> str:
        return f"{self.spec.model} failed: {reason}"

    async def _follow(self, said: asyncio.StreamReader) -> None:
        while not said.at_eof():
            with contextlib.suppress(ValueError):  # a line beyond the limit is left out
                line = (await said.readline()).decode(errors="replace").rstrip()
                if line:
                    self._last_words.append(line[-_LONGEST_WORDS:])
                    log.debug("runner %d: %s", self.pid, line)

    # Its bounds.

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._options.watch_s)
            now = self._loop.time()
            for running in tuple(self._jobs.values()):
                self._check(running, now)
            await self._check_memory()

    def _check(self, running: Running, now: float) -> None:
        options, model = self._options, self.spec.model
        if running.cancelled is not None:
            if now - running.cancelled > options.cancel_s:
                self._condemn(
                    503, "runner_replaced", f"{model} is being loaded anew", running.ident
                )
        elif now - running.active > options.stall_s:
            message = f"{model} hung: nothing came of it for {options.stall_s:g} s"
            self._condemn(500, "runner_hung", message, running.ident)
        elif running.total_s is not None:
            allowed = options.timeout_s + options.timeout_factor * running.total_s
            if now - running.began > allowed:
                message = f"the transcription did not end within {allowed:.0f} s"
                running.end(Refusal(503, "timeout", message))
                self.cancel(running)

    async def _check_memory(self) -> None:
        limit = self._options.memory_limit
        if limit is None:
            return
        used = await asyncio.to_thread(_resident_bytes, self.pid)
        if used > limit:
            message = f"{self.spec.model} took {mib(used)} of memory and may take {mib(limit)}"
            self._condemn(507, "insufficient_memory", f"{message}: send shorter audio", None)

    def _condemn(self, status: int, code: str, message: str, guilty: int | None) -> None:
        if self._verdict is None:
            self._verdict = Refusal(status, code, message), guilty
            self._kill()

    def _send(self, command: Command) -> None:
        if not self.ended:
            self._writer.write(frame(command))

    def _kill(self) -> None:
        """The process and what it started; it leads a group of its own."""
        if self._child and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)


def sweep() -> None:
    """Remove what runners of a killed server left in the folder for temporary files."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*-*"):
        owner = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _resident_bytes(pid: int) -> int:
    """Of a process and all its children; 0 once it is gone."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total
