"""The server process: uvicorn on bound sockets, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from voxlive.processes.process import tune_interpreter
from voxlive.runners.batch import Batch, BatchOptions
from voxlive.runners.catalogue import Catalogue
from voxlive.runners.scratch import exit_now
from voxlive.streaming.service import Service
from voxlive.web.access.access import Access
from voxlive.web.access.keys import Key, Limits, redact_logs
from voxlive.web.access.middleware import Authenticator
from voxlive.web.access.sites import Sites, with_cors
from voxlive.web.app import ByPort, RootPath, create_app, only
from voxlive.web.connections import Connections, EdgeConfig, Listener
from voxlive.web.http import HttpConnection, WebSocketConnection
from voxlive.web.live_socket import LiveEndpoints
from voxlive.web.ports import Ports
from voxlive.web.protocols.whisper_live import WhisperLiveProtocol
from voxlive.web.protocols.wyoming.listener import WyomingListener, WyomingOptions
from voxlive.web.rest.files import FileService

MAX_MESSAGE = 24 * 1024 * 1024
_PING_S = 20.0
_DRAIN_S = 10.0
_TELL_S = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """``allow_origins``: other web sites that may connect, "*" for all; ``allow_hosts``: names that
    a server without keys answers to besides its own. ``tls`` None: plain http.

    ``root_path``: the path of a site that a reverse proxy serves this under, as "/path".
    ``trusted_proxies``: addresses and networks whose X-Forwarded-For and -Proto are believed.
    ``keys``: with none of them everyone who can reach the server is let in.
    """

    allow_origins: frozenset[str] = frozenset()
    allow_hosts: frozenset[str] = frozenset()
    tls: ssl.SSLContext | None = None
    root_path: str = ""
    trusted_proxies: str = "127.0.0.1,::1"
    keys: tuple[Key, ...] = ()
    limits: Limits = field(default_factory=Limits)
    wyoming: WyomingOptions | None = None
    batch: BatchOptions = field(default_factory=BatchOptions)


def run(
    ports: Ports,
    service: Service,
    catalogue: Catalogue,
    options: ServerOptions,
    ready: Callable[[], None],
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; ``ready`` is called when connections are taken.

    ``service`` serves live sessions, ``catalogue`` has the models for files.

    At the end sessions are told, drained for up to 10 s and closed with 1012. A second signal
    ends the process at once, with 128 and its number.
    """
    redact_logs()
    sites = Sites(options.allow_origins, None if options.keys else options.allow_hosts)
    gate = Authenticator(Access(options.keys, options.limits), sites)
    live = LiveEndpoints(service, gate)
    batch = Batch(options.batch)
    app: ASGIApp = create_app(service, live, FileService(batch, catalogue))
    if ports.whisper_live:
        theirs = only(WhisperLiveProtocol, live)
        app = ByPort(app, {ports.whisper_live.getsockname()[1]: theirs})
    if options.root_path:
        app = RootPath(app, options.root_path)
    tls = options.tls
    config = EdgeConfig(
        with_cors(app, sites),
        loop="auto",
        http=HttpConnection,
        ws=WebSocketConnection,
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=_PING_S,
        ws_ping_timeout=_PING_S,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=options.trusted_proxies,
        ssl_context_factory=(lambda _config, _default: tls) if tls else None,
        timeout_graceful_shutdown=3,
    )
    config.connections = Connections()
    wyoming = None
    if ports.wyoming and options.wyoming:
        wyoming = WyomingListener(
            ports.wyoming,
            service,
            gate.access,
            live.tally,
            options.wyoming,
            config.connections,
        )
    _Server(config, service, batch, live, wyoming, ready).run(ports.http)


class _Server(uvicorn.Server):
    """Drains the service between the last new connection and the end of the open ones."""

    def __init__(
        self,
        config: EdgeConfig,
        service: Service,
        batch: Batch,
        live: LiveEndpoints,
        wyoming: WyomingListener | None,
        ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._config = config
        self._listeners: list[Listener] = []
        self._service = service
        self._batch = batch
        self._live = live
        self._wyoming = wyoming
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn, which takes no SIGHUP, and raises every signal again when all is done."""
        heeded = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]  # as by nohup
        before = {number: signal.signal(number, self.handle_exit) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """See uvicorn, whose second signal does not end what is being drained."""
        if self.should_exit:
            exit_now(sig)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        for bound in sockets or ():
            listener = Listener(bound, self._config.connections, self._protocol, self._config.ssl)
            self._listeners.append(listener)
        if self._wyoming:
            await self._wyoming.start()
        tune_interpreter()
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.gather(*(listener.aclose() for listener in self._listeners))
        if self._wyoming:
            await self._wyoming.refuse()
        await asyncio.gather(self._service.aclose(_DRAIN_S), self._batch.aclose())
        await self._live.settle(_TELL_S)
        if self._wyoming:
            await self._wyoming.aclose(_TELL_S)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        """What serves a new connection."""
        return HttpConnection(self._config, self.server_state, self.lifespan.state)
