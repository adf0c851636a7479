"""Inside a worker: live sessions on engines that it shares, and its connections.

It loads no model but the voice detector. HTTP requests are passed on to the host.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from itertools import chain, count, groupby
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from voxlive.engines.pool import EnginePool
from voxlive.engines.remote.shared import SharedEngine, SlotTable
from voxlive.errors import EngineError, VoxliveError
from voxlive.processes.process import handed_over, read_messages, run_child
from voxlive.streaming.replacements import Replacements
from voxlive.streaming.service import Service
from voxlive.streaming.traces import TraceExporter
from voxlive.vad.detector import Silero, VoiceDetector
from voxlive.web.access.access import Access, Grant
from voxlive.web.access.keys import redact_logs
from voxlive.web.access.middleware import Authenticator
from voxlive.web.access.sites import Sites, host_names
from voxlive.web.app import CLOSE_TIMEOUT_S, open_recordings
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels, speakers_of
from voxlive.web.profiles import VoiceProfiles
from voxlive.web.protocols import PROTOCOLS
from voxlive.web.recorder import SessionRecorder
from voxlive.web.server import Server, connection_config, outer_app, tls_context
from voxlive.web.workers import (
    RESUMABLE,
    AdmitClient,
    ClientGone,
    Drain,
    EngineHangs,
    EngineLost,
    EngineWithdrawn,
    JoinEngine,
    LeaveSession,
    Ping,
    PrepareEngine,
    ReadFigures,
    ReplaceEngine,
    SharedModel,
    StartWorker,
    WorkerFailed,
    WorkerReady,
)
from voxlive.web.workers.captions import RelayedFeeds
from voxlive.web.workers.channel import WorkerChannel
from voxlive.web.workers.forwarding import ForwardRequests
from voxlive.web.workers.storing import HostAudio, HostStore, HostWriter

if TYPE_CHECKING:
    from voxlive.engines.contract import Engine
    from voxlive.processes.process import BatchedSender
    from voxlive.web.metrics import LiveFigures


_LINKED_S = 2.0
"""How long connections wait for the engines, which are loaded, unless one has just ended."""


def serve(end: socket.socket, sender: BatchedSender[object]) -> None:
    """Serve as the first message says, until the host says that it is over, or is gone."""
    incoming = chain.from_iterable(read_messages(end))
    start = next(incoming, None)
    if not isinstance(start, StartWorker):
        return
    try:
        worker = WorkerCore(start, handed_over(), sender.put)
        worker.serve(incoming)
        sender.flush()
    except VoxliveError as error:
        sender.put(WorkerFailed(error))
        sender.flush()


class HostAdmission:
    """Admits clients as the host decides, which counts them."""

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self._numbers = count(1)

    async def admit(
        self, secret: str | None, address: str, captions: str | None, resources: ExitStack
    ) -> Grant:
        """See ``Admission``."""
        client = next(self._numbers)
        resources.callback(self._channel.tell, ClientGone(client))
        grant = await self._channel.ask(AdmitClient(client, secret, address, captions))
        assert isinstance(grant, Grant)
        return grant


class WorkerApp:
    """Live protocols here, all else at the host."""

    def __init__(self, live: LiveEndpoints, forward: ForwardRequests) -> None:
        self._forward = forward
        self._live = Starlette(
            routes=[
                WebSocketRoute(path, live.endpoint(protocol))
                for path, protocol in PROTOCOLS.items()
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        app: ASGIApp = self._live if scope["type"] == "websocket" else self._forward
        await app(scope, receive, send)


class WorkerCore:
    """Everything of a worker but its sockets."""

    def __init__(
        self,
        start: StartWorker,
        descriptors: Iterator[tuple[str, int]],
        tell: Callable[[object], object],
    ) -> None:
        """Raises what the voice detector and the certificate raise; ConfigError."""
        redact_logs()
        # As in the host: a session's lines say what matters about a connection.
        if logging.getLogger().getEffectiveLevel() > logging.DEBUG:
            logging.getLogger("uvicorn").setLevel(logging.WARNING)
        self._config = start.config
        self._tell = tell
        self._descriptors = descriptors
        self._member = start.member
        self._listening: list[socket.socket] = []
        self._engines: dict[int, SharedEngine] = {}
        self._slots: dict[int, SlotTable] = {}
        self._changed = threading.Condition()
        for _ in range(len(start.models) + 1 + start.listening):
            self._take(*next(descriptors))
        config = start.config
        dictionary = Replacements.read(config.replacements) if config.replacements else None
        self._recordings = open_recordings(config.record)
        services = {
            name: Service(
                self._shared(tuple(models)),
                VoiceDetector(Silero()),
                dictionary,
                self._recordings,
                speakers=speakers_of(config),
            )
            for name, models in groupby(start.models, lambda model: model.name)
        }
        named = {name: service for name, service in services.items() if name}
        self.models = LiveModels(services[None], named)
        self._channel = WorkerChannel(tell)
        hosts = None if start.keyed else frozenset(config.allow_host) | host_names(config.host)
        access = Access((), config.limits)
        self.live = LiveEndpoints(
            self.models,
            Authenticator(access, Sites(config.allow_origin, hosts)),
            resume_s=config.resume_seconds if start.stored else 0,
            max_suspended=-(-config.max_suspended // config.workers),
            feeds=RelayedFeeds(tell),
            admission=HostAdmission(self._channel),
            traces=TraceExporter.of(config.trace),
            diarize=config.diarize,
        )
        self._stored, self._transient = start.stored, start.transient
        self._refine = start.refine
        self.live.resumables.elsewhere = self._leave_elsewhere
        self.live.resumables.counts = self._slots[RESUMABLE]
        self._incoming: Iterator[object] = iter(())
        self._errors = access.errors
        self._server: Server | None = None

    def serve(self, incoming: Iterator[object]) -> None:
        """Serve connections until the host says that it is over, or is gone."""
        threading.Thread(target=self._take_all, name="descriptors", daemon=True).start()
        self._incoming = incoming
        config = self._config
        whisper_live = self._listening[1].getsockname()[1] if self._listening[1:] else None
        app = WorkerApp(self.live, ForwardRequests(self._channel))
        wrapped = outer_app(app, self.live, whisper_live, config)
        self._server = Server(
            connection_config(wrapped, config, tls_context(config)),
            self,
            self._say_ready,
        )
        for engine in self._engines.values():
            engine.wait_until_linked(_LINKED_S)
        self._server.run(self._listening)

    def start(self) -> None:
        """See ``Core``."""
        channel = self._channel
        channel.answer(Ping, _pong)
        channel.answer(ReadFigures, self._read_figures)
        channel.answer(PrepareEngine, self._prepare_engine)
        channel.answer(ReplaceEngine, self._replace_engine)
        channel.answer(JoinEngine, self._join_engine)
        channel.answer(LeaveSession, self._leave)
        channel.on(EngineLost, self._lose_engine)
        channel.on(EngineWithdrawn, self._withdraw_engine)
        channel.on(Drain, self._drain)
        loop = asyncio.get_running_loop()
        if self._stored:
            writer, store = HostWriter(channel), HostStore(channel, loop)
            resume = timedelta(seconds=self._config.resume_seconds)
            recorder = SessionRecorder(store, writer, resume, transient=self._transient)
            if self._config.keep_audio:
                recorder.audio, recorder.audio_store = self._config.keep_audio, HostAudio(channel)
                recorder.refine = self._refine
            if not self._transient:
                recorder.profiles = VoiceProfiles.of(store, os.environ)
            self.live.recorder = recorder
        threading.Thread(target=self._read, args=[loop], name="host", daemon=True).start()

    async def aclose(self, others: Callable[[float], Awaitable[None]] | None = None) -> None:
        """See ``Core``."""
        del others
        drain_s = self._config.drain_seconds
        await asyncio.gather(self.live.leave(drain_s), self.models.drain(drain_s))
        await self.models.aclose()
        await self.live.wait_closed(CLOSE_TIMEOUT_S)
        if self.live.recorder:
            await asyncio.to_thread(self.live.recorder.close)
        if self._recordings:
            await asyncio.to_thread(self._recordings.close)
        if traces := self.live.metrics.traces:
            await asyncio.to_thread(traces.close)

    async def _leave_elsewhere(self, token: str, owner: str) -> None:
        await self._channel.ask(LeaveSession(token, owner))

    async def _leave(self, asked: LeaveSession) -> bool:
        return await self.live.resumables.hand_on(asked.token, asked.owner)

    def _drain(self, _drain: Drain) -> None:
        assert self._server
        self._server.should_exit = True

    def _say_ready(self) -> None:
        self._tell(WorkerReady())

    def _lose_engine(self, lost: EngineLost) -> None:
        self._engines[lost.engine].lose(lost.number, lost.fault)

    async def _read_figures(self, _asked: ReadFigures) -> LiveFigures:
        recorder = self.live.recorder
        return self.live.metrics.figures(self._errors, recorder.writer if recorder else None)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass on what the host sends. A worker whose host is gone ends at once."""
        for message in self._incoming:
            loop.call_soon_threadsafe(self._channel.receive, message)
        os._exit(0)

    def _engine(self, model: SharedModel) -> SharedEngine:
        """An engine whose slots are here by now, or come. Blocks."""

        def on_hang(number: int, fault: str) -> None:
            self._tell(EngineHangs(model.engine, number, fault))

        with self._changed:
            self._changed.wait_for(lambda: model.engine in self._slots)
        slots, config = self._slots[model.engine], self._config
        engine = SharedEngine(model.info, config.engine_timeout, slots, config.workers, on_hang)
        self._engines[model.engine] = engine
        return engine

    def _shared(self, models: Sequence[SharedModel]) -> Engine:
        """The engine of a live model: its only one, or a pool of those on its devices. Blocks."""
        return _as_one({model.device or "": self._engine(model) for model in models})

    async def _prepare_engine(self, prepare: PrepareEngine) -> None:
        await asyncio.to_thread(self._engine, prepare.model)

    async def _replace_engine(self, replace: ReplaceEngine) -> int:
        engine = _as_one({one.device or "": await self._linked(one) for one in replace.engines})
        return await self.models.go_on_with(self._service(replace.name), engine)

    async def _join_engine(self, joined: JoinEngine) -> None:
        model, pool = joined.model, self._service(joined.model.name).engine
        engine = await self._linked(model)
        if isinstance(pool, EnginePool) and model.device:
            pool.join(model.device, engine)

    def _withdraw_engine(self, withdrawn: EngineWithdrawn) -> None:
        engine = self._engines[withdrawn.engine]
        used = [service.engine for service in self.models]
        for pool in (one for one in used if isinstance(one, EnginePool)):
            for device in [device for device, one in pool.engines.items() if one is engine]:
                take = partial(_take_out, pool, device)
                threading.Thread(target=take, name="take-out", daemon=True).start()

    async def _linked(self, model: SharedModel) -> SharedEngine:
        engine = self._engines[model.engine]
        await asyncio.to_thread(engine.wait_until_linked, _LINKED_S)
        return engine

    def _service(self, name: str | None) -> Service:
        return self.models.named[name] if name else self.models.default

    def _take_all(self) -> None:
        for label, fd in self._descriptors:
            self._take(label, fd)

    def _take(self, label: str, fd: int) -> None:
        """What the host hands over: slots, a listening socket, or a socket to an engine."""
        match label.split():
            case ["slots", engine]:
                with self._changed:
                    self._slots[int(engine)] = SlotTable(fd, self._member)
                    self._changed.notify_all()
            case ["listen"]:
                self._listening.append(socket.socket(fileno=fd))
            case ["engine", engine, number]:
                self._engines[int(engine)].link(socket.socket(fileno=fd), int(number))


def _as_one(engines: Mapping[str, SharedEngine]) -> Engine:
    """The only engine of a model, which has no device's name, or a pool of those that have one."""
    return engines.get("") or EnginePool(tuple(engines), engines.__getitem__)


def _take_out(pool: EnginePool, device: str) -> None:
    try:
        pool.take_out(device)
    except EngineError as error:  # it has come back meanwhile
        logging.getLogger(__name__).warning("%s", error.message)


async def _pong(_ping: Ping) -> None:
    return None


if __name__ == "__main__":
    run_child(serve)
