"""When a session has had all that its limits give it. Pure: times are handed in.

The loop between a WebSocket, its protocol and a session: the same for every wire format.

The WebSocket endpoints: who may connect, and which connections are still being told things.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import inf
from typing import Any

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from voxlive.errors import (
    EngineError,
    EngineFull,
    ProtocolError,
    RequestRefused,
    VadError,
    VoxliveError,
)
from voxlive.processes.logs import log_context
from voxlive.streaming.events import Event, SessionClosed, SessionError
from voxlive.streaming.intake import Command, SessionOptions
from voxlive.streaming.queues import MAX_SOCKET_BYTES, Inbox, Outbox, Timeout
from voxlive.streaming.service import Service
from voxlive.streaming.session import Session
from voxlive.web.access.access import ANYONE, Access
from voxlive.web.access.keys import Limits, find
from voxlive.web.access.middleware import Authenticator, address
from voxlive.web.captions import LONGEST_NAME, CaptionFeed, CaptionFeeds, is_name
from voxlive.web.errors import envelope, headers_of
from voxlive.web.metrics import SessionMeter, SessionMetrics
from voxlive.web.protocols.contract import (
    Action,
    AudioFrame,
    EndConnection,
    FlushSession,
    OpenSession,
    Out,
    Protocol,
    ReconfigureSession,
    Refuse,
    Reply,
    StopSession,
)
from voxlive.web.socket_writer import Notice, SocketWriter


class DisconnectWatch:
    """One connection's, from its handshake on. Times are seconds on any clock."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._began = self._heard = now

    def on_audio(self, now: float) -> None:
        """There was audio, or some is still to be heard."""
        self._heard = now

    def next(self, now: float) -> tuple[float, EndConnection]:
        """How long the session may go on if nothing more comes, and how it then ends."""
        minutes, idle_s = self._limits.session_minutes, self._limits.idle_s
        until = self._began + (inf if minutes is None else 60 * minutes) - now
        silent = self._heard + (inf if idle_s is None else idle_s) - now
        if until <= silent:
            said = f"a session may last {minutes} min here; begin another one"
            return until, EndConnection("session_expired", said)
        return silent, EndConnection("idle", f"there was no audio for {idle_s:g} s")


log = logging.getLogger(__name__)

# A client may take so long to say what it wants. Most send it with the first packet; browsers ask
# for the microphone first.
_START_S = 60.0

_NO_MORE: Mapping[str, str] = {}


