"""Serving under a path of a site: ``https://site/voxlive/`` through a reverse proxy.

Protocols that have a port of their own, where every path is theirs.

The application: every route of the server in one table.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxlive.errors import VoxliveError
from voxlive.processes.logs import log_context
from voxlive.streaming.service import Service
from voxlive.web.access.middleware import AuthMiddleware, rule_of
from voxlive.web.captions import CaptionEndpoints
from voxlive.web.errors import on_client_gone, on_crash, on_http_error
from voxlive.web.live_socket import LiveEndpoints
from voxlive.web.metrics import CountRequests, Metrics, Requests, ServerCollector
from voxlive.web.pages import Pages
from voxlive.web.protocols import PROTOCOLS
from voxlive.web.protocols.contract import Protocol
from voxlive.web.rest.chat import Chat
from voxlive.web.rest.files import FileService
from voxlive.web.rest.grants import ClientSecrets, Grants
from voxlive.web.rest.health import HealthEndpoints, Models
from voxlive.web.rest.listen import Listen
from voxlive.web.rest.transcriptions import Transcriptions


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


def create_app(service: Service, live: LiveEndpoints, files: FileService) -> Starlette:
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
    requests = Requests(routes)
    state = ServerCollector(service.engine, live.tally, live.feeds, access, files, requests)
    routes.append(Route("/metrics", Metrics(state).get))

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
            Middleware(CountRequests, requests=requests),
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
