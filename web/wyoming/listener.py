"""The Wyoming port: who may connect, and an orderly end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket

from ...streaming.about import about
from ...streaming.service import Service
from ..access.access import Access
from ..connections import Connections
from ..metrics import Tally
from ..protocols.wyoming import WyomingProtocol
from .connection import Connection
from .options import WyomingOptions
from .wire import MAX_LINE

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256


class WyomingListener:
    """Every Wyoming connection of a server, which come in on a bound socket."""

    def __init__(
        self,
        bound: socket.socket,
        service: Service,
        access: Access,
        tally: Tally,
        options: WyomingOptions,
        open_connections: Connections,
    ) -> None:
        self._bound = bound
        self._service = service
        self._access = access
        self._tally = tally
        tally.expect(WyomingProtocol.name)
        self._options = options
        self._open = open_connections
        self._connections: dict[asyncio.Task[None], Connection] = {}

    async def start(self) -> None:
        """Take connections, and say so in the network if that is wanted."""
        self._server = await asyncio.start_server(self._accept, sock=self._bound, limit=MAX_LINE)
        self._announcement = None
        if self._options.announce:
            # An extra: what it needs is not there otherwise.
            from .announcement import Announcement

            self._announcement = Announcement(self._bound)
            await self._announcement.start()

    async def refuse(self) -> None:
        """Take no more connections."""
        self._server.close()
        if self._announcement:
            await self._announcement.stop()

    async def aclose(self, tell_s: float) -> None:
        """Wait until every connection in an utterance has been told its end, then end them all."""
        busy = [task for task, one in self._connections.items() if one.in_session]
        if busy:
            await asyncio.wait(busy, timeout=tell_s)
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        full = not self._open.has_room()
        connection = Connection(reader, writer, self._service, self._access, self._tally)
        with about(protocol=WyomingProtocol.name):
            task = asyncio.get_running_loop().create_task(self._serve(connection, writer, full))
        self._connections[task] = connection
        self._open.opened(task)
        task.add_done_callback(self._connections.pop)
        task.add_done_callback(self._open.closed)

    async def _serve(
        self, connection: Connection, writer: asyncio.StreamWriter, full: bool
    ) -> None:
        peer = writer.get_extra_info("peername")
        if not peer or not self._admits(peer[0]):
            log.warning("refused a Wyoming client at %s; see --wyoming-allow", peer)
            await connection.refuse("forbidden", "this address is not allowed to connect")
        elif full or len(self._connections) > MAX_CONNECTIONS:
            await connection.refuse("server_full", "too many connections")
        else:
            await connection.run()

    def _admits(self, host: str) -> bool:
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._options.allowed)
