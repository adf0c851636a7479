"""A job in a runner's process, as its host sees it.

Outside a runner's process: starts it, talks to it, watches it and, if need be, kills it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from voxlive.errors import RequestRefused, VoxliveError
from voxlive.runners.contract import Job, JobProgress, RunnerSpec, Transcript, Update
from voxlive.runners.memory import mib
from voxlive.runners.process.spawn import Child, spawn
from voxlive.runners.process.wire import (
    CancelJob,
    Command,
    JobEnded,
    JobUpdate,
    LoadModel,
    Reply,
    RunnerCrashed,
    RunnerReady,
    StartJob,
    frame,
    read,
)
from voxlive.runners.scratch import SCRATCH


class RunnerDied(Exception):
    """The process ended under a job. ``guilty``: it is this job's doing, as far as one can tell."""

    def __init__(self, refusal: VoxliveError, *, guilty: bool) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.guilty = guilty


class Running:
    """Who is told of it, and since when it has been silent (the loop's time)."""

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
        if isinstance(update, JobProgress):
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


log = logging.getLogger(__name__)

_LAST_WORDS = 20
_LAST_WORDS_S = 0.5
_LONGEST_WORDS = 300


_USUAL_STRETCH_S = 30.0


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """The bounds of a runner's process; beyond each it is killed and its jobs are told.

    ``load_s`` is for loading the model. ``stall_s``: a job that neither tells a word nor gets on
    for so long hangs, where a model hears 30 s at a time; in proportion where it hears more. A job
    may take ``timeout_s`` and ``timeout_factor`` times its audio. ``cancel_s``: a cancelled job
    ends within it. ``memory_limit`` is in bytes, its children's included. ``niceness`` puts it
    behind the live sessions.
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
        self._stall_s = options.stall_s
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[int] = self._loop.create_future()
        self._jobs: dict[int, Running] = {}
        self._idents = count()
        self._verdict: tuple[VoxliveError, int | None] | None = None
        self._closing = False
        self._child: Child | None = None
        self._life: asyncio.Task[None] | None = None
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._scratch: Path | None = None

    @classmethod
    async def start(
        cls, spec: RunnerSpec, options: ProcessOptions, changed: Callable[[], None]
    ) -> RunnerProcess:
        """Start a process and load the model. Raises RequestRefused, when it is ended as well."""
        process = cls(spec, options, changed)
        try:
            await process._spawn()
            async with asyncio.timeout(options.load_s):
                process.slots = await asyncio.shield(process._ready)
        except TimeoutError as error:
            await process.kill()
            message = f"{spec.model} was not loaded within {options.load_s:g} s"
            raise RequestRefused("model_load_failed", message) from error
        except BaseException:
            await process.kill()
            raise
        return process

    @property
    def pid(self) -> int:
        """The process, for diagnosis."""
        return self._child.process.pid if self._child else 0

    @property
    def busy(self) -> int:
        """How many jobs it has, cancelled ones that have not ended included."""
        return len(self._jobs)

    @property
    def has_room(self) -> bool:
        """Whether it takes a job now."""
        return not self.ended and not self._verdict and self.busy < self.slots

    def begin(self, job: Job, told: Callable[[Update], None]) -> Running:
        """Begin a job; there must be room. Its outcome may be a VoxliveError or RunnerDied."""
        running = Running(next(self._idents), told)
        self._jobs[running.ident] = running
        self._send(StartJob(running.ident, job))
        return running

    def cancel(self, running: Running) -> None:
        """Nobody waits for the job any more; its outcome comes all the same within ``cancel_s``."""
        if running.ident in self._jobs and running.cancelled is None:
            running.cancelled = self._loop.time()
            self._send(CancelJob(running.ident))

    async def close(self) -> None:
        """Let the model go and wait until the process has ended, which is killed in the end."""
        self._closing = True
        if self._child and self._life:
            self._child.commands.close()
            await asyncio.wait([self._life], timeout=self._options.close_s)
        await self.kill()

    async def kill(self) -> None:
        """End it at once and wait until it has ended."""
        self._closing = True
        if self._child:
            self._child.kill()
        if self._life:
            await asyncio.shield(self._life)
        elif self._scratch:
            _remove(self._scratch)

    # Its life.

    async def _spawn(self) -> None:
        try:
            self._scratch = SCRATCH.folder("runner")
            self._child = child = await spawn(self._scratch)
        except OSError as error:
            message = f"a runner's process cannot be started: {error}"
            raise RequestRefused("no_process", message, retry_after_s=5) from error
        self._life = self._loop.create_task(self._live(child), name=f"runner-{self.pid}")
        self._send(LoadModel(self.spec, self._options.niceness))

    async def _live(self, child: Child) -> None:
        """Everything that goes on beside the process, until it has ended."""
        watch = self._loop.create_task(self._watch(child))
        last_words = self._loop.create_task(self._follow(child.said))
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    self._hear(await read(child.replies))
        finally:
            child.commands.close()
            code = await self._code(child)
            # Its own children may hold its stderr for a while longer.
            await asyncio.wait([last_words], timeout=_LAST_WORDS_S)
            for task in (watch, last_words):
                task.cancel()
            await asyncio.gather(watch, last_words, return_exceptions=True)
            child.ear.close()
            if self._scratch:
                await asyncio.to_thread(_remove, self._scratch)
            self._bury(code)

    async def _code(self, child: Child) -> int:
        """The exit code; with its socket closed it has no reason to live on."""
        try:
            async with asyncio.timeout(self._options.close_s):
                return await child.process.wait()
        except TimeoutError:
            child.kill()
            return await child.process.wait()

    def _hear(self, reply: Reply) -> None:
        match reply:
            case RunnerReady(slots, stretch_s):
                # It says nothing while it hears a stretch, and is slower than on other machines.
                self._stall_s *= max(1.0, stretch_s / _USUAL_STRETCH_S)
                self._ready.set_result(slots)
            case JobUpdate(ident, update):
                self._jobs[ident].hear(update, self._loop.time())
            case JobEnded(None, VoxliveError() as refusal):
                self._verdict = refusal, None
            case JobEnded(int(ident), outcome):
                self._jobs.pop(ident).end(outcome)
                self._changed()
            case RunnerCrashed(ident, reason):
                message = f"{self.spec.model} failed: {reason}"
                self._verdict = (
                    RequestRefused(
                        "model_load_failed" if ident is None else "runner_crashed", message
                    ),
                    ident,
                )

    def _bury(self, code: int) -> None:
        """Tell everyone that it has ended, and of what."""
        self.ended = True
        refusal, guilty = self._verdict or (self._cause(code), None)
        if not self._closing:
            log.warning("runner %d: %s", self.pid, refusal)
        if not self._ready.done():
            self._ready.set_exception(refusal)
            self._ready.exception()
        jobs, self._jobs = self._jobs, {}
        alone = len(jobs) == 1
        for ident, running in jobs.items():
            running.end(RunnerDied(refusal, guilty=alone or ident == guilty))
        self._changed()

    def _cause(self, code: int) -> VoxliveError:
        if self._closing:
            return RequestRefused("shutting_down", "the server is shutting down")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        said = f"; its last words: {self._last_words[-1]}" if self._last_words else ""
        return RequestRefused("runner_crashed", f"the process of {self.spec.model} {how}{said}")

    async def _follow(self, said: asyncio.StreamReader) -> None:
        while not said.at_eof():
            with contextlib.suppress(ValueError):  # a line beyond the limit is left out
                line = (await said.readline()).decode(errors="replace").rstrip()
                if line:
                    self._last_words.append(line[-_LONGEST_WORDS:])
                    log.debug("runner %d: %s", self.pid, line)

    # Its bounds.

    async def _watch(self, child: Child) -> None:
        while True:
            await asyncio.sleep(self._options.watch_s)
            now = self._loop.time()
            for running in tuple(self._jobs.values()):
                self._check(running, now)
            await self._check_memory(child)

    def _check(self, running: Running, now: float) -> None:
        options, model = self._options, self.spec.model
        if running.cancelled is not None:
            if now - running.cancelled > options.cancel_s:
                self._condemn("runner_replaced", f"{model} is being loaded anew", running.ident)
        elif now - running.active > self._stall_s:
            message = f"{model} hung: nothing came of it for {self._stall_s:g} s"
            self._condemn("runner_hung", message, running.ident)
        elif running.total_s is not None:
            allowed = options.timeout_s + options.timeout_factor * running.total_s
            if now - running.began > allowed:
                message = f"the transcription did not end within {allowed:.0f} s"
                running.end(RequestRefused("timeout", message))
                self.cancel(running)

    async def _check_memory(self, child: Child) -> None:
        limit = self._options.memory_limit
        if limit is None:
            return
        used = await asyncio.to_thread(child.resident_bytes)
        if used > limit:
            message = f"{self.spec.model} took {mib(used)} of memory and may take {mib(limit)}"
            self._condemn("insufficient_memory", f"{message}: send shorter audio", None)

    def _condemn(self, code: str, message: str, guilty: int | None) -> None:
        if self._verdict is None:
            self._verdict = RequestRefused(code, message), guilty
            if self._child:
                self._child.kill()

    def _send(self, command: Command) -> None:
        if self._child and not self.ended:
            self._child.commands.write(frame(command))


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
