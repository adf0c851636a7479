"""A runner's process on the host's side: starts it, gives it jobs, watches it, kills it.

A model gets one where its memory allows: whether it fits is found from the machine's total and free
memory. ``available`` reads these, the refusals are pure.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil

from voxlive.errors import RequestRefused, VoxliveError, mib
from voxlive.processes.process import EXIT_TIMEOUT_S, ChildProcess, exit_status
from voxlive.processes.supervisor import Deadline, Work
from voxlive.runners.contract import (
    CancelJob,
    Job,
    JobEnded,
    JobProgress,
    JobUpdate,
    LoadModel,
    RunnerCommand,
    RunnerCrashed,
    RunnerReady,
    RunnerSpec,
    StartJob,
    Transcript,
    Update,
)
from voxlive.runners.scratch import SCRATCH

MOST_SHARE = 0.7
"""A model that needs more of a machine's memory than this is never loaded."""
_HEADROOM_SHARE = 0.1
_LEAST_HEADROOM, _MOST_HEADROOM = 256 << 20, 4 << 30
_UNLIMITED = 1 << 60  # cgroup 1 writes "no limit" as a number near 2^63
# Limit and use, of control groups of version 2 and 1.
_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: what the machine has, or this program's container, and what of it could be taken."""

    total: int
    free: int

    @property
    def headroom(self) -> int:
        """What stays free beside a model, for audio, live sessions and other programs."""
        share = int(self.total * _HEADROOM_SHARE)
        return min(max(share, _LEAST_HEADROOM), _MOST_HEADROOM)


def refuse_oversized(spec: RunnerSpec, memory: Memory) -> None:
    """Raises RequestRefused 507 for a model that this machine can never load."""
    most = int(memory.total * MOST_SHARE)
    if spec.needed_bytes > most:
        raise RequestRefused(
            "insufficient_memory",
            f"{spec.model} needs {mib(spec.needed_bytes)}, and a model may take {mib(most)}, "
            f"{MOST_SHARE:.0%} of this machine's {mib(memory.total)}: choose a smaller or a "
            "quantised model",
            "model",
        )


def refuse_unless_free(
    spec: RunnerSpec, memory: Memory, retry_after_s: float
) -> RequestRefused | None:
    """The refusal if the model does not fit now; None if it does."""
    needed = spec.needed_bytes + memory.headroom
    if needed <= memory.free:
        return None
    return RequestRefused(
        "insufficient_memory",
        f"{spec.model} needs {mib(spec.needed_bytes)} and {mib(memory.headroom)} beside it, and "
        f"{mib(memory.free)} are free: end other programs, or choose a smaller model",
        "model",
        retry_after_s,
    )


def available(root: Path = Path("/")) -> Memory:
    """The machine's memory, or that of the tightest container around this process (Linux)."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    for limit, used in _limits(root):
        total, free = min(total, limit), min(free, max(limit - used, 0))
    return Memory(total, free)


def _limits(root: Path) -> list[tuple[int, int]]:
    """(limit, used) of every control group that this process is in and that has a limit."""
    found = []
    for group in _groups(root):
        for limit_name, used_name in _FILES:
            limit, used = _number(group / limit_name), _number(group / used_name)
            if limit is not None and used is not None and limit < _UNLIMITED:
                found.append((limit, used - _cached(group)))
    return found


def _groups(root: Path) -> list[Path]:
    """This process's control groups up to the root, of version 2 and of 1's memory controller."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = mount / path.lstrip("/")
        groups += [group, *(p for p in group.parents if p.is_relative_to(mount))]
    return groups


def _cached(group: Path) -> int:
    """Bytes of file cache that count as used and would be given back at once."""
    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return 0
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


log = logging.getLogger(__name__)

_MODULE = "voxlive.runners.child"
_USUAL_STRETCH_S = 30.0


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """The bounds of a runner's process; beyond each it is killed and its jobs fail.

    ``load_s`` is for loading the model. ``stall_s``: a job that makes no progress
    for so long hangs, where a model takes 30 s at a time; in proportion where it takes more. A job
    may take ``timeout_s`` and ``timeout_factor`` times its audio. ``cancel_s``: a cancelled job
    ends within it. ``memory_limit`` is in bytes, its children's included. ``niceness`` puts it
    behind the live sessions.
    """

    load_s: float = 600.0
    stall_s: float = 180.0
    timeout_s: float = 120.0
    timeout_factor: float = 20.0
    cancel_s: float = 5.0
    close_s: float = EXIT_TIMEOUT_S
    watch_s: float = 0.5
    memory_limit: int | None = None
    niceness: int = 10


