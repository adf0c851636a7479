"""The server process: uvicorn on bound sockets, from loading the models to a graceful shutdown.

On SIGINT, SIGTERM or SIGHUP it accepts no more, drains the live sessions and closes them. A wire
format with a port of its own has an application of its own, which serves it at every path.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import socket
import ssl
import threading
import webbrowser
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from voxlive.processes.process import handling_ending_signals, tune_interpreter
from voxlive.runners.scratch import exit_now
from voxlive.web.access.keys import generate_secret, load_keys
from voxlive.web.access.sites import with_cors
from voxlive.web.app import (
    RootPathMiddleware,
    ServerCore,
    normalize_root_path,
)
from voxlive.web.config import ServeConfig
from voxlive.web.http import HttpConnection, WebSocketConnection
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels
from voxlive.web.ports import (
    Connections,
    Listener,
    Ports,
    UvicornConfig,
    check_exposure,
    is_loopback,
    network_urls,
    open_ports,
    url,
)
from voxlive.web.protocols.contract import Protocol as WireFormat
from voxlive.web.protocols.whisper_live import WhisperLiveProtocol
from voxlive.web.protocols.wyoming.listener import WyomingListener, WyomingOptions
from voxlive.web.recorder import Recorder

if TYPE_CHECKING:
    from voxlive.web.workers.host import Workers

log = logging.getLogger(__name__)

MAX_MESSAGE = 24 * 1024 * 1024
"""Bytes of one WebSocket message, whatever its wire format."""
_PING_S = 20.0

Report = Callable[[str], object]


def serve(
    config: ServeConfig | None = None,
    *,
    model: str | None = None,
    on_ready: Callable[[str], object] | None = None,
    on_info: Report = log.info,
    on_warning: Report = log.warning,
) -> None:
    """Serve as ``voxlive serve`` does, until SIGINT, SIGTERM or SIGHUP. For the main thread.

    ``model``: instead of the one in ``config``. ``on_ready`` is called with the server's URL when
    connections are accepted, ``on_info`` with each line about what is served and where, and
    ``on_warning`` with warnings.

    At the end sessions are notified, drained for ``drain_seconds`` at most and closed with 1012. A
    second signal ends the process at once, with 128 plus its number.

    Raises ConfigError, TlsError, CannotListen for an address that cannot be bound, and what loading
    the models raises: EngineError, CheckpointError, VadError; StoreError for a store that cannot be
    used.
    """
    secret = generate_secret()
    chosen = (config or ServeConfig()).with_model(model).for_phones(secret)
    tls = tls_context(chosen, on_info, on_warning)
    keys = load_keys(chosen.api_key, chosen.api_key_file, chosen.keys, on_warning)
    wyoming = WyomingOptions.of(chosen, keyed=bool(keys))
    with open_ports(
        chosen.host,
        chosen.port,
        chosen.whisper_live_port,
        chosen.wyoming_port,
        shared=chosen.workers > 1,
    ) as ports:
        check_exposure(
            chosen.host,
            ports.main,
            keyed=bool(keys),
            insecure=chosen.insecure,
            on_warning=on_warning,
        )
        recorder = Recorder.of(chosen, loopback=is_loopback(ports.main), on_warning=on_warning)
        core = ServerCore.load(chosen, keys, recorder)

        def ready() -> None:
            if recorder:
                on_info(f"{recorder} (--no-store: not at all)")
            for line in startup_lines(core.models, ports, chosen, tls=tls is not None):
                on_info(line)
            if chosen.phone:
                key = None if chosen.insecure else secret
                on_info(phone_invitation(network_urls(ports.main, "https"), key))
            if chosen.open:
                show_page(url(ports.main, "https" if tls else "http"), on_warning)
            if on_ready:
                on_ready(url(ports.main, "https" if tls else "http"))

        _run(ports, core, chosen, tls, wyoming, ready)


def tls_context(
    config: ServeConfig, on_info: Report = log.debug, on_warning: Report = log.debug
) -> ssl.SSLContext | None:
    """The context of a server with https."""
    if not (config.https or config.ssl_certfile):
        return None
    # Imported here: cryptography takes a while, and most servers have no certificate.
    from voxlive.web.tls import server_context

    return server_context(config, on_info, on_warning)


def startup_lines(models: LiveModels, ports: Ports, config: ServeConfig, *, tls: bool) -> list[str]:
    """What is served and at which addresses, a line each."""
    lines: list[str] = []
    for label, service in models.labels.items():
        info = service.engine.info
        title = info.model if service is models.default else f"{label}: {info.model}"
        sessions = "1 session" if info.capacity == 1 else f"{info.capacity} sessions"
        lines.append(f"{title} on {info.device}, {sessions} at a time")
        lines += filter(None, (info.weights, info.note))
    if config.record:
        lines.append(f"every live session is recorded in {config.record}")
    if ports.whisper_live:
        lines.append(f"WhisperLive's clients at {url(ports.whisper_live, 'wss' if tls else 'ws')}")
    if ports.wyoming:
        lines.append(f"Wyoming's clients at {url(ports.wyoming, 'tcp')}")
    if config.workers > 1:
        lines.append(f"{config.workers} processes accept connections")
    scheme = "https" if tls else "http"
    lines.append(f"ready at {url(ports.main, scheme)}")
    lines += [
        f"on other machines and phones: {elsewhere}"
        for elsewhere in network_urls(ports.main, scheme)
    ]
    if config.https and is_loopback(ports.main):
        lines.append("for other machines and phones: --host 0.0.0.0")
    return lines


def phone_invitation(addresses: list[str], key: str | None) -> str:
    """The address for a phone's camera, on several lines; browsers send nothing behind its #."""
    if not addresses:
        return "for phones: this machine has no address in a network"
    import segno

    address = f"{addresses[0]}/{f'#key={key}' if key else ''}"
    code = io.StringIO()
    segno.make(address, micro=False, error="l").terminal(code, compact=True, border=2)
    trust = "the phone asks once whether to trust the certificate"
    return f"for a phone in this network ({trust}):\n\n{code.getvalue()}\n{address}"


