"""Every connection of a server: how many there may be, and the listeners that accept them.

Their number is bounded below the limit on file descriptors, so that files, models and sessions
always find one. At the bound the connection that has been idle longest is closed for a new one;
where none is idle the new one is answered with 503 and Retry-After, or closed where TLS is spoken.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Coroutine
from functools import partial

import uvicorn

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
