"""Where other machines and phones reach this one."""

from __future__ import annotations

import ipaddress
import socket

import psutil


def lan_addresses() -> list[ipaddress.IPv4Address]:
    """This machine's IPv4 addresses in its networks.

    IPv6 ones are left out: for privacy they change daily, and each change is a new certificate.
    """
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = [
        ipaddress.IPv4Address(address.address)
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if name in up and address.family == socket.AF_INET
    ]
    return sorted({a for a in found if not a.is_loopback and not a.is_link_local})


def urls_elsewhere(bound: socket.socket, scheme: str) -> list[str]:
    """The addresses to open in a browser on other machines in the same networks."""
    host, port = bound.getsockname()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_loopback:
        return []
    reached = lan_addresses() if address.is_unspecified else [address]
    return [f"{scheme}://{f'[{a}]' if a.version == 6 else a}:{port}" for a in reached]
