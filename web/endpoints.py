"""The WebSocket endpoints: who may connect, and which connections are still being told things."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from starlette.websockets import WebSocket

from ..streaming.about import about
from ..streaming.service import Service
from .access.access import Access
from .access.credentials import find
from .access.refusal import Refusal
from .captions.feed import Feeds
from .errors import ApiError, envelope
from .gate import Gate, address
from .live_socket import LiveSocket
from .metrics import Tally
from .protocols.contract import Protocol


class LiveEndpoints:
    """Every live connection of a server. Unless a gate is given, everyone is let in."""

    def __init__(self, service: Service, gate: Gate | None = None) -> None:
        self._service = service
        self.gate = gate or Gate(Access())
        self.feeds = Feeds()
        self.tally = Tally(self.gate.access.note)
        self._sockets: dict[asyncio.Task[Any] | None, LiveSocket] = {}

    def endpoint(self, protocol: type[Protocol]) -> Callable[[WebSocket], Awaitable[None]]:
        """The endpoint for one wire format."""
        for name in protocol.names or (protocol.name,):
            self.tally.expect(name)

        async def serve(socket: WebSocket) -> None:
            try:
                self.gate.check_site(socket.scope)
            except ApiError as error:
                self.gate.access.note(error.code, protocol.name)
                await socket.send_denial_response(envelope(error))
                return
            with ExitStack() as held, about(protocol=protocol.name):
                await self._serve(socket, protocol, held)

        return serve

    async def _serve(self, socket: WebSocket, protocol: type[Protocol], held: ExitStack) -> None:
        query = socket.query_params
        presented = find(
            socket.headers,
            socket.scope["subprotocols"],
            query,
            extra_headers=protocol.key_headers,
            key_params=protocol.key_params,
        )
        speaks = protocol(query, self._service.engine.info)
        live = LiveSocket(socket, self._service, speaks, self.feeds, self.tally, presented.labels)
        try:
            grant = self.gate.access.admit(presented.secret, "live", address(socket))
            held.enter_context(grant.session())
            held.enter_context(self.feeds.claimed(query.get("captions"), grant.name))
        except Refusal as refusal:
            await self.gate.refused(refusal, speaks.name)
            await live.refuse(refusal)
            return
        speaks.preset(grant.settings)
        task = asyncio.current_task()
        self._sockets[task] = live
        held.callback(self._sockets.pop, task)
        await live.run(grant.limits, grant.name)
        if live.failure:
            self.gate.access.note(live.failure, speaks.name)

    async def settle(self, timeout_s: float) -> None:
        """Wait until every connection with a session has been told its end."""
        tasks = [task for task, live in self._sockets.items() if task and live.in_session]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
