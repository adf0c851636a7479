"""Who may use the Wyoming port, and whether it is announced."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network

THIS_MACHINE: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
ANYWHERE: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


@dataclass(frozen=True, slots=True)
class WyomingOptions:
    """The protocol has no keys: its clients are known by their address alone."""

    allowed: tuple[Network, ...] = THIS_MACHINE
    announce: bool = False
