"""The Wyoming port: who may connect, its announcement in the network, and an orderly end.

The protocol has no keys: clients are admitted by address. Announced by DNS-SD (zeroconf), the port
is found by Home Assistant.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Self

from voxlive.processes.logs import log_context
from voxlive.web.access.access import Access
from voxlive.web.config import ConfigError, ServeConfig
from voxlive.web.live_models import LiveModels
from voxlive.web.metrics import SessionMetrics
from voxlive.web.ports import CannotListen, Connections, lan_addresses
from voxlive.web.protocols.wyoming import WyomingProtocol
from voxlive.web.protocols.wyoming.connection import MAX_LINE, WyomingConnection
from voxlive.web.recorder import SessionRecorder

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

log = logging.getLogger(__name__)

Network = IPv4Network | IPv6Network

MAX_CONNECTIONS = 256
_SERVICE_TYPE = "_wyoming._tcp.local."
THIS_MACHINE: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
ANYWHERE: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


@dataclass(frozen=True, slots=True)
class WyomingOptions:
    """The networks whose clients may connect, and whether the port is announced."""

    allowed: tuple[Network, ...] = THIS_MACHINE
    announce: bool = False

    @classmethod
    def of(cls, config: ServeConfig, *, keyed: bool) -> Self | None:
        """None where the port is not wanted. Raises ConfigError, CannotListen without zeroconf."""
        if config.wyoming_port is None:
            return None
        if config.zeroconf and find_spec("zeroconf") is None:
            raise CannotListen("--zeroconf needs the package zeroconf: install voxlive[discovery]")
        allowed = tuple(ip_network(text, strict=False) for text in config.wyoming_allow)
        if config.insecure:
            allowed = ANYWHERE
        elif not keyed:
            allowed += THIS_MACHINE
        if not allowed:
            raise ConfigError(
                "Wyoming's clients send no key: say with --wyoming-allow which addresses may use "
                "it",
                "wyoming_port",
            )
        return cls(allowed, config.zeroconf)


class Announcement:
    """Where a bound socket can be reached, until ``stop``. IPv4 only.

    A server that only this machine can reach is announced to this machine only.
    """

    def __init__(self, zeroconf: AsyncZeroconf) -> None:
        self._zeroconf = zeroconf

    @classmethod
    async def start(cls, bound: socket.socket) -> Self:
        """Announce; another server of the same name on this machine gets a number behind it."""
        # An extra: it is not there otherwise.
        from zeroconf import InterfaceChoice
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

        host, port = bound.getsockname()[:2]
        address = ipaddress.ip_address(host.partition("%")[0])
        everywhere = address.is_unspecified
        addresses = lan_addresses() if everywhere else [address]
        hostname = socket.gethostname().partition(".")[0]
        info = AsyncServiceInfo(
            _SERVICE_TYPE,
            f"voxlive on {hostname}.{_SERVICE_TYPE}",
            port=port,
            addresses=[a.packed for a in addresses],
            server=f"{hostname}.local.",
        )
        zeroconf = AsyncZeroconf(interfaces=InterfaceChoice.All if everywhere else [str(address)])
        await zeroconf.async_register_service(info, allow_name_change=True)
        return cls(zeroconf)

    async def stop(self) -> None:
        """Withdraw the announcement."""
        await self._zeroconf.async_unregister_all_services()
        await self._zeroconf.async_close()


class WyomingListener:
    """Every Wyoming connection of a server, which come in on a bound socket; see ``start``."""

    def __init__(
        self,
        models: LiveModels,
        access: Access,
        metrics: SessionMetrics,
        options: WyomingOptions,
        open_connections: Connections,
        recorder: SessionRecorder | None = None,
    ) -> None:
        self._server: asyncio.Server | None = None
        self._announcement: Announcement | None = None
        self._models = models
        self._access = access
        self._metrics = metrics
        metrics.register(WyomingProtocol.name)
        self._options = options
        self._open = open_connections
        self._recorder = recorder
        self._connections: dict[asyncio.Task[None], WyomingConnection] = {}

    @classmethod
    async def start(
        cls,
        bound: socket.socket,
        models: LiveModels,
        access: Access,
        metrics: SessionMetrics,
        options: WyomingOptions,
        open_connections: Connections,
        recorder: SessionRecorder | None = None,
    ) -> Self:
        """Take connections, and announce the port if the options ask for it."""
        listener = cls(models, access, metrics, options, open_connections, recorder)
        listener._server = await asyncio.start_server(listener._accept, sock=bound, limit=MAX_LINE)
        if options.announce:
            listener._announcement = await Announcement.start(bound)
        return listener

    async def refuse(self) -> None:
        """Take no more connections."""
        if self._server:
            self._server.close()
        if self._announcement:
            await self._announcement.stop()

    async def aclose(self, timeout_s: float) -> None:
        """Wait until every open utterance has ended, ``timeout_s`` at most; end all connections."""
        busy = [task for task, connection in self._connections.items() if connection.in_session]
        if busy:
            await asyncio.wait(busy, timeout=timeout_s)
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        full = not self._open.has_room()
        connection = WyomingConnection(
            reader, writer, self._models, self._access, self._metrics, self._recorder
        )
        with log_context(protocol=WyomingProtocol.name):
            task = asyncio.get_running_loop().create_task(self._serve(connection, writer, full))
        self._connections[task] = connection
        self._open.add(task)
        task.add_done_callback(self._connections.pop)
        task.add_done_callback(self._open.remove)

    async def _serve(
        self, connection: WyomingConnection, writer: asyncio.StreamWriter, full: bool
    ) -> None:
        peer = writer.get_extra_info("peername")
        if not peer or not self._is_allowed(peer[0]):
            log.warning("refused a Wyoming client at %s; see --wyoming-allow", peer)
            await connection.refuse("forbidden", "this address is not allowed to connect")
        elif full or len(self._connections) > MAX_CONNECTIONS:
            await connection.refuse("server_full", "too many connections")
        else:
            await connection.run()

    def _is_allowed(self, host: str) -> bool:
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._options.allowed)
