"""The application: every route of the server in one table, under any path, in any server.

    app = Starlette(routes=[Mount("/speech", voxlive.create_app(model="voxtral"))])

Protocols with a port of their own have an application each, where every path is theirs.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxlive.checkpoints.resolve import resolve
from voxlive.engines.registry import load_apart
from voxlive.errors import VoxliveError
from voxlive.processes.logs import log_context
from voxlive.runners.batch import Batch, BatchOptions
from voxlive.runners.catalogue import Catalogue, make_catalogue
from voxlive.streaming.replacements import Replacements
from voxlive.streaming.service import Service
from voxlive.vad.detector import Silero, VoiceDetector
from voxlive.web.access.access import Access
from voxlive.web.access.keys import Key, keys_of, redact_logs
from voxlive.web.access.middleware import Authenticator, AuthMiddleware, rule_of
from voxlive.web.access.sites import Sites, own_names, with_cors
from voxlive.web.captions import CaptionEndpoints
from voxlive.web.config import ServeConfig
from voxlive.web.errors import on_client_gone, on_crash, on_http_error
from voxlive.web.live_socket import LiveEndpoints
from voxlive.web.metrics import (
    MetricsEndpoint,
    RequestCountMiddleware,
    RequestCounts,
    ServerCollector,
)
from voxlive.web.pages import Pages
from voxlive.web.protocols import PROTOCOLS
from voxlive.web.protocols.contract import Protocol
from voxlive.web.rest.chat import Chat
from voxlive.web.rest.files import FileService
from voxlive.web.rest.grants import ClientSecrets, Grants
from voxlive.web.rest.health import HealthEndpoints, Models
from voxlive.web.rest.listen import Listen
from voxlive.web.rest.transcriptions import Transcriptions

log = logging.getLogger(__name__)


class RootPath:
    """An application under a path, whether or not the proxy takes the path off.

    ``prefix`` is in the form "/path". The path alone is sent on to "/path/": the page's own URLs
    are relative.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the path back where the proxy has taken it off."""
        prefix, path = self._prefix, scope["path"]
        if scope["type"] == "http" and path == prefix:
            query = scope["query_string"].decode("latin-1")
            answer = RedirectResponse(f"{prefix}/{query and '?'}{query}")
            return await answer(scope, receive, send)
        if not path.startswith(f"{prefix}/"):
            path = prefix + path
        return await self._app({**scope, "root_path": prefix, "path": path}, receive, send)


def clean(path: str) -> str:
    """A root path as it was typed, in the form "/path"; "" for none."""
    path = path.strip("/")
    return f"/{path}" if path else ""


_OWN_PORT_HEADERS = {"upgrade": "websocket", "connection": "Upgrade"}


class ByPort:
    """Hands a connection to the application of the local port that it came in on."""

    def __init__(self, main: ASGIApp, others: Mapping[int, ASGIApp]) -> None:
        self._main = main
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        app = self._others.get(scope["server"][1], self._main)
        await app(scope, receive, send)


def only(protocol: type[Protocol], live: LiveEndpoints) -> ASGIApp:
    """An application that speaks one protocol over WebSocket, whatever the path."""

    async def upgrade(_request: Request) -> PlainTextResponse:
        return PlainTextResponse(
            "this port is for WebSocket clients alone\n", 426, _OWN_PORT_HEADERS
        )

    anywhere = "/{path:path}"
    return Starlette(
        routes=[WebSocketRoute(anywhere, live.endpoint(protocol)), Route(anywhere, upgrade)]
    )


def make_app(service: Service, live: LiveEndpoints, files: FileService) -> Starlette:
    """The ASGI application around a service, whose life is the caller's matter."""
    models = Models(files)
    pages = Pages()
    captions = CaptionEndpoints(live.feeds, pages)
    access = live.gate.access
    grants = Grants(access)
    health = HealthEndpoints(service, files)
    routes: list[BaseRoute] = [
        Route("/", pages.index),
        Route("/health", health.get),
        Route("/health/live", health.live),
        Route("/health/ready", health.get),
        Route("/v1/models", models.index),
        Route("/v1/models/{name:path}", models.get),
        Route("/v1/audio/transcriptions", Transcriptions(files).post, methods=["POST"]),
        Route("/v1/audio/translations", Transcriptions(files, "translate").post, methods=["POST"]),
        Route("/v1/chat/completions", Chat(files).post, methods=["POST"]),
        Route("/v1/realtime/client_secrets", ClientSecrets(service, access).post, methods=["POST"]),
        Route("/v1/auth/grant", grants.deepgram, methods=["POST"]),
        Route("/v1/client/sessions", grants.mistral, methods=["POST"]),
        Route("/v1/listen", Listen(files).post, methods=["POST"]),
        Route("/captions", captions.index),
        Route("/captions/{session}", captions.follow),
        Route("/overlay/{session}", captions.overlay),
        *(WebSocketRoute(path, live.endpoint(protocol)) for path, protocol in PROTOCOLS.items()),
        Mount("/static", pages),
    ]
    requests = RequestCounts(routes)
    state = ServerCollector(service.engine, live.metrics, live.feeds, access, files, requests)
    routes.append(Route("/metrics", MetricsEndpoint(state).get))

    async def on_refusal(request: Request, error: Exception) -> Response:
        assert isinstance(error, VoxliveError)
        path, root = request.scope["path"], request.scope.get("root_path", "")
        place, rule = rule_of(path.removeprefix(root))
        access.note(error.code, place)
        return rule.answer(error)

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(_CommonHeaders),
            Middleware(RequestCountMiddleware, requests=requests),
            Middleware(AuthMiddleware, gate=live.gate),
        ],
        exception_handlers={
            VoxliveError: on_refusal,
            HTTPException: on_http_error,
            ClientDisconnect: on_client_gone,
            Exception: on_crash,
        },
    )
    app.router.redirect_slashes = False
    app.router.default = _OtherSlash(routes, app.router.not_found)
    return app


