"""The ports of a server: the addresses that are bound, the listeners, and all their connections.

Sockets are bound before anything slow is done, so that a port in use is an error at once; a server
without keys that other machines would reach is one as well.

The number of connections is bounded below the limit on file descriptors, so that files, models and
sessions always find one. At the bound the connection that has been idle longest is closed for a new
one; where none is idle the new one is answered with 503 and Retry-After, or closed where TLS is
spoken.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import resource
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import psutil
import uvicorn

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


def open_ports(
    host: str,
    port: int,
    whisper_live: int | None,
    wyoming: int | None,
    *,
    shared: bool = False,
) -> Ports:
    """Bind them all, each to ``host``; 0 takes any free port, None none. Raises CannotListen.

    ``shared``: several processes listen on those that serve HTTP (``worker_sockets``).
    """
    bound: list[socket.socket] = []

    def bind_optional(
        number: int | None, option: str, *, shared: bool = False
    ) -> socket.socket | None:
        if number is None:
            return None
        bound.append(bind(host, number, option, shared=shared))
        return bound[-1]

    try:
        main = bind(host, port, shared=shared)
        bound.append(main)
        return Ports(
            main,
            bind_optional(whisper_live, "--whisper-live-port", shared=shared),
            bind_optional(wyoming, "--wyoming-port"),
        )
    except CannotListen:
        for taken in bound:
            taken.close()
        raise


def bind(host: str, port: int, option: str = "--port", *, shared: bool = False) -> socket.socket:
    """A socket bound to the address. Raises CannotListen, whose message names ``option``.

    ``shared``: others of this user may be bound to it later, as ``worker_sockets`` are.

    Where the system can (Linux), a connection whose other end has vanished without a word ends when
    what was sent to it is not acknowledged for a minute, instead of a quarter of an hour.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise CannotListen(f"{host} is not an address of this machine") from error
    try:
        bound = _bound(family, address)
        if shared and _BALANCED:
            # Now that nobody else has it: among those that share it, it would not be refused.
            address = bound.getsockname()
            bound.close()
            bound = _bound(family, address, shared=True)
    except OSError as error:
        raise CannotListen(_reason(error, host, port, option)) from error
    return bound


_BALANCED = sys.platform == "linux"
"""Whether connections are spread over all sockets of one address; elsewhere one gets them all."""


