"""Wrong keys: how many an address may try. Pure: times are handed in."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

from .bucket import TokenBucket

AT_ONCE, PER_MINUTE = 20, 20.0
MAX_ADDRESSES = 10_000
"""Those that were last heard of; who is forgotten begins anew."""


class WrongKeys:
    """A token bucket for each address; for IPv6 each network of 64 bits, which one client has."""

    def __init__(self, most: int = MAX_ADDRESSES) -> None:
        self._most = most
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def wait_s(self, address: str, now: float) -> float:
        """Count a wrong key: 0, or how long to wait before the next one is looked at."""
        name = _network(address)
        bucket = self._buckets.setdefault(name, TokenBucket(PER_MINUTE, AT_ONCE))
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        wait_s = bucket.wait_s(now)
        if wait_s <= 0:
            bucket.take(now)
        return wait_s


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if parsed.version == 6 and not parsed.ipv4_mapped:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
