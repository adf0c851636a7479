"""The application: every route of the server in one table."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..streaming.about import about
from ..streaming.service import Service
from .captions import Captions
from .endpoints import LiveEndpoints
from .errors import ApiError, on_api_error, on_client_gone, on_crash, on_http_error
from .gate import HttpGate, rule_of
from .metrics import CountRequests, Metrics, Requests, State
from .pages import Pages
from .protocols import PROTOCOLS
from .rest.chat import Chat
from .rest.client_secrets import ClientSecrets
from .rest.files import Files
from .rest.grants import Grants
from .rest.health import Health
from .rest.listen import Listen
from .rest.models import Models
from .rest.transcriptions import Transcriptions


def create_app(service: Service, live: LiveEndpoints, files: Files) -> Starlette:
    """The ASGI application around a service, whose life is the caller's matter."""
    models = Models(files)
    pages = Pages()
    captions = Captions(live.feeds, pages)
    access = live.gate.access
    grants = Grants(access)
    health = Health(service, files)
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
    state = State(service.engine, live.tally, live.feeds, access, files, requests)
    routes.append(Route("/metrics", Metrics(state).get))

    async def on_refusal(request: Request, error: Exception) -> Response:
        if isinstance(error, ApiError):
            path, root = request.scope["path"], request.scope.get("root_path", "")
            access.note(error.code, rule_of(path.removeprefix(root))[0])
        return await on_api_error(request, error)

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(_CommonHeaders),
            Middleware(CountRequests, requests=requests),
            Middleware(HttpGate, gate=live.gate),
        ],
        exception_handlers={
            ApiError: on_refusal,
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

        with about(request=request):
            await self._app(scope, receive, send_with_headers)
        return None