def show_page(address: str, on_warning: Report) -> None:
    """Open it in the user's browser. Returns at once: some browsers take a while."""

    def show() -> None:
        if not webbrowser.open(address):
            on_warning(f"no browser was found on this machine: open {address}")

    threading.Thread(target=show, name="browser", daemon=True).start()


def _run(
    ports: Ports,
    core: ServerCore,
    config: ServeConfig,
    tls: ssl.SSLContext | None,
    wyoming: WyomingOptions | None,
    ready: Callable[[], None],
) -> None:
    live, wrapped = core.live, with_cors(_outer(core, ports, config), core.sites)
    uvicorn_config = connection_config(wrapped, config, tls)

    async def listen_wyoming() -> WyomingListener | None:
        if not ports.wyoming or not wyoming:
            return None
        return await WyomingListener.start(
            ports.wyoming,
            core.models,
            live.authenticator.access,
            live.metrics,
            wyoming,
            uvicorn_config.connections,
            live.recorder,
        )

    workers = None
    if config.workers > 1:
        from voxlive.web.workers.host import Workers

        workers = Workers(wrapped, core, config, ports)
    server = Server(uvicorn_config, core, ready, listen_wyoming, workers)
    server.run([] if workers else ports.http)
    if workers and workers.failure:
        raise workers.failure


def _outer(core: ServerCore, ports: Ports, config: ServeConfig) -> ASGIApp:
    bound = ports.whisper_live
    return outer_app(core.app, core.live, bound.getsockname()[1] if bound else None, config)


