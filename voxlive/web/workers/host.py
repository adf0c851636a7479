"""The host's side of the workers: it starts, serves and supervises them, and ends them.

A worker that dies or hangs is replaced: its clients lose their connections, all that was counted
for them is free again, and captions of its sessions end.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from voxlive.engines.remote.shared import SlotTable
from voxlive.errors import EngineError, VoxliveError
from voxlive.processes.process import ChildProcess, exit_status
from voxlive.processes.supervisor import Backoff, Supervisor, Work
from voxlive.web.config import ConfigError
from voxlive.web.metrics import LiveFigures
from voxlive.web.ports import worker_sockets
from voxlive.web.recorder import Recorder
from voxlive.web.workers import (
    RESUMABLE,
    AdmitClient,
    ClientGone,
    Drain,
    EngineHangs,
    JoinEngine,
    LeaveSession,
    Ping,
    PrepareEngine,
    ReadFigures,
    ReplaceEngine,
    StartWorker,
    WorkerFailed,
    WorkerReady,
)
from voxlive.web.workers.captions import ServeFeeds
from voxlive.web.workers.channel import WorkerChannel
from voxlive.web.workers.engines import EngineSharing, SharedEngines
from voxlive.web.workers.forwarding import ServeForwarded
from voxlive.web.workers.storing import ServeAudio, serve_store

if TYPE_CHECKING:
    import socket

    from starlette.types import ASGIApp

    from voxlive.engines.contract import Engine
    from voxlive.web.access.access import Grant
    from voxlive.web.app import ServerCore
    from voxlive.web.config import ServeConfig
    from voxlive.web.ports import Ports
    from voxlive.web.workers.engines import SharedLive

_MODULE = "voxlive.web.workers.child"
_CLOSE_S = 10.0
"""How long a worker may take to end, beyond what its sessions are given."""
_FIGURES_S = 2.0

log = logging.getLogger(__name__)


class Worker:
    """One worker, and after it the next one; ``member`` numbers them from 1 on.

    A thread lives with the process. All but ``_run`` and what is for the supervisor belongs to the
    event loop.
    """

    def __init__(
        self,
        member: int,
        server: Workers,
        listening: list[socket.socket],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.figures = LiveFigures()
        """What was read of it last."""
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.channel: WorkerChannel | None = None
        self._member = member
        self._server = server
        self._listening = listening
        self._loop = loop
        self._process: ChildProcess[object] | None = None
        self._sharing: list[tuple[SharedLive, EngineSharing]] = []
        # What is counted for each client; the last that was asked for, and who left before it was.
        self._clients: dict[int, ExitStack] = {}
        self._last_client = 0
        self._gone: set[int] = set()
        self._feeds: ServeFeeds | None = None
        self._audio: ServeAudio | None = None
        self._forwarded: ServeForwarded | None = None
        self._draining = threading.Event()
        # For the supervisor: pings that were sent and answered.
        self._asked = self._answered = 0
        self._thread = threading.Thread(target=self._run, name=f"worker-{member}", daemon=True)
        self._thread.start()

    async def replace_engine(self, lives: list[SharedLive]) -> int:
        """Have it go on with other engines of a live model.

        Returns how many of its sessions stay with those before.
        """
        models = tuple(live.model for live in lives)
        stay: int | None = await self._with_engines(lives, ReplaceEngine(models[0].name, models))
        return stay or 0

    async def join_engine(self, live: SharedLive) -> None:
        """Have it use the engine of a device that is in service again."""
        await self._with_engines([live], JoinEngine(live.model))

    async def _with_engines(self, lives: list[SharedLive], question: object) -> Any:
        """The answer to a question about engines that are new to it; None if it is to be replaced.

        The next one is started with them.
        """
        process, channel = self._process, self.channel
        if not (process and channel and self.ready.is_set()):
            self.kill()
            return None
        with suppress(EngineError, OSError):  # it has died
            for live in lives:
                process.hand_over(f"slots {live.number}", live.slots.fd)
                await channel.ask(PrepareEngine(live.model))
                self._share(process, live)
            return await channel.ask(question)
        return None

    async def read_figures(self) -> LiveFigures:
        """What its live sessions come to, and came to in those before it."""
        if self.channel and self.ready.is_set():
            with suppress(TimeoutError, EngineError):
                async with asyncio.timeout(_FIGURES_S):
                    self.figures = await self.channel.ask(ReadFigures())
        return self.figures

    async def leave_session(self, asked: LeaveSession) -> bool:
        """Whether it had the session, and has left it."""
        if self.channel:
            with suppress(EngineError):  # it has died
                had: bool = await self.channel.ask(asked)
                return had
        return False

    def drain(self) -> None:
        """Have it end its sessions, and then itself."""
        self._draining.set()
        if self.channel:
            self.channel.tell(Drain())

    def kill(self) -> None:
        """End it at once."""
        if process := self._process:
            process.kill()

    # For the supervisor.

    @property
    def work(self) -> Work:
        """A ping to answer, one at a time."""
        if self.ready.is_set() and self._asked == self._answered:
            self._asked += 1
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._ping()))
        return Work(self._asked != self._answered, self._answered)

    @property
    def deadline_s(self) -> float:
        """See ``Watched``."""
        return self._server.deadline_s

    def on_deadline(self, _work: Work) -> None:
        """See ``Watched``."""
        log.error("worker %d has not answered for %g s and is ended", self._member, self.deadline_s)
        self.kill()

    async def _ping(self) -> None:
        if self.channel:
            with suppress(EngineError):
                await self.channel.ask(Ping())
        self._answered = self._asked

    # The thread that lives with the process.

    def _run(self) -> None:
        backoff = Backoff()
        while not self._draining.is_set():
            try:
                process: ChildProcess[object] = ChildProcess(
                    _MODULE, f"worker-{self._member}", takes_descriptors=True
                )
            except OSError as failure:
                log.error("worker %d cannot be started: %s", self._member, failure)
                self._draining.wait(backoff.next_s(served=False))
                continue
            served = self._serve(process)
            ended = exit_status(process.end())
            for table in (self._server.resumable, *(one.slots for one in self._server.engines.all)):
                table.clear(self._member)
            if not served:
                self._call(self._server.on_not_served, self._member, ended)
            if not self._draining.is_set():
                log.error("worker %d %s; it is started again", self._member, ended)
                self._draining.wait(backoff.next_s(served=served))
        self._call(self.ended.set)

    def _serve(self, process: ChildProcess[object]) -> bool:
        """One process, until it ends or hangs up; whether it came to serve."""
        self._process = process
        models, recorder = self._server.engines.serving, self._server.recorder
        with suppress(OSError):  # it is gone already
            process.hand_over(f"slots {RESUMABLE}", self._server.resumable.fd)
            for live in models:
                process.hand_over(f"slots {live.number}", live.slots.fd)
            for bound in self._listening:
                process.hand_over("listen", bound.fileno())
        process.sender.put(
            StartWorker(
                self._member,
                self._server.config,
                tuple(live.model for live in models),
                len(self._listening),
                self._server.keyed,
                recorder is not None,
                recorder is not None and recorder.transient,
                recorder.refine if recorder else None,
            )
        )
        for live in models:
            self._share(process, live)
        self._call(self._on_start, process)
        if self._draining.is_set():
            process.disconnect()
        served = False
        for message in process.messages():
            served |= isinstance(message, WorkerReady)
            self._call(self._receive, message)
        self._process = None
        while self._sharing:
            live, sharer = self._sharing.pop()
            live.engine.remove_sharer(sharer)
        self._call(self._on_end)
        return served

    def _share(self, process: ChildProcess[object], live: SharedLive) -> None:
        sharer = EngineSharing(process, live)
        self._sharing.append((live, sharer))
        live.engine.add_sharer(sharer)

    def _call(self, what: Any, *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(what, *args)

    # On the event loop.

    def _on_start(self, process: ChildProcess[object]) -> None:
        channel = self.channel = WorkerChannel(process.sender.put)
        self._forwarded = ServeForwarded(self._server.app, channel)
        channel.answer(AdmitClient, self._admit)
        channel.on(WorkerReady, lambda _: self.ready.set())
        channel.on(WorkerFailed, self._server.on_failed)
        channel.on(EngineHangs, self._server.end_engine)
        channel.on(ClientGone, self._release)
        channel.answer(LeaveSession, partial(self._server.leave_session, self))
        if self._server.recorder:
            serve_store(self._server.recorder, channel)
            self._audio = ServeAudio(self._server.recorder.store.audio, channel)
        self._feeds = ServeFeeds(self._server.core.live.feeds, channel)
        if self._draining.is_set():
            channel.tell(Drain())

    def _receive(self, message: object) -> None:
        if self.channel:
            self.channel.receive(message)

    def _on_end(self) -> None:
        channel, self.channel = self.channel, None
        self.ready.clear()
        if channel:
            channel.close()
        if self._forwarded:
            self._forwarded.close()
        while self._clients:
            self._clients.popitem()[1].close()
        self._last_client = 0
        self._gone.clear()
        if self._feeds:
            # Other workers go on with what is stored, where its clients come back.
            self._feeds.close(over=self._server.recorder is None)
        if self._audio:
            self._audio.close()
        self.figures = self.figures.ended
        self._server.keep(self.figures)
        self.figures = LiveFigures()

    async def _admit(self, asked: AdmitClient) -> Grant:
        self._last_client = max(self._last_client, asked.client)
        with ExitStack() as undo:
            admission = self._server.core.live.admission
            grant = await admission.admit(asked.secret, asked.address, asked.captions, undo)
            if asked.client in self._gone:
                self._gone.discard(asked.client)
            else:
                self._clients[asked.client] = undo.pop_all()
        return grant

    def _release(self, gone: ClientGone) -> None:
        if counted := self._clients.pop(gone.client, None):
            counted.close()
        elif gone.client > self._last_client:
            self._gone.add(gone.client)


class Workers:
    """The workers of a server, from ``start`` to ``drain``.

    ``app`` answers their HTTP requests. Raises ConfigError for a model that cannot be shared.
    """

    def __init__(self, app: ASGIApp, core: ServerCore, config: ServeConfig, ports: Ports) -> None:
        self.app = app
        self.core = core
        self.config = config
        self.deadline_s = config.engine_timeout
        self.keyed = core.live.authenticator.access.keyed
        self.recorder = core.recorder
        """Of the sessions of all workers; of a server that keeps nothing, one for resuming."""
        if self.recorder is None and config.resume_seconds:
            self.recorder = Recorder.in_memory(config)
        self.failure: VoxliveError | None = None
        """Why the first workers could not start."""
        self.resumable = SlotTable.create(config.workers)
        services = ((None, core.models.default), *core.models.named.items())
        engines = ((name, service.engine) for name, service in services)
        self.engines = SharedEngines(engines, config.workers, self._join)
        core.models.elsewhere = self.replace_engine
        self._sockets = [worker_sockets(bound, config.workers) for bound in ports.http]
        self._workers: list[Worker] = []
        self._supervisor: Supervisor | None = None
        self._ended = LiveFigures()
        self._failed = asyncio.Event()
        self._started = False
        self._loop: asyncio.AbstractEventLoop
        core.live.metrics.elsewhere = self.read_figures

    async def replace_engine(self, name: str | None, engine: Engine) -> int:
        """Have all workers go on with another engine; how many sessions stay with the one before.

        Raises ConfigError for one that cannot be shared, which is shut down.
        """
        try:
            lives = self.engines.replace(name, engine)
        except ConfigError:
            await asyncio.to_thread(engine.shutdown)
            raise
        return sum(await asyncio.gather(*(one.replace_engine(lives) for one in self._workers)))

    def _join(self, live: SharedLive) -> None:
        """A device is in service again. In a thread, which waits until the workers use it."""
        asyncio.run_coroutine_threadsafe(self._join_all(live), self._loop).result()

    async def _join_all(self, live: SharedLive) -> None:
        await asyncio.gather(*(one.join_engine(live) for one in self._workers))

    async def start(self) -> bool:
        """Start them all; whether they serve. Else there is a ``failure``, or a signal has come."""
        loop = self._loop = asyncio.get_running_loop()
        for member, sockets in enumerate(zip(*self._sockets, strict=True), 1):
            self._workers.append(Worker(member, self, list(sockets), loop))
        self._supervisor = Supervisor(self._workers, self.deadline_s)
        ready = asyncio.create_task(self._all_ready())
        failed = asyncio.create_task(self._failed.wait())
        await asyncio.wait([ready, failed], return_when=asyncio.FIRST_COMPLETED)
        for task in (ready, failed):
            task.cancel()
        await asyncio.gather(ready, failed, return_exceptions=True)
        self._started = True
        return self.failure is None

    async def _all_ready(self) -> None:
        for worker in self._workers:
            await worker.ready.wait()

    async def drain(self) -> None:
        """End all sessions and then the workers, which accept no more."""
        for bound in (one for sockets in self._sockets for one in sockets):
            bound.close()
        if self._supervisor:
            await asyncio.to_thread(self._supervisor.close)
        for worker in self._workers:
            worker.drain()
        ends = [asyncio.create_task(worker.ended.wait()) for worker in self._workers]
        drain_s = self.config.drain_seconds
        await asyncio.gather(
            self.core.models.drain(drain_s), asyncio.wait(ends, timeout=drain_s + _CLOSE_S)
        )
        for worker in self._workers:
            worker.kill()
        await asyncio.gather(*ends)
        if self.recorder and self.recorder.transient:
            await asyncio.to_thread(self.recorder.close)

    async def read_figures(self) -> LiveFigures:
        """What the live sessions of all workers come to."""
        read = await asyncio.gather(*(worker.read_figures() for worker in self._workers))
        return sum(read, start=self._ended)

    async def leave_session(self, asking: Worker, asked: LeaveSession) -> bool:
        """Have the worker that has a session leave it to the one that asks."""
        others = (one for one in self._workers if one is not asking)
        return any(await asyncio.gather(*(one.leave_session(asked) for one in others)))

    def keep(self, figures: LiveFigures) -> None:
        """A worker has ended: these stay in what the server's come to."""
        self._ended += figures

    def on_failed(self, failed: WorkerFailed) -> None:
        """A worker cannot start; later on it is tried again."""
        log.error("a worker cannot start: %s", failed.error.message)
        if not self._started:
            self.failure = self.failure or failed.error
            self._failed.set()

    def on_not_served(self, member: int, ended: str) -> None:
        """A worker's process has ended before it was ready: the first start fails with it."""
        self.on_failed(WorkerFailed(EngineError("internal", f"worker {member} {ended}")))

    def end_engine(self, hangs: EngineHangs) -> None:
        """An engine's process hangs, a worker says."""
        for live in self.engines.all:
            if live.number == hangs.engine:
                end = partial(live.engine.end_process, hangs.number, hangs.fault)
                threading.Thread(target=end, name="engine-end", daemon=True).start()
