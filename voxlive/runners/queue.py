"""One model of a Batch: the jobs that wait for it, and its process while there is one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

from voxlive.errors import RequestRefused, VoxliveError
from voxlive.runners.contract import Delta, Transcript, Update
from voxlive.runners.process import RunnerExited, RunnerProcess, RunningJob

if TYPE_CHECKING:
    from voxlive.runners.contract import Job, RunnerSpec


class QueuedJob:
    """A job and its caller. ``has_text``: some of its text has been passed on."""

    def __init__(self, job: Job, on_update: Callable[[Update], None] | None) -> None:
        self.job = job
        self.outcome: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
        self.retried = False
        self.has_text = False
        self.running: RunningJob | None = None
        self._on_update = on_update

    def update(self, update: Update) -> None:
        """Pass an update to the caller."""
        if self._on_update:
            self.has_text = self.has_text or isinstance(update, Delta)
            self._on_update(update)

    def end(self, outcome: Transcript | VoxliveError) -> None:
        """Set the outcome, once; not if the caller is gone."""
        if self.outcome.done():
            return
        if isinstance(outcome, VoxliveError):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class ModelQueue:
    """Jobs in order, as many at a time as the process has slots.

    ``load`` starts the process, and is called again after it ended; ``changed`` is called when the
    model became idle, lost its process or became ``unused``.
    """

    def __init__(
        self,
        spec: RunnerSpec,
        most_waiting: int,
        idle_s: float,
        load: Callable[[ModelQueue], Awaitable[RunnerProcess]],
        changed: Callable[[ModelQueue], None],
    ) -> None:
        self.spec = spec
        self.process: RunnerProcess | None = None
        self.idle_since = 0.0
        self._most_waiting = most_waiting
        self._idle_s = idle_s
        self._load = load
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._queue: deque[QueuedJob] = deque()
        self._running: set[QueuedJob] = set()
        self._loading: asyncio.Task[None] | None = None
        self._idling: asyncio.TimerHandle | None = None
        self._leaving: set[RunnerProcess] = set()
        self._unloading: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """The number of jobs that have not begun."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """The number of jobs that run."""
        return len(self._running)

    @property
    def idle(self) -> bool:
        """Loaded, with nothing to do."""
        busy = self._queue or self._running
        return bool(self.process and not self.process.busy and not busy)

    @property
    def unused(self) -> bool:
        """Not loaded, with nothing to do."""
        busy = self._loading or self._queue or self._running
        return not (self.process or self._leaving or busy)

    def add(self, queued: QueuedJob, retry_after_s: float) -> None:
        """Queue a job. Raises RequestRefused when too many wait."""
        if len(self._queue) >= self._most_waiting:
            raise RequestRefused(
                "queue_full",
                f"{len(self._queue)} files wait for {self.spec.model} already; try again later",
                retry_after_s=retry_after_s,
            )
        self._queue.append(queued)
        self.schedule()

    def drop(self, queued: QueuedJob) -> None:
        """Cancel a job."""
        if queued.running and self.process:
            self.process.cancel(queued.running)
        elif queued in self._queue:
            self._queue.remove(queued)
            self.schedule()

    def schedule(self) -> None:
        """Start the process and jobs as far as possible now."""
        if self.process and self.process.ended:
            self.process = None
        if self._queue and not self.process and not self._loading:
            # Not in the context of the request: the process outlives it.
            loading = self._loop.create_task(self._start_process(), context=Context())
            self._loading = loading
        while self._queue and self.process and self.process.has_room:
            queued = self._queue.popleft()
            self._running.add(queued)
            queued.running = self.process.begin(queued.job, queued.update)
            queued.running.outcome.add_done_callback(partial(self._finish, queued))
        self._update_idle_timer()

    async def unload(self) -> None:
        """End the idle process; jobs that arrive meanwhile wait for the next one."""
        process, self.process = self.process, None
        if process:
            self._leaving.add(process)
            await process.close()
            self._leaving.discard(process)
        self.schedule()

    async def aclose(self, refusal: VoxliveError) -> None:
        """Fail all jobs and end the process."""
        jobs = (*self._queue, *self._running)
        self._queue.clear()
        for queued in jobs:
            queued.end(refusal)
        if self._loading:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        for process in (*self._leaving, *filter(None, [self.process])):
            await process.kill()
        if self._unloading:
            await asyncio.gather(self._unloading, return_exceptions=True)
        self.schedule()

    async def _start_process(self) -> None:
        refusal = RequestRefused("model_load_failed", f"{self.spec.model} could not be loaded")
        try:
            self.process = await self._load(self)
        except RequestRefused as why:
            refusal = why
        finally:
            self._loading = None
            if not self.process:
                jobs = tuple(self._queue)
                self._queue.clear()
                for queued in jobs:
                    queued.end(refusal)
        self.schedule()

    def _finish(self, queued: QueuedJob, outcome: asyncio.Future[Transcript]) -> None:
        self._running.discard(queued)
        match outcome.exception():
            case None:
                queued.end(outcome.result())
            case VoxliveError() as refusal:
                queued.end(refusal)
            case RunnerExited() as exited:
                self._on_process_exit(queued, exited)
        self.schedule()

    def _on_process_exit(self, queued: QueuedJob, exited: RunnerExited) -> None:
        if exited.caused_by_job or queued.retried or queued.has_text or queued.outcome.done():
            queued.end(exited.refusal)
        else:
            queued.retried, queued.running = True, None
            self._queue.appendleft(queued)

    def _update_idle_timer(self) -> None:
        if self.idle and not self._idling:
            self.idle_since = self._loop.time()
            self._idling = self._loop.call_later(self._idle_s, self._expire)
        elif not self.idle and self._idling:
            self._idling.cancel()
            self._idling = None
        if self.idle or not self.process:
            self._changed(self)

    def _expire(self) -> None:
        self._unloading = self._loop.create_task(self.unload())
