"""HTTP requests by route and status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ELSEWHERE = "elsewhere"


class Requests:
    """Counts by the route's own path, never by what a client wrote in its place."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()
        self._routes = [route for route in routes if isinstance(route, Route | Mount)]

    def count(self, scope: Scope, status: int) -> None:
        """One more was answered."""
        matching = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
        route = next(matching, None)
        self.counts[route.path if route else _ELSEWHERE, status] += 1


class CountRequests:
    """An application whose answers are counted."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._requests.count(scope, message["status"])
            await send(message)

        await self._app(scope, receive, send_counted if scope["type"] == "http" else send)
