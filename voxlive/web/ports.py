"""The addresses that a server listens on, and those at which other machines reach it.

Sockets are bound before anything slow is done, so that a port in use is an error at once.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil

from voxlive.errors import CodedError
from voxlive.web.config import ConfigError

_UNACKNOWLEDGED_MS = 60_000


class CannotListen(CodedError):
    """An address cannot be bound. The message says why and what to change."""

    code = "cannot_listen"


@dataclass(frozen=True, slots=True)
class Ports:
    """Bound sockets: ``main`` for the page, HTTP and most protocols, and those of other protocols.

    A ``with`` statement closes them at its end.
    """

    main: socket.socket
    whisper_live: socket.socket | None = None
    wyoming: socket.socket | None = None

    @property
    def http(self) -> list[socket.socket]:
        """Those that serve HTTP and WebSocket."""
        return [self.main, self.whisper_live] if self.whisper_live else [self.main]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for bound in (self.main, self.whisper_live, self.wyoming):
            if bound:
                bound.close()


def open_ports(host: str, port: int, whisper_live: int | None, wyoming: int | None) -> Ports:
    """Bind them all, each to ``host``; 0 takes any free port, None none. Raises CannotListen."""
    bound: list[socket.socket] = []

    def bind_optional(number: int | None, option: str) -> socket.socket | None:
        if number is None:
            return None
        bound.append(bind(host, number, option))
        return bound[-1]

    try:
        main = bind(host, port)
        bound.append(main)
        return Ports(
            main,
            bind_optional(whisper_live, "--whisper-live-port"),
            bind_optional(wyoming, "--wyoming-port"),
        )
    except CannotListen:
        for taken in bound:
            taken.close()
        raise


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket bound to the address. Raises CannotListen, whose message names ``option``.

    Where the system can (Linux), a connection whose other end has vanished without a word ends when
    what was sent to it is not acknowledged for a minute, instead of a quarter of an hour.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise CannotListen(f"{host} is not an address of this machine") from error
    bound = socket.socket(family, kind, proto)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # what the socket accepts has it too
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise CannotListen(_reason(error, host, port, option)) from error
    return bound


def _reason(error: OSError, host: str, port: int, option: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} is in use; choose another with {option}"
        case errno.EACCES:
            return f"port {port} needs more rights; choose one from 1024 up with {option}"
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine"
        case _:
            return f"cannot listen on {host}:{port}: {error.strerror}"


def url(bound: socket.socket, scheme: str = "http") -> str:
    """The URL of a bound socket for programs on this machine."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104
    return f"{scheme}://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach the address."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def check_exposure(
    host: str,
    bound: socket.socket,
    *,
    keyed: bool,
    insecure: bool,
    on_warning: Callable[[str], object],
) -> None:
    """Raise ConfigError if a server without keys would listen beyond this machine.

    With ``insecure`` that is a warning only.
    """
    if keyed and insecure:
        raise ConfigError("--insecure lets everyone in, and there are keys: choose one of them")
    if keyed or is_loopback(bound):
        return
    if not insecure:
        raise ConfigError(
            f"others can reach {host}: give --api-key (or VOXLIVE_API_KEY, --api-key-file, "
            "--keys), or --insecure to let everyone in"
        )
    on_warning(f"everyone who can reach {host} can use this server")


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


def network_urls(bound: socket.socket, scheme: str) -> list[str]:
    """The URLs of a bound socket for browsers on other machines in the same networks."""
    host, port = bound.getsockname()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_loopback:
        return []
    reached = lan_addresses() if address.is_unspecified else [address]
    return [f"{scheme}://{f'[{a}]' if a.version == 6 else a}:{port}" for a in reached]
