"""Protocols that have a port of their own, where every path is theirs."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from .endpoints import LiveEndpoints
from .protocols.contract import Protocol

_HEADERS = {"upgrade": "websocket", "connection": "Upgrade"}


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
        return PlainTextResponse("this port is for WebSocket clients alone\n", 426, _HEADERS)

    anywhere = "/{path:path}"
    return Starlette(
        routes=[WebSocketRoute(anywhere, live.endpoint(protocol)), Route(anywhere, upgrade)]
    )