class RunnerExited(Exception):
    """The process ended during a job; ``caused_by_job`` if this one is the likely cause."""

    def __init__(self, refusal: VoxliveError, *, caused_by_job: bool) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.caused_by_job = caused_by_job


class RunningJob:
    """A job in the process: who gets its updates, and how far it has come.

    ``began`` and ``cancelled`` are times of the loop; ``every_s`` is the watcher's interval.
    """

    def __init__(self, ident: int, on_update: Callable[[Update], None], every_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.ident = ident
        self.outcome: asyncio.Future[Transcript] = loop.create_future()
        self.began = loop.time()
        self.total_s: float | None = None
        self.cancelled: float | None = None
        self._on_update = on_update
        self._deadline = Deadline(every_s)
        self._updates = 0
        self._done_s = -1.0

    def update(self, update: Update) -> None:
        """Pass on an update that is new."""
        if isinstance(update, JobProgress):
            self.total_s = update.total_s
            if update.done_s <= self._done_s:
                return
            self._done_s = update.done_s
        self._updates += 1
        if self.cancelled is None:
            self._on_update(update)

    def is_stalled(self, now: float, deadline_s: float) -> bool:
        """Whether it has made no progress for ``deadline_s``."""
        return self._deadline.passed(Work(busy=True, done=self._updates), now, deadline_s)

    def end(self, outcome: Transcript | Exception) -> None:
        """Set the outcome, once: a second one is dropped."""
        if self.outcome.done():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class RunnerProcess:
    """A loaded model in a process of its own. Made by ``start``; belongs to one event loop.

    ``changed`` is called when a slot became free and when the process ended; ``pid`` is for
    diagnosis.
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
        self._jobs: dict[int, RunningJob] = {}
        self._idents = count()
        # Why it has to end or has ended, where that is known, and the job that this is about.
        self._closing_error: VoxliveError | None = None
        self._caused_by: int | None = None
        self._closing = False
        self._exited = asyncio.Event()
        scratch, self._child = _start_child(options.niceness)
        self._child.sender.put(LoadModel(spec))
        self.pid = self._child.pid
        name = f"runner-{self.pid}"
        threading.Thread(target=self._read, args=(scratch,), name=name, daemon=True).start()
        self._watching = self._loop.create_task(self._watch(), name=name)

    @classmethod
    async def start(
        cls, spec: RunnerSpec, options: ProcessOptions, changed: Callable[[], None]
    ) -> RunnerProcess:
        """Start a process and load the model. Raises RequestRefused, when it is ended as well."""
        process = cls(spec, options, changed)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(process.kill)
            try:
                async with asyncio.timeout(options.load_s):
                    process.slots = await asyncio.shield(process._ready)
            except TimeoutError as error:
                message = f"{spec.model} was not loaded within {options.load_s:g} s"
                raise RequestRefused("model_load_failed", message) from error
            undo.pop_all()
        return process

    @property
    def busy(self) -> int:
        """How many jobs it has, cancelled ones that have not ended included."""
        return len(self._jobs)

    @property
    def has_room(self) -> bool:
        """Whether it takes a job now."""
        return not self.ended and not self._closing_error and self.busy < self.slots

    def begin(self, job: Job, on_update: Callable[[Update], None]) -> RunningJob:
        """Begin a job; there must be room. Its outcome may be a VoxliveError or RunnerExited."""
        running = RunningJob(next(self._idents), on_update, self._options.watch_s)
        self._jobs[running.ident] = running
        self._child.sender.put(StartJob(running.ident, job))
        return running

    def cancel(self, running: RunningJob) -> None:
        """Nobody waits for the job any more; its outcome comes all the same within ``cancel_s``."""
        if running.ident in self._jobs and running.cancelled is None:
            running.cancelled = self._loop.time()
            self._child.sender.put(CancelJob(running.ident))

    async def close(self) -> None:
        """Unload the model and wait until the process has ended; it is killed if it does not."""
        self._closing = True
        self._child.disconnect()
        await self._exited.wait()

    async def kill(self) -> None:
        """End it at once and wait until it has ended."""
        self._closing = True
        self._child.kill()
        await self._exited.wait()

    # Messages and exit.

    def _read(self, scratch: Path) -> None:
        """On a thread that lives with the process: hand its replies and its end to the loop."""
        with suppress(RuntimeError):  # the loop is closed
            try:
                for reply in self._child.messages():
                    self._loop.call_soon_threadsafe(self._on_reply, reply)
            finally:
                code = self._child.end(self._options.close_s)
                shutil.rmtree(scratch, ignore_errors=True)
                self._loop.call_soon_threadsafe(self._on_exit, code)

    def _on_reply(self, reply: object) -> None:
        match reply:
            case RunnerReady(slots, stretch_s):
                # There is no progress during a stretch; other machines may be slower.
                self._stall_s *= max(1.0, stretch_s / _USUAL_STRETCH_S)
                if not self._ready.done():
                    self._ready.set_result(slots)
            case JobUpdate(ident, update):
                self._jobs[ident].update(update)
            case JobEnded(None, VoxliveError() as refusal):
                self._closing_error = refusal
            case JobEnded(int(ident), outcome):
                self._jobs.pop(ident).end(outcome)
                self._changed()
            case RunnerCrashed(ident, reason):
                code = "model_load_failed" if ident is None else "runner_crashed"
                self._closing_error = RequestRefused(code, f"{self.spec.model} failed: {reason}")
                self._caused_by = ident

    def _on_exit(self, code: int) -> None:
        """The process has ended: its jobs fail with the reason."""
        self.ended = True
        self._exited.set()
        self._watching.cancel()
        refusal = self._closing_error or self._exit_error(code)
        if not self._closing:
            log.warning("runner %d: %s", self.pid, refusal)
        if not self._ready.done():
            self._ready.set_exception(refusal)
            self._ready.exception()
        jobs, self._jobs = self._jobs, {}
        only_job = len(jobs) == 1
        for ident, running in jobs.items():
            caused_by_job = only_job or ident == self._caused_by
            running.end(RunnerExited(refusal, caused_by_job=caused_by_job))
        self._changed()

    def _exit_error(self, code: int) -> VoxliveError:
        if self._closing:
            return RequestRefused("shutting_down", "the server is shutting down")
        line = self._child.last_line
        output = f"; its last words: {line}" if line else ""
        message = f"the process of {self.spec.model} {exit_status(code)}{output}"
        return RequestRefused("runner_crashed", message)

    # Limits.

    async def _watch(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._options.watch_s)
                now = self._loop.time()
                for running in tuple(self._jobs.values()):
                    self._check(running, now)
                await self._check_memory()
        finally:
            self._child.disconnect()  # also where the loop ends without a close

    def _check(self, running: RunningJob, now: float) -> None:
        options, model = self._options, self.spec.model
        if running.cancelled is not None:
            if now - running.cancelled > options.cancel_s:
                error = RequestRefused("runner_replaced", f"{model} is being loaded anew")
                self._kill_with(error, running.ident)
        elif running.is_stalled(now, self._stall_s):
            message = f"{model} hung: nothing came of it for {self._stall_s:g} s"
            self._kill_with(RequestRefused("runner_hung", message), running.ident)
        elif running.total_s is not None:
            allowed = options.timeout_s + options.timeout_factor * running.total_s
            if now - running.began > allowed:
                message = f"the transcription did not end within {allowed:.0f} s"
                running.end(RequestRefused("timeout", message))
                self.cancel(running)

    async def _check_memory(self) -> None:
        limit = self._options.memory_limit
        if limit is None:
            return
        used = await asyncio.to_thread(self._child.resident_bytes)
        if used > limit:
            message = f"{self.spec.model} took {mib(used)} of memory and may take {mib(limit)}"
            error = RequestRefused("insufficient_memory", f"{message}: send shorter audio")
            self._kill_with(error, None)

    def _kill_with(self, error: RequestRefused, caused_by: int | None) -> None:
        if self._closing_error is None:
            self._closing_error, self._caused_by = error, caused_by
            self._child.kill()


def _start_child(niceness: int) -> tuple[Path, ChildProcess[RunnerCommand]]:
    """A process, and its folder for temporary files. Raises RequestRefused."""
    try:
        with ExitStack() as undo:
            scratch = SCRATCH.folder("runner")
            undo.callback(shutil.rmtree, scratch, ignore_errors=True)
            # Models were fetched before: nothing there may go online.
            environment = {"TMPDIR": str(scratch), "HF_HUB_OFFLINE": "1"}
            child: ChildProcess[RunnerCommand] = ChildProcess(
                _MODULE, "runner", niceness=niceness, environment=environment, quiet=True
            )
            undo.pop_all()
    except OSError as error:
        message = f"a runner's process cannot be started: {error}"
        raise RequestRefused("no_process", message, retry_after_s=5) from error
    return scratch, child
