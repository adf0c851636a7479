"""Announcing the Wyoming port in the network, for Home Assistant to find it."""

from __future__ import annotations

import ipaddress
import socket

from zeroconf import InterfaceChoice
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from ..addresses import lan_addresses

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
