"""Live WebSocket connections: from a handshake to sessions, and from their events to frames.

``LiveEndpoints`` authenticates a handshake and runs a ``LiveSocket``, which is the loop between a
WebSocket, its wire format (``Protocol``) and the sessions that it opens, the same for every wire
format. A connection owns its sessions, captions and meters, and frees them when it ends.
``SessionDeadline`` is when the limits of a key end a session; it is pure.
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
from voxlive.web.access.keys import Limits, find_credentials
from voxlive.web.access.middleware import Authenticator, client_address
from voxlive.web.captions import MAX_NAME_LENGTH, CaptionFeed, CaptionFeeds, is_valid_name
from voxlive.web.errors import error_headers, openai_error
from voxlive.web.live_models import LiveModels
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

log = logging.getLogger(__name__)

# A client may take so long to open its session. Most do with the first packet; browsers ask for
# the microphone first.
_START_TIMEOUT_S = 60.0
_NO_HEADERS: Mapping[str, str] = {}


class SessionDeadline:
    """When the limits of a key end a connection's sessions. Times are seconds on any clock.

    ``now``: when its handshake began.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._began_at = self._audio_at = now

    def on_audio(self, now: float) -> None:
        """Audio was received, or some that was received is still waiting."""
        self._audio_at = now

    def remaining(self, now: float) -> tuple[float, EndConnection]:
        """Seconds that the session may go on without more audio, and how it then ends."""
        minutes, idle_s = self._limits.session_minutes, self._limits.idle_s
        expires_s = self._began_at + (inf if minutes is None else 60 * minutes) - now
        idle_left_s = self._audio_at + (inf if idle_s is None else idle_s) - now
        if expires_s <= idle_left_s:
            message = f"a session may last {minutes} min here; begin another one"
            return expires_s, EndConnection("session_expired", message)
        return idle_left_s, EndConnection("idle", f"there was no audio for {idle_s:g} s")


