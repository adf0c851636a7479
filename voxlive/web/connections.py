"""Every connection of a server: how many there may be, and the listeners that accept them.

Their number is bounded below the limit on descriptors, so that files, models and sessions always
find one. Beyond it a connection that waits for a request gives way to a newcomer, the one that has
waited longest first; where all are in use the newcomer is told to come again.
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
"""For a TLS handshake."""
MAX_PARTIAL = 512 << 20
"""Bytes of messages that are not complete yet, of all clients together."""

_MOST = 10_000
_RESERVE = 64, 256  # descriptors for everything else: at least and at most
_REFUSALS = 16  # newcomers at a time that are told so
_REFUSAL_S = 1.0
_LOG_EVERY_S = 1.0
_BACKLOG = 2048

_FULL = b"the server has as many connections as it takes; try again later\n"
_503 = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nretry-after: 5\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_FULL), _FULL)
)
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def most_connections() -> int:
    """How many this process may have: what the limit on descriptors leaves beside all else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    low, high = _RESERVE
    return max(8, min(_MOST, soft - max(low, min(high, soft // 4))))


class Connections:
    """Those of all ports of a server. Each is known by its transport from ``opened`` on.

    ``partial``: bytes that were received of messages which are not complete.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most or most_connections()
        self.partial = 0
        self.refused = 0
        self._open: set[object] = set()
        self._waiting: dict[object, Callable[[], None]] = {}  # the longest first
        self._unsaid = 0
        self._said_at = float("-inf")

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, connection: object) -> None:
        """It is one of them until it is ``closed``."""
        self._open.add(connection)

    def closed(self, connection: object) -> None:
        """It is gone."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def waits(self, connection: object, end: Callable[[], None]) -> None:
        """It has no request, or none that is complete: ``end`` may be called for a newcomer."""
        self._waiting[connection] = end

    def works(self, connection: object) -> None:
        """It has a request."""
        self._waiting.pop(connection, None)

    def has_room(self) -> bool:
        """Whether one more may be opened; one that only waits is ended for it."""
        if len(self._open) < self.most:
            return True
        if self._waiting:
            oldest = next(iter(self._waiting))
            end = self._waiting[oldest]
            self.closed(oldest)
            end()
            self._note("ended the longest waiting of")
            return True
        self.refused += 1
        self._note("refused one beyond")
        return False

    def _note(self, what: str) -> None:
        """At most a line a second, however many newcomers there are."""
        self._unsaid += 1
        now = asyncio.get_running_loop().time()
        if now - self._said_at >= _LOG_EVERY_S:
            log.warning(
                "%s %d connections (%d times since the last such line); "
                "the limit on descriptors, as of ulimit -n, says how many there may be",
                what,
                self.most,
                self._unsaid,
            )
            self._said_at, self._unsaid = now, 0


class EdgeConfig(uvicorn.Config):
    """uvicorn's, with what its protocols share here."""

    connections: Connections


class Listener:
    """Accepts on a bound socket. ``protocol`` makes what serves a connection."""

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
        """Accept no more. What is open stays open."""
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
                if error.errno not in _EXHAUSTED:
                    continue  # the client is gone already
                log.warning("cannot accept connections: %s", error.strerror)
                await asyncio.sleep(_LOG_EVERY_S)
                continue
            if self._connections.has_room():
                self._follow(self._starting, self._start(accepted))
            elif self._tls or len(self._refusing) >= _REFUSALS:
                accepted.close()  # nothing can be said before a handshake
            else:
                self._follow(self._refusing, self._refuse(accepted))

    def _follow(self, tasks: set[asyncio.Task[None]], work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _start(self, accepted: socket.socket) -> None:
        """Hand it to its protocol, after the handshake if there is one."""
        me = asyncio.current_task()
        assert me is not None
        self._connections.opened(me)
        self._connections.waits(me, partial(_cancel, me))
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
            self._connections.closed(me)

    async def _refuse(self, accepted: socket.socket) -> None:
        """Say why, and read what was sent: closing before that would take the answer back."""
        try:
            async with asyncio.timeout(_REFUSAL_S):
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