def _bound(family: int, address: Any, *, shared: bool = False) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # what the socket accepts has it too
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def worker_sockets(bound: socket.socket, count: int) -> list[socket.socket]:
    """A socket for each of so many processes that accept at the address of a shared one."""
    if not _BALANCED:
        return [bound.dup() for _ in range(count)]
    others = (_bound(bound.family, bound.getsockname(), shared=True) for _ in range(count - 1))
    return [bound.dup(), *others]


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
        message = "--insecure lets everyone in, and there are keys: choose one of them"
        raise ConfigError(message, "insecure", "api_key", "api_key_file", "keys")
    if keyed or is_loopback(bound):
        return
    if not insecure:
        raise ConfigError(
            f"others can reach {host}: give --api-key (or VOXLIVE_API_KEY, --api-key-file, "
            "--keys), or --insecure to let everyone in",
            "host",
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


log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
"""How long a TLS handshake may take."""
ABORT = "voxlive.abort"
"""The extension in a WebSocket's scope that cuts its connection; other ASGI servers have none."""
MAX_PARTIAL = 512 << 20
"""Bytes of WebSocket messages that are not complete yet, of all clients together."""

_MAX_CONNECTIONS = 10_000
_RESERVE = 64, 256  # descriptors for everything else: at least and at most
_MAX_REFUSALS = 16  # connections that are answered with 503 at a time
_REFUSAL_TIMEOUT_S = 1.0
_LOG_EVERY_S = 1.0
_BACKLOG = 2048

_FULL = b"the server has as many connections as it takes; try again later\n"
_503 = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nretry-after: 5\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_FULL), _FULL)
)
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def max_connections() -> int:
    """How many this process may have: what the limit on descriptors leaves beside all else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    low, high = _RESERVE
    return max(8, min(_MAX_CONNECTIONS, soft - max(low, min(high, soft // 4))))


class Connections:
    """The open connections of all ports of a server, each known by its transport or its task.

    ``limit``: how many there may be. ``partial_bytes``: bytes received of WebSocket messages that
    are not complete. ``refused``: how many connections were refused at the limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit or max_connections()
        self.partial_bytes = 0
        self.refused = 0
        self._open: set[object] = set()
        self._idle: dict[object, Callable[[], None]] = {}  # how to end them; longest idle first
        self._unlogged = 0
        self._logged_at = float("-inf")

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: object) -> None:
        """Count a connection, until it is removed."""
        self._open.add(connection)

    def remove(self, connection: object) -> None:
        """The connection is closed. It may be removed already."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def mark_idle(self, connection: object, end: Callable[[], None]) -> None:
        """It has no complete request: ``end`` is called if a new connection needs its place."""
        self._idle[connection] = end

    def mark_busy(self, connection: object) -> None:
        """It has a request, and is not closed for a new connection."""
        self._idle.pop(connection, None)

    def has_room(self) -> bool:
        """Whether one more may be opened. At the limit the longest idle one is ended for it."""
        if len(self._open) < self.limit:
            return True
        if self._idle:
            oldest = next(iter(self._idle))
            end = self._idle[oldest]
            self.remove(oldest)
            end()
            self._log_limit("ended the longest waiting of")
            return True
        self.refused += 1
        self._log_limit("refused one beyond")
        return False

    def _log_limit(self, what: str) -> None:
        """Log at most a line a second, however many connections come."""
        self._unlogged += 1
        now = asyncio.get_running_loop().time()
        if now - self._logged_at >= _LOG_EVERY_S:
            log.warning(
                "%s %d connections (%d times since the last such line); "
                "the limit on descriptors, as of ulimit -n, says how many there may be",
                what,
                self.limit,
                self._unlogged,
            )
            self._logged_at, self._unlogged = now, 0


class UvicornConfig(uvicorn.Config):
    """uvicorn's configuration, with the connections that its protocols share."""

    connections: Connections


class Listener:
    """Accepts on a bound socket until ``aclose``. ``protocol`` makes a connection's protocol."""

    def __init__(
        self,
        bound: socket.socket,
        connections: Connections,
        protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._bound = bound
        self._connections = connections
        self._protocol = protocol
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._starting: set[asyncio.Task[None]] = set()
        self._refusing: set[asyncio.Task[None]] = set()
        bound.setblocking(False)
        bound.listen(_BACKLOG)
        self._accepting = self._loop.create_task(self._accept())

    async def aclose(self) -> None:
        """Accept no more connections. Those that are open stay open."""
        tasks = (self._accepting, *self._starting, *self._refusing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._bound.close()

    async def _accept(self) -> None:
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(self._bound)
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    continue  # the client has disconnected already
                log.warning("cannot accept connections: %s", error.strerror)
                await asyncio.sleep(_LOG_EVERY_S)
                continue
            if self._connections.has_room():
                self._run(self._starting, self._start(accepted))
            elif self._tls or len(self._refusing) >= _MAX_REFUSALS:
                accepted.close()  # nothing can be sent before a TLS handshake
            else:
                self._run(self._refusing, self._refuse(accepted))

    def _run(self, tasks: set[asyncio.Task[None]], work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _start(self, accepted: socket.socket) -> None:
        """Hand the connection to a protocol, after the TLS handshake if there is one."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self._connections.mark_idle(task, partial(_cancel, task))
        try:
            await self._loop.connect_accepted_socket(
                self._protocol,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_S if self._tls else None,
            )
        except (OSError, ssl.SSLError) as error:
            log.debug("a connection ended in its handshake: %s", error)
            accepted.close()
        except asyncio.CancelledError:
            accepted.close()
            raise
        finally:
            self._connections.remove(task)

    async def _refuse(self, accepted: socket.socket) -> None:
        """Answer 503, and read what was sent: closing over unread data would reset the answer."""
        try:
            async with asyncio.timeout(_REFUSAL_TIMEOUT_S):
                await self._loop.sock_sendall(accepted, _503)
                accepted.shutdown(socket.SHUT_WR)
                while await self._loop.sock_recv(accepted, 65_536):
                    pass
        except (OSError, TimeoutError):
            pass
        finally:
            accepted.close()


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
