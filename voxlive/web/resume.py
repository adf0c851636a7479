"""Live sessions that outlive their connection, for clients that come back.

``ResumableSessions`` keeps those whose socket is gone, and finds them by their token: the
``ConnectionState`` passes from one socket to the next. Events of a suspended session go into its
protocol's journal, which the client gets when it resumes.

Bounds: ``idle_s`` without a client, then the session ends; ``most`` suspended at a time, beyond
which the one that was suspended first ends, of the key that has most of them. After ``_RELEASE_S``
a suspended session gives its slot back.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from voxlive.errors import ProtocolError
from voxlive.streaming.sources import LiveSession
from voxlive.web.captions import CaptionFeeds
from voxlive.web.socket_writer import ConnectionState

_RELEASE_S = 10.0
_RELEASE_AGAIN_S = 1.0
_TOKEN_BYTES = 24


@dataclass(eq=False)
class ResumableSession:
    """One session, the audio that it has had, and the connection that it has now.

    ``sample_bytes`` are those of one sample of all channels, ``began_at`` is on the loop's clock,
    for the limit of a session's time. ``samples`` counts what was received, in the client's own
    rate. ``detach`` makes the present connection let go of the session.
    """

    token: str
    owner: str
    state: ConnectionState
    sample_bytes: int
    began_at: float
    detach: Callable[[], Awaitable[None]] | None = None
    samples: int = 0
    rest: bytes = b""
    timer: asyncio.TimerHandle | None = None
    reader: asyncio.Task[None] | None = None
    suspended_at: float = 0.0

    @property
    def session(self) -> LiveSession | None:
        """None once it has been closed."""
        return self.state.sessions.get("")

    async def push(self, data: bytes) -> None:
        """Take audio. Whole samples are passed on: a line may break in the middle of one."""
        data = self.rest + data
        whole = len(data) // self.sample_bytes * self.sample_bytes
        if self.session and whole:
            await self.session.push(data[:whole])
        self.rest = data[whole:]
        self.samples += whole // self.sample_bytes

    async def push_rest(self) -> None:
        """There is no more audio: a part of a sample is for the session to complain of."""
        if self.session:
            await self.session.push(self.rest)
        self.rest = b""


class ResumableSessions:
    """The sessions of a server that can be resumed; see the module. On one event loop."""

    def __init__(self, feeds: CaptionFeeds, idle_s: float, most: int) -> None:
        self._feeds = feeds
        self._idle_s = idle_s
        self._most = most
        self._sessions: dict[str, ResumableSession] = {}
        self._ends: set[asyncio.Task[None]] = set()

    @property
    def enabled(self) -> bool:
        """Whether sessions can be resumed here."""
        return self._idle_s > 0 and self._most > 0

    def __len__(self) -> int:
        """Those with a connection too."""
        return len(self._sessions)

    @property
    def suspended(self) -> list[ResumableSession]:
        """Those that wait for their client."""
        return [session for session in self._sessions.values() if session.reader]

    def add(
        self,
        state: ConnectionState,
        owner: str,
        sample_bytes: int,
        began_at: float,
        detach: Callable[[], Awaitable[None]],
    ) -> ResumableSession:
        """Keep a new session, with its connection's ``detach``."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        session = ResumableSession(token, owner, state, sample_bytes, began_at, detach)
        self._sessions[token] = session
        return session

    async def claim(
        self, token: str, owner: str, detach: Callable[[], Awaitable[None]]
    ) -> ResumableSession:
        """Give a session to another connection; the one that it has lets go of it first.

        Raises ProtocolError ``unknown_session``.
        """
        found = self._sessions.get(token)
        if found is None or found.owner != owner:
            message = "there is no session to resume with this token: start another one"
            raise ProtocolError("unknown_session", message)
        before, found.detach = found.detach, detach
        if before:
            await before()
        await self._stop_waiting(found)
        found.rest = b""
        found.state.on_state("running")
        return found

    def suspend(self, session: ResumableSession, detach: Callable[[], Awaitable[None]]) -> None:
        """The connection of ``detach`` is gone; nothing happens if the session has another one."""
        if session.detach != detach or session.token not in self._sessions:
            return
        loop = asyncio.get_running_loop()
        session.detach, session.suspended_at = None, loop.time()
        session.reader = loop.create_task(self._read(session))
        self._wait(session, min(_RELEASE_S, self._idle_s))
        session.state.on_state("suspended")
        if session.session:
            session.session.suspend()
        waiting = self.suspended
        if len(waiting) > self._most:
            owners = Counter(one.owner for one in waiting)
            self._end(min(waiting, key=lambda one: (-owners[one.owner], one.suspended_at)))

    def remove(self, session: ResumableSession) -> None:
        """The session can be resumed no more; its connection closes it."""
        self._sessions.pop(session.token, None)

    async def aclose(self) -> None:
        """End all that are suspended."""
        for session in self.suspended:
            self._end(session)
        await asyncio.gather(*self._ends)

    async def _read(self, session: ResumableSession) -> None:
        """Have the protocol keep what its client will get when it resumes."""
        ended = session.state.unfinished == 0
        while not ended:
            _, ended = await session.state.next()

    def _wait(self, session: ResumableSession, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        session.timer = loop.call_later(seconds, self._on_timer, session)

    def _on_timer(self, session: ResumableSession) -> None:
        left_s = session.suspended_at + self._idle_s - asyncio.get_running_loop().time()
        if left_s <= 0:
            self._end(session)
        elif session.session and not session.session.release():
            self._wait(session, min(_RELEASE_AGAIN_S, left_s))
        else:
            self._wait(session, left_s)

    def _end(self, session: ResumableSession) -> None:
        self.remove(session)
        task = asyncio.get_running_loop().create_task(self._close(session))
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def _close(self, session: ResumableSession) -> None:
        await self._stop_waiting(session)
        await session.state.close(self._feeds)

    async def _stop_waiting(self, session: ResumableSession) -> None:
        if session.timer:
            session.timer.cancel()
            session.timer = None
        if session.reader:
            reader, session.reader = session.reader, None
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