class LiveSocket:
    """One connection from its handshake on, in three tasks: frames in, events out, its limits.

    There is one queue each way: a session's inbox, so that the socket is read while the session
    is behind, and an outbox that the sessions of all sources share with the protocol's answers.

    Sessions are opened on ``service``, one of ``models``, unless their options name another one.
    Every session that begins is counted in ``metrics``. ``offered`` are the client's sub-protocols
    without those that carry a key, which must not be sent back.
    """

    def __init__(
        self,
        socket: WebSocket,
        models: LiveModels,
        service: Service,
        protocol: Protocol,
        feeds: CaptionFeeds,
        metrics: SessionMetrics,
        offered: Sequence[str] = (),
    ) -> None:
        self._socket = socket
        self._models = models
        self._service = service
        self._protocol = protocol
        self._feeds = feeds
        self._metrics = metrics
        self._sessions: dict[str, Session] = {}  # by source, as the three below
        self._caption_feeds: dict[str, CaptionFeed] = {}
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
        """Whether a session is open on this socket."""
        return bool(self._sessions)

    @property
    def failure(self) -> str | None:
        """The code of the error that ended the connection, if one did."""
        return self._failure

    async def refuse(self, refusal: RequestRefused) -> None:
        """Refuse the client, in the form of its wire format."""
        await self._fail(refusal.code, refusal.message, error_headers(refusal))

    async def run(self, limits: Limits, owner: str = ANYONE) -> None:
        """Serve the client until the session or the connection ends, then free everything.

        ``owner``: the name of its key.
        """
        self._limits, self._owner = limits, owner
        self._deadline = SessionDeadline(limits, self._loop.time())
        try:
            await self._run_tasks()
        except WebSocketDisconnect:
            pass
        except VoxliveError as error:
            await self._fail(error.code, error.message)
        # The boundary of a session: whatever goes wrong inside ends this one and no other.
        except Exception:
            log.exception("session %s failed in the server", self._session_ids)
            await self._fail("internal", "the server failed in this session; start again")
        finally:
            await self._close_sessions()

    async def _run_tasks(self) -> None:
        try:
            await self._handshake()
            for work in (self._receive_frames(), self._send_events(), self._enforce_limits()):
                self._start(work)
            if self._protocol.tick_s:
                self._start(self._tick(self._protocol.tick_s))
            await self._done.wait()
            for task in self._tasks:
                if task.done():
                    task.result()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        """Run until the connection ends, which it does when the first of these tasks does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._done.set())

    async def _handshake(self) -> None:
        """Accept the client, and open its session if the handshake asks for one.

        Raises ProtocolError, EngineError or VadError for a client that cannot be served.
        """
        if not is_valid_name(self._socket.query_params.get("captions", "-")):
            message = (
                f"captions names the session in 1 to {MAX_NAME_LENGTH} characters, without a /"
            )
            raise ProtocolError("bad_parameter", message)
        options = self._protocol.options_from_handshake()
        if options:
            self._open_session(options, "")
        elif self._is_full and not self._protocol.full_after_options:
            raise EngineFull(self._service.engine.info.capacity)
        await self._writer.accept()
        await self._writer.send(self._protocol.connected())
        if options:
            await self._writer.send(self._track_session(options, "").translate())

    @property
    def _is_full(self) -> bool:
        """Whether every engine is full that the client can still choose."""
        chosen = self._models.serves(self._socket.query_params.get("model", ""))
        return all(one.full for one in ((self._service,) if chosen else self._models))

    def _service_of(self, options: SessionOptions) -> Service:
        return self._models.find(options.model, self._service, self._protocol.default_models)

    def _open_session(self, options: SessionOptions, source: str) -> None:
        inbox: Inbox[Command] = Inbox(MAX_SOCKET_BYTES)
        service = self._service_of(options)
        self._sessions[source] = service.open(options, inbox, self._outbox, source)

    def _track_session(self, options: SessionOptions, source: str) -> Notice:
        """Count a new session and open its captions. Returns what its client is sent first."""
        path, session = self._socket.url.path, self._sessions[source]
        label = self._models.label(self._service_of(options))
        self._meters[source] = self._metrics.open(self._protocol.name, session, label)
        name = self._socket.query_params.get("captions")
        self._caption_feeds[source] = self._feeds.open(session.id, name, path, self._owner)
        self._unfinished += 1
        return Notice(partial(self._protocol.opened, session.id, options))

    async def _receive_frames(self) -> None:
        """Pass frames to the protocol and perform its actions, until the client disconnects."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            frame: str | bytes = message["text"] if "text" in message else message["bytes"]
            is_text = isinstance(frame, str)
            longest = self._protocol.max_text if is_text else self._protocol.max_binary
            limit = int(min(longest, self._limits.message_bytes))
            if len(frame) > limit:
                raise ProtocolError("too_big", f"a frame may have {limit} bytes, not {len(frame)}")
            if self._ending:
                continue  # it came too late
            for action in self._protocol.received(frame):
                await self._perform(action)

    @property
    def _has_backlog(self) -> bool:
        """Whether a session has not processed yet what it was sent."""
        return any(session.waiting for session in self._sessions.values())

    async def _enforce_limits(self) -> None:
        """End the sessions when they have lasted too long, or have had no audio for too long."""
        while not self._ending:
            now = self._loop.time()
            if self._has_backlog:
                self._deadline.on_audio(now)
            wait_s, end = self._deadline.remaining(now)
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            else:
                self._ending = True
                await self._end_sessions(end.code, end.message)
        await asyncio.Event().wait()

    async def _receive(self) -> Message:
        """The next message. While there is a backlog, the client may send nothing."""
        receive_timeout_s = self._protocol.receive_timeout_s
        if receive_timeout_s is None and not self._sessions:
            receive_timeout_s = _START_TIMEOUT_S
        while True:
            try:
                with self._receive_timeout.within(receive_timeout_s):
                    return await self._socket.receive()
            except TimeoutError as error:
                if not self._has_backlog:
                    raise ProtocolError(
                        "idle", f"nothing came for {receive_timeout_s:g} s"
                    ) from error

    async def _perform(self, action: Action) -> None:
        match action:
            case AudioFrame(data, source):
                self._deadline.on_audio(self._loop.time())
                if session := self._sessions.get(source):
                    await session.push(data)
            case OpenSession(options, source):
                # By now it is known which wire format the client has, where a path has several.
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
                service = self._service_of(options)
                await service.reconfigure(self._sessions[""], options, marker)
            case StopSession():
                self._stopped = True
                for session in self._sessions.values():
                    await session.stop()
            case EndConnection(code, message):
                await self._end_sessions(code, message)

    async def _end_sessions(self, code: str, message: str) -> None:
        """Finish the sessions with an error event, unless the client has stopped them itself."""
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
            self._outbox.add_notice(self._track_session(options, source))

    async def _send_events(self) -> None:
        """Send events and notices, until the protocol closes or all sessions have ended."""
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
        self._caption_feeds[source].on_event(event)
        self._meters[source].on_event(event)
        return self._protocol.on_source_event(source, event)

    async def _tick(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self._outbox.put_notice(Notice(self._protocol.tick))

    async def _fail(
        self, code: str, message: str, headers: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        fields = {"protocol": self._protocol.name, "code": code}
        fields |= {"session": self._session_ids} if self._sessions else {}
        log.info("session %s ended: %s: %s", self._session_ids, code, message, extra=fields)
        self._failure = code
        await self._close_sessions()
        entries = iter(self._outbox.pop, None)
        waiting = [entry for _, entry in entries if isinstance(entry, Notice)]
        if code == "slow_client":
            waiting.clear()  # what it has not read would only delay the reason
        await self._writer.fail(code, message, headers, waiting)

    async def _close_sessions(self) -> None:
        while self._caption_feeds:
            self._feeds.close(self._caption_feeds.popitem()[1])
        while self._sessions:
            source, session = self._sessions.popitem()
            await session.close()
            if source in self._meters:
                self._meters[source].close()

    @property
    def _session_ids(self) -> str:
        ids = [session.id for session in self._sessions.values()]
        return " and ".join(ids) or "not opened"


class LiveEndpoints:
    """Every live connection of a server. Without an authenticator every client is admitted."""

    def __init__(self, models: LiveModels, authenticator: Authenticator | None = None) -> None:
        self._models = models
        self.authenticator = authenticator or Authenticator(Access())
        self.feeds = CaptionFeeds()
        self.metrics = SessionMetrics(self.authenticator.access.count_error)
        self._sockets: dict[asyncio.Task[Any] | None, LiveSocket] = {}

    def endpoint(self, protocol: type[Protocol]) -> Callable[[WebSocket], Awaitable[None]]:
        """The ASGI endpoint for one wire format."""
        for name in protocol.names or (protocol.name,):
            self.metrics.register(name)

        async def serve(socket: WebSocket) -> None:
            try:
                self.authenticator.check_site(socket.scope)
            except RequestRefused as error:
                self.authenticator.access.count_error(error.code, protocol.name)
                await socket.send_denial_response(openai_error(error))
                return
            with ExitStack() as resources, log_context(protocol=protocol.name):
                await self._serve(socket, protocol, resources)

        return serve

    async def _serve(
        self, socket: WebSocket, protocol: type[Protocol], resources: ExitStack
    ) -> None:
        query = socket.query_params
        presented = find_credentials(
            socket.headers,
            socket.scope["subprotocols"],
            query,
            extra_headers=protocol.key_headers,
            key_params=protocol.key_params,
        )
        models, unknown = self._models, None
        try:
            service = models.find(query.get("model"), no_choice=protocol.default_models)
        except RequestRefused as error:
            service, unknown = models.default, error
        wire_format = protocol(query, service.engine.info)
        live = LiveSocket(
            socket, models, service, wire_format, self.feeds, self.metrics, presented.labels
        )
        try:
            grant = self.authenticator.access.admit(
                presented.secret, "live", client_address(socket)
            )
            resources.enter_context(grant.session())
            resources.enter_context(self.feeds.claimed(query.get("captions"), grant.name))
            if unknown:
                raise unknown
            if models.named:
                wire_format.offer_engines(
                    lambda name: models.find(name, service, protocol.default_models).engine.info
                )
            wire_format.apply_settings(grant.settings)
        except RequestRefused as refusal:
            await self.authenticator.on_refusal(refusal, wire_format.name)
            await live.refuse(refusal)
            return
        task = asyncio.current_task()
        self._sockets[task] = live
        resources.callback(self._sockets.pop, task)
        await live.run(grant.limits, grant.name)
        if live.failure:
            self.authenticator.access.count_error(live.failure, wire_format.name)

    async def wait_closed(self, timeout_s: float) -> None:
        """Wait until every connection with a session has sent its end, at most ``timeout_s``."""
        tasks = [task for task, live in self._sockets.items() if task and live.in_session]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
