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
from voxlive.runners.process.host import RunnerDied, RunnerProcess, Running

if TYPE_CHECKING:
    from voxlive.runners.contract import Job, RunnerSpec


class QueuedJob:
    """A job and who waits for it. ``spoken``: some of its text has been told."""

    def __init__(self, job: Job, told: Callable[[Update], None] | None) -> None:
        self.job = job
        self.outcome: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
        self.retried = False
        self.spoken = False
        self.running: Running | None = None
        self._told = told

    def tell(self, update: Update) -> None:
        """To whom it concerns."""
        if self._told:
            self.spoken = self.spoken or isinstance(update, Delta)
            self._told(update)

    def end(self, outcome: Transcript | VoxliveError) -> None:
        """Once, and not when nobody waits any more."""
        if self.outcome.done():
            return
        if isinstance(outcome, VoxliveError):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class ModelQueue:
    """Jobs in order, as many at a time as the process has slots.

    ``load`` brings the process up, and is asked again after it ended; ``changed`` is called when
    the model became idle, lost its process or has become ``unused``.
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
        self._tickets: deque[QueuedJob] = deque()
        self._running: set[QueuedJob] = set()
        self._loading: asyncio.Task[None] | None = None
        self._idling: asyncio.TimerHandle | None = None
        self._leaving: set[RunnerProcess] = set()
        self._unloading: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._tickets)

    @property
    def running(self) -> int:
        """Jobs that have, and that somebody waits for."""
        return len(self._running)

    @property
    def idle(self) -> bool:
        """Loaded, with nothing to do."""
        busy = self._tickets or self._running
        return bool(self.process and not self.process.busy and not busy)

    @property
    def unused(self) -> bool:
        """Not loaded, with nothing to do."""
        busy = self._loading or self._tickets or self._running
        return not (self.process or self._leaving or busy)

    def add(self, ticket: QueuedJob, retry_after_s: float) -> None:
        """Queue a job. Raises RequestRefused when too many wait."""
        if len(self._tickets) >= self._most_waiting:
            raise RequestRefused(
                "queue_full",
                f"{len(self._tickets)} files wait for {self.spec.model} already; try again later",
                retry_after_s=retry_after_s,
            )
        self._tickets.append(ticket)
        self.pump()

    def drop(self, ticket: QueuedJob) -> None:
        """Nobody waits for it any more."""
        if ticket.running and self.process:
            self.process.cancel(ticket.running)
        elif ticket in self._tickets:
            self._tickets.remove(ticket)
            self.pump()

    def pump(self) -> None:
        """Do what can be done now."""
        if self.process and self.process.ended:
            self.process = None
        if self._tickets and not self.process and not self._loading:
            # Not in the context of the request that asks: the process outlives it.
            loading = self._loop.create_task(self._bring_up(), context=Context())
            self._loading = loading
        while self._tickets and self.process and self.process.has_room:
            ticket = self._tickets.popleft()
            self._running.add(ticket)
            ticket.running = self.process.begin(ticket.job, ticket.tell)
            ticket.running.outcome.add_done_callback(partial(self._finish, ticket))
        self._mind_idleness()

    async def unload(self) -> None:
        """End the idle process; jobs that come meanwhile wait for the next one."""
        process, self.process = self.process, None
        if process:
            self._leaving.add(process)
            await process.close()
            self._leaving.discard(process)
        self.pump()

    async def aclose(self, refusal: VoxliveError) -> None:
        """Fail all jobs and end the process."""
        tickets = (*self._tickets, *self._running)
        self._tickets.clear()
        for ticket in tickets:
            ticket.end(refusal)
        if self._loading:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        for process in (*self._leaving, *filter(None, [self.process])):
            await process.kill()
        if self._unloading:
            await asyncio.gather(self._unloading, return_exceptions=True)
        self.pump()

    async def _bring_up(self) -> None:
        refusal = RequestRefused("model_load_failed", f"{self.spec.model} could not be loaded")
        try:
            self.process = await self._load(self)
        except RequestRefused as why:
            refusal = why
        finally:
            self._loading = None
            if not self.process:
                tickets = tuple(self._tickets)
                self._tickets.clear()
                for ticket in tickets:
                    ticket.end(refusal)
        self.pump()

    def _finish(self, ticket: QueuedJob, outcome: asyncio.Future[Transcript]) -> None:
        self._running.discard(ticket)
        match outcome.exception():
            case None:
                ticket.end(outcome.result())
            case VoxliveError() as refusal:
                ticket.end(refusal)
            case RunnerDied() as death:
                self._bury(ticket, death)
        self.pump()

    def _bury(self, ticket: QueuedJob, death: RunnerDied) -> None:
        if death.guilty or ticket.retried or ticket.spoken or ticket.outcome.done():
            ticket.end(death.refusal)
        else:
            ticket.retried, ticket.running = True, None
            self._tickets.appendleft(ticket)

    def _mind_idleness(self) -> None:
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