class LiveSocket:
    """One connection from its handshake on, in three tasks: frames in, events out, its limits.

    There is one queue each way: a session's inbox, so that the socket is read while the session
    is behind, and an outbox that the sessions of all sources share with the protocol's answers.

    Every session that begins is counted in ``metrics``. ``offered`` are the client's sub-protocols
    without those that carry a key: none is said back.
    """

    def __init__(
        self,
        socket: WebSocket,
        service: Service,
        protocol: Protocol,
        feeds: CaptionFeeds,
        metrics: SessionMetrics,
        offered: Sequence[str] = (),
    ) -> None:
        self._socket = socket
        self._service = service
        self._protocol = protocol
        self._feeds = feeds
        self._metrics = metrics
        self._sessions: dict[str, Session] = {}  # by their source
        self._heard: dict[str, CaptionFeed] = {}
        self._meters: dict[str, SessionMeter] = {}
        self._unfinished = 0  # sessions whose events have not all been sent
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()
        self._receive_timeout = Timeout()
        self._writer = SocketWriter(socket, protocol, offered)
        self._outbox: Outbox[Notice] = Outbox()
        self._loop = asyncio.get_running_loop()
        self._limits = Limits()
        self._ending = self._stopped = False
        self._failure: str | None = None

    @property
    def in_session(self) -> bool:
        """Whether a session hangs on this socket."""
        return bool(self._sessions)

    @property
    def failure(self) -> str | None:
        """The code of the error that ended it, if one did."""
        return self._failure

    async def refuse(self, refusal: RequestRefused) -> None:
        """Tell the client that it may not connect, in its protocol's words."""
        await self._fail(refusal.code, refusal.message, headers_of(refusal))

    async def run(self, limits: Limits, owner: str = ANYONE) -> None:
        """Serve the client until the session or the connection ends, then free everything.

        ``owner``: the name of its key.
        """
        self._limits, self._owner = limits, owner
        self._watch = DisconnectWatch(limits, self._loop.time())
        try:
            await self._converse()
        except WebSocketDisconnect:
            pass
        except VoxliveError as error:
            await self._fail(error.code, error.message)
        # The boundary of a session: whatever goes wrong inside ends this one and no other.
        except Exception:
            log.exception("session %s failed in the server", self._name)
            await self._fail("internal", "the server failed in this session; start again")
        finally:
            await self._free()

    async def _converse(self) -> None:
        try:
            await self._shake_hands()
            for work in (self._listen(), self._write(), self._keep_limits()):
                self._start(work)
            if self._protocol.tick_s:
                self._start(self._keep_ticking(self._protocol.tick_s))
            await self._done.wait()
            for task in self._tasks:
                if task.done():
                    task.result()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        """Do this until the connection ends, which it does when the first of these works does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._done.set())

    async def _shake_hands(self) -> None:
        """A client that cannot be served is told so before or right after it is accepted."""
        if not is_name(self._socket.query_params.get("captions", "-")):
            message = f"captions names the session in 1 to {LONGEST_NAME} characters, without a /"
            raise ProtocolError("bad_parameter", message)
        options = self._protocol.options_from_handshake()
        info = self._service.engine.info
        if options:
            self._open_session(options, "")
        elif self._service.engine.in_use >= info.capacity and not self._protocol.full_after_options:
            raise EngineFull(info.capacity)
        await self._writer.accept()
        await self._writer.send(self._protocol.connected())
        if options:
            await self._writer.send(self._follow(options, "").translate())

    def _open_session(self, options: SessionOptions, source: str) -> None:
        inbox: Inbox[Command] = Inbox(MAX_SOCKET_BYTES)
        self._sessions[source] = self._service.open(options, inbox, self._outbox, source)

    def _follow(self, options: SessionOptions, source: str) -> Notice:
        """Count a new session and open its captions; what its client is sent first."""
        path, session = self._socket.url.path, self._sessions[source]
        self._meters[source] = self._metrics.open(self._protocol.name, session)
        name = self._socket.query_params.get("captions")
        self._heard[source] = self._feeds.open(session.id, name, path, self._owner)
        self._unfinished += 1
        return Notice(partial(self._protocol.opened, session.id, options))

    async def _listen(self) -> None:
        """Frames in, until the client is gone."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            frame: str | bytes = message["text"] if "text" in message else message["bytes"]
            is_text = isinstance(frame, str)
            most = self._protocol.max_text if is_text else self._protocol.max_binary
            limit = int(min(most, self._limits.message_bytes))
            if len(frame) > limit:
                raise ProtocolError("too_big", f"a frame may have {limit} bytes, not {len(frame)}")
            if self._ending:
                continue  # it came too late
            for action in self._protocol.received(frame):
                await self._do(action)

    @property
    def _waiting(self) -> bool:
        """Whether a session has not come yet to what it was sent."""
        return any(session.waiting for session in self._sessions.values())

    async def _keep_limits(self) -> None:
        """End the session when it has had its time, or when it has been silent for too long."""
        while not self._ending:
            now = self._loop.time()
            if self._waiting:
                self._watch.on_audio(now)
            wait_s, end = self._watch.next(now)
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            else:
                self._ending = True
                await self._end(end.code, end.message)
        await asyncio.Event().wait()

    async def _receive(self) -> Message:
        """The next message. While what has been sent still waits, the client may be silent."""
        receive_timeout_s = self._protocol.receive_timeout_s
        if receive_timeout_s is None and not self._sessions:
            receive_timeout_s = _START_S
        while True:
            try:
                with self._receive_timeout.within(receive_timeout_s):
                    return await self._socket.receive()
            except TimeoutError as error:
                if not self._waiting:
                    raise ProtocolError(
                        "idle", f"nothing came for {receive_timeout_s:g} s"
                    ) from error

    async def _do(self, action: Action) -> None:
        match action:
            case AudioFrame(data, source):
                self._watch.on_audio(self._loop.time())
                if session := self._sessions.get(source):
                    await session.push(data)
            case OpenSession(options, source):
                # By now the client has said which wire format it speaks, where there are several.
                with log_context(protocol=self._protocol.name):
                    self._open(options, source)
            case Refuse(code, message):
                await self._outbox.put_notice(
                    Notice(partial(self._protocol.refused, code, message))
                )
            case Reply(frame):
                await self._outbox.put_notice(Notice(lambda: [frame]))
            case FlushSession(marker):
                await self._sessions[""].flush(marker)
            case ReconfigureSession(options, marker):
                await self._service.reconfigure(self._sessions[""], options, marker)
            case StopSession():
                self._stopped = True
                for session in self._sessions.values():
                    await session.stop()
            case EndConnection(code, message):
                await self._end(code, message)

    async def _end(self, code: str, message: str) -> None:
        """The session's last words, then the reason; none for a client that is done itself."""
        if not self._sessions:
            raise ProtocolError(code, message)
        if not self._stopped:
            self._failure = code
            reason = SessionError(code, message, fatal=False)
            for session in self._sessions.values():
                await session.stop(reason)

    def _open(self, options: SessionOptions, source: str) -> None:
        try:
            self._open_session(options, source)
        except (EngineError, VadError) as error:
            if not self._sessions:
                raise
            # The sources that have a session go on without this one.
            refused = partial(self._protocol.refused, error.code, error.message)
            self._outbox.add_notice(Notice(refused))
        else:
            self._outbox.add_notice(self._follow(options, source))

    async def _write(self) -> None:
        """Events and notices out, until the protocol closes or all sessions have ended."""
        while True:
            source, entry = await self._outbox.take()
            if isinstance(entry, Notice):
                outs = entry.translate()
            else:
                outs = self._translate(source, entry)
            if await self._writer.send(outs):
                return
            if isinstance(entry, SessionClosed):
                self._unfinished -= 1
                if not self._unfinished:
                    return

    def _translate(self, source: str, event: Event) -> list[Out]:
        self._heard[source].tell(event)
        self._meters[source].on_event(event)
        return self._protocol.on_source_event(source, event)

    async def _keep_ticking(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self._outbox.put_notice(Notice(self._protocol.tick))

    async def _fail(self, code: str, message: str, headers: Mapping[str, str] = _NO_MORE) -> None:
        fields = {"protocol": self._protocol.name, "code": code}
        fields |= {"session": self._name} if self._sessions else {}
        log.info("session %s ended: %s: %s", self._name, code, message, extra=fields)
        self._failure = code
        await self._free()
        entries = iter(self._outbox.pop, None)
        waiting = [entry for _, entry in entries if isinstance(entry, Notice)]
        if code == "slow_client":
            waiting.clear()  # what it has left unread would only be in the way of the reason
        await self._writer.fail(code, message, headers, waiting)

    async def _free(self) -> None:
        while self._heard:
            self._feeds.close(self._heard.popitem()[1])
        while self._sessions:
            source, session = self._sessions.popitem()
            await session.close()
            if source in self._meters:
                self._meters[source].close()

    @property
    def _name(self) -> str:
        ids = [session.id for session in self._sessions.values()]
        return " and ".join(ids) or "not opened"


class LiveEndpoints:
    """Every live connection of a server. Unless a gate is given, everyone is let in."""

    def __init__(self, service: Service, gate: Authenticator | None = None) -> None:
        self._service = service
        self.gate = gate or Authenticator(Access())
        self.feeds = CaptionFeeds()
        self.metrics = SessionMetrics(self.gate.access.note)
        self._sockets: dict[asyncio.Task[Any] | None, LiveSocket] = {}

    def endpoint(self, protocol: type[Protocol]) -> Callable[[WebSocket], Awaitable[None]]:
        """The endpoint for one wire format."""
        for name in protocol.names or (protocol.name,):
            self.metrics.register(name)

        async def serve(socket: WebSocket) -> None:
            try:
                self.gate.check_site(socket.scope)
            except RequestRefused as error:
                self.gate.access.note(error.code, protocol.name)
                await socket.send_denial_response(envelope(error))
                return
            with ExitStack() as held, log_context(protocol=protocol.name):
                await self._serve(socket, protocol, held)

        return serve

    async def _serve(self, socket: WebSocket, protocol: type[Protocol], held: ExitStack) -> None:
        query = socket.query_params
        presented = find(
            socket.headers,
            socket.scope["subprotocols"],
            query,
            extra_headers=protocol.key_headers,
            key_params=protocol.key_params,
        )
        speaks = protocol(query, self._service.engine.info)
        live = LiveSocket(socket, self._service, speaks, self.feeds, self.metrics, presented.labels)
        try:
            grant = self.gate.access.admit(presented.secret, "live", address(socket))
            held.enter_context(grant.session())
            held.enter_context(self.feeds.claimed(query.get("captions"), grant.name))
        except RequestRefused as refusal:
            await self.gate.refused(refusal, speaks.name)
            await live.refuse(refusal)
            return
        speaks.apply_settings(grant.settings)
        task = asyncio.current_task()
        self._sockets[task] = live
        held.callback(self._sockets.pop, task)
        await live.run(grant.limits, grant.name)
        if live.failure:
            self.gate.access.note(live.failure, speaks.name)

    async def settle(self, timeout_s: float) -> None:
        """Wait until every connection with a session has been told its end."""
        tasks = [task for task, live in self._sockets.items() if task and live.in_session]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
