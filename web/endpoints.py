"""The WebSocket endpoints: who may connect, and which connections are still being told things."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.websockets import WebSocket

from ..streaming.service import Service
from .captions.feed import Feeds
from .live_socket import LiveSocket
from .protocols.contract import Protocol

log = logging.getLogger(__name__)


class LiveEndpoints:
    """Every live connection of a server. ``allow_origins``: other sites let in; "*" is all."""

    def __init__(self, service: Service, allow_origins: Collection[str] = ()) -> None:
        self._service = service
        self._allow_origins = allow_origins
        self.feeds = Feeds()
        self._sockets: dict[asyncio.Task[Any] | None, LiveSocket] = {}

    def endpoint(self, protocol: type[Protocol]) -> Callable[[WebSocket], Awaitable[None]]:
        """The endpoint for one wire format."""

        async def serve(socket: WebSocket) -> None:
            if not _same_site(socket.headers, self._allow_origins):
                log.warning("refused a page of %r; see --allow-origin", socket.headers["origin"])
                await socket.close()
                return
            info = self._service.engine.info
            speaks = protocol(socket.query_params, info)
            live = LiveSocket(socket, self._service, speaks, self.feeds)
            task = asyncio.current_task()
            self._sockets[task] = live
            try:
                await live.run()
            finally:
                del self._sockets[task]

        return serve

    async def settle(self, timeout_s: float) -> None:
        """Wait until every connection with a session has been told its end."""
        tasks = [task for task, live in self._sockets.items() if task and live.in_session]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)


def _same_site(headers: Headers, allowed: Collection[str]) -> bool:
    """A page may only connect to its own server, unless its origin is allowed.

    Browsers send an Origin with every WebSocket and let any page open one anywhere; programs send
    none.
    """
    origin = headers.get("origin")
    if origin is None or "*" in allowed or origin.lower() in allowed:
        return True
    host = urlsplit(origin).netloc.lower()
    return bool(host) and host == headers.get("host", "").lower()
