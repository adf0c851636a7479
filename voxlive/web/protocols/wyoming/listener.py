"""Who may use the Wyoming port, and whether it is announced.

Announcing the Wyoming port in the network, for Home Assistant to find it.

The Wyoming port: who may connect, and an orderly end.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from zeroconf import InterfaceChoice
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from voxlive.processes.logs import log_context
from voxlive.streaming.service import Service
from voxlive.web.access.access import Access
from voxlive.web.connections import Connections
from voxlive.web.metrics import Tally
from voxlive.web.ports import lan_addresses
from voxlive.web.protocols.wyoming.connection import MAX_LINE, WyomingConnection
from voxlive.web.protocols.wyoming.protocol import WyomingProtocol

Network = IPv4Network | IPv6Network

THIS_MACHINE: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
ANYWHERE: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


@dataclass(frozen=True, slots=True)
class WyomingOptions:
    """The protocol has no keys: its clients are known by their address alone."""

    allowed: tuple[Network, ...] = THIS_MACHINE
    announce: bool = False


_TYPE = "_wyoming._tcp.local."


class Announcement:
    """Where a bound socket can be reached, from ``start`` to ``stop``. IPv4 only.

    A server that only this machine can reach is announced to this machine only.
    """

    def __init__(self, bound: socket.socket) -> None:
        host, port = bound.getsockname()[:2]
        address = ipaddress.ip_address(host.partition("%")[0])
        everywhere = address.is_unspecified
        reached = lan_addresses() if everywhere else [address]
        here = socket.gethostname().partition(".")[0]
        self._interfaces = InterfaceChoice.All if everywhere else [str(address)]
        self._info = AsyncServiceInfo(
            _TYPE,
            f"voxlive on {here}.{_TYPE}",
            port=port,
            addresses=[one.packed for one in reached],
            server=f"{here}.local.",
        )

    async def start(self) -> None:
        """Announce; another server of the same name on this machine gets a number behind it."""
        self._zeroconf = AsyncZeroconf(interfaces=self._interfaces)
        await self._zeroconf.async_register_service(self._info, allow_name_change=True)

    async def stop(self) -> None:
        """Say goodbye."""
        await self._zeroconf.async_unregister_all_services()
        await self._zeroconf.async_close()


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
        self._connections: dict[asyncio.Task[None], WyomingConnection] = {}

    async def start(self) -> None:
        """Take connections, and say so in the network if that is wanted."""
        self._server = await asyncio.start_server(self._accept, sock=self._bound, limit=MAX_LINE)
        self._announcement = None
        if self._options.announce:
            # An extra: what it needs is not there otherwise.

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
        connection = WyomingConnection(reader, writer, self._service, self._access, self._tally)
        with log_context(protocol=WyomingProtocol.name):
            task = asyncio.get_running_loop().create_task(self._serve(connection, writer, full))
        self._connections[task] = connection
        self._open.opened(task)
        task.add_done_callback(self._connections.pop)
        task.add_done_callback(self._open.closed)

    async def _serve(
        self, connection: WyomingConnection, writer: asyncio.StreamWriter, full: bool
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