def outer_app(
    app: ASGIApp, live: LiveEndpoints, whisper_live: int | None, config: ServeConfig
) -> ASGIApp:
    """An application at all ports, of which WhisperLive's clients have ``whisper_live``."""
    if whisper_live is not None:
        app = PortRouter(app, {whisper_live: protocol_app(WhisperLiveProtocol, live)})
    if root_path := normalize_root_path(config.root_path):
        app = RootPathMiddleware(app, root_path)
    return app


def connection_config(
    app: ASGIApp, config: ServeConfig, tls: ssl.SSLContext | None
) -> UvicornConfig:
    """How this process serves connections."""
    uvicorn_config = UvicornConfig(
        app,
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
        forwarded_allow_ips=config.forwarded_allow_ips,
        ssl_context_factory=(lambda _config, _default: tls) if tls else None,
        timeout_graceful_shutdown=3,
    )
    uvicorn_config.connections = Connections()
    return uvicorn_config


class Core(Protocol):
    """What is served, whatever the sockets."""

    def start(self) -> None:
        """Begin what goes on in the background, on the running loop."""
        ...

    async def aclose(self, others: Callable[[float], Awaitable[None]] | None = None) -> None:
        """End all sessions, then ``others`` in so many seconds, and free everything."""
        ...


async def _no_wyoming() -> None:
    return None


class Server(uvicorn.Server):
    """Drains the service between the last new connection and the end of the open ones.

    ``workers`` are other processes that have the connections of HTTP and WebSocket.
    """

    def __init__(
        self,
        config: UvicornConfig,
        core: Core,
        ready: Callable[[], None],
        listen_wyoming: Callable[[], Awaitable[WyomingListener | None]] = _no_wyoming,
        workers: Workers | None = None,
    ) -> None:
        super().__init__(config)
        self._config = config
        self._listeners: list[Listener] = []
        self._core = core
        self._listen_wyoming = listen_wyoming
        self._wyoming: WyomingListener | None = None
        self._ready = ready
        self._workers = workers

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGHUP too, and raise no signal again at the end, which uvicorn does."""
        with handling_ending_signals(self.handle_exit):
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Shut down; at the second signal exit at once, while uvicorn would go on draining."""
        if self.should_exit:
            exit_now(sig)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on bound sockets, have the workers do so, and say that it is ready."""
        await super().startup([])
        for bound in sockets or ():
            listener = Listener(bound, self._config.connections, self._protocol, self._config.ssl)
            self._listeners.append(listener)
        self._wyoming = await self._listen_wyoming()
        tune_interpreter()
        self._core.start()
        if self._workers and not await self._workers.start():
            self.should_exit = True
        else:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, end the sessions, then everything else."""
        await asyncio.gather(*(listener.aclose() for listener in self._listeners))
        if self._wyoming:
            await self._wyoming.refuse()
        if self._workers:
            await self._workers.drain()
        await self._core.aclose(self._wyoming.aclose if self._wyoming else None)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return HttpConnection(self._config, self.server_state, self.lifespan.state)


class PortRouter:
    """Passes a connection to the application of the local port that it came in on."""

    def __init__(self, main: ASGIApp, others: Mapping[int, ASGIApp]) -> None:
        self._main = main
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection by the application of its port, or the main one."""
        app = self._others.get(scope["server"][1], self._main)
        await app(scope, receive, send)


_UPGRADE_HEADERS = {"upgrade": "websocket", "connection": "Upgrade"}


def protocol_app(protocol: type[WireFormat], live: LiveEndpoints) -> ASGIApp:
    """An application that serves one wire format over WebSocket, at every path."""

    async def upgrade(_request: Request) -> PlainTextResponse:
        return PlainTextResponse(
            "this port is for WebSocket clients alone\n", 426, _UPGRADE_HEADERS
        )

    any_path = "/{path:path}"
    return Starlette(
        routes=[WebSocketRoute(any_path, live.endpoint(protocol)), Route(any_path, upgrade)]
    )