class _OtherSlash:
    """Where nothing is at a path, but at the same with or without a slash at its end: go there.

    The answer names the path alone: Starlette's own has whatever Host the request said.
    """

    def __init__(self, routes: Sequence[BaseRoute], otherwise: ASGIApp) -> None:
        self._routes = routes
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        # Two slashes at the beginning would name a host.
        other = "/" + (path.rstrip("/") if path.endswith("/") else f"{path}/").lstrip("/")
        there = {**scope, "path": other}
        if scope["type"] != "http" or not any(
            route.matches(there)[0] is not Match.NONE for route in self._routes
        ):
            return await self._otherwise(scope, receive, send)
        query = scope["query_string"].decode("latin-1")
        answer = RedirectResponse(f"{quote(other)}{query and '?'}{query}")
        return await answer(scope, receive, send)


class _CommonHeaders:
    """A request id on every HTTP answer and in its log, and no guessing of content types."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request = f"req_{secrets.token_hex(12)}"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        with log_context(request=request):
            await self._app(scope, receive, send_with_headers)
        return None


DRAIN_S = 10.0
"""How long sessions have at the end for their last words."""
TELL_S = 2.0
"""How long connections have then for their last message and the close."""


@dataclass(frozen=True, slots=True)
class Served:
    """All of one server but its sockets. ``app`` has neither a root path nor CORS headers yet."""

    app: ASGIApp
    sites: Sites
    service: Service
    live: LiveEndpoints
    batch: Batch

    @classmethod
    def load(cls, config: ServeConfig, keys: tuple[Key, ...]) -> Served:
        """With its models. Blocks until the engine is warm.

        Raises EngineError, CheckpointError, VadError and BadReplacement.
        """
        redact_logs()
        dictionary = Replacements.read(config.replacements) if config.replacements else None
        offline = config.offline
        model = resolve(config.model, offline=offline)
        for_files = model
        if not config.one_model:
            for_files = resolve(config.file_model or config.model, offline=offline)
        catalogue = make_catalogue(for_files, config.also, config.load, offline=offline)
        with ExitStack() as undo:
            engine = load_apart(model, config.engine)
            undo.callback(engine.shutdown)
            service = Service(engine, VoiceDetector(Silero()), dictionary)
            undo.pop_all()
        if config.one_model:
            catalogue.add_aliases(engine.info.model)
        return cls.around(service, catalogue, config, keys)

    @classmethod
    def around(
        cls, service: Service, catalogue: Catalogue, config: ServeConfig, keys: tuple[Key, ...]
    ) -> Served:
        """With models that are loaded already."""
        hosts = None if keys else frozenset(config.allow_host) | own_names(config.host)
        sites = Sites(config.allow_origin, hosts)
        live = LiveEndpoints(service, Authenticator(Access(keys, config.limits), sites))
        batch = Batch(BatchOptions(idle_s=config.model_idle, max_resident=config.max_resident))
        app = make_app(service, live, FileService(batch, catalogue))
        return cls(app, sites, service, live, batch)

    async def aclose(self) -> None:
        """Tell all sessions, let them finish for up to ``DRAIN_S``, and free the models."""
        await asyncio.gather(self.service.aclose(DRAIN_S), self.batch.aclose())
        await self.live.settle(TELL_S)


class Application:
    """An ASGI application with models of its own, for another one or for any server.

    Its models are loaded when the server begins, by ``lifespan`` or by the protocol of that name,
    or else with the first request; they are freed, and sessions are ended, when the server ends.
    What listens, and TLS, are the server's matter: options about those have no effect here.
    """

    def __init__(self, config: ServeConfig, keys: tuple[Key, ...]) -> None:
        self._config = config
        self._keys = keys
        self._served: Served | None = None
        self._app: ASGIApp | None = None
        self._loading = asyncio.Lock()
        self._by_protocol = Router(lifespan=self.lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            return await self._by_protocol(scope, receive, send)
        app = self._app or await self._load()
        return await app(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, _host: object = None) -> AsyncIterator[None]:
        """From loaded to freed: ``Starlette(routes=[Mount(...)], lifespan=speech.lifespan)``.

        An application that is mounted is told of neither by Starlette itself.
        """
        await self._load()
        try:
            yield
        finally:
            served, self._served, self._app = self._served, None, None
            if served:
                await served.aclose()

    async def _load(self) -> ASGIApp:
        async with self._loading:
            if self._app is None:
                served = await asyncio.to_thread(Served.load, self._config, self._keys)
                self._served, self._app = served, with_cors(served.app, served.sites)
            return self._app


def create_app(config: ServeConfig | None = None, *, model: str | None = None) -> Application:
    """What ``voxlive serve`` serves, as an application to be mounted in another one.

    ``model``: instead of the one in ``config``. Without keys in ``config`` whoever reaches the
    server is let in, by the names in ``allow_host``, localhost and the server's own addresses.
    Raises BadKey for keys that cannot be in force.
    """
    chosen = (config or ServeConfig()).with_model(model)
    keys = keys_of(chosen.api_key, chosen.api_key_file, chosen.keys, log.warning)
    return Application(chosen, keys)
