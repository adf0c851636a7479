"""Live WebSocket connections: from a handshake to sessions, and from their events to frames.

A ``LiveSocket`` is the loop between a WebSocket, its wire format (``Protocol``) and the sessions
that it opens, the same for every wire format. A connection owns its sessions, captions and meters
(``ConnectionState``), and frees them when it ends, or leaves a session to the client's next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

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
from voxlive.speakers.labels import SpeakerNamed, SpeakerNames
from voxlive.store.contract import StoreError
from voxlive.streaming.events import SessionError
from voxlive.streaming.intake import Command, LiveSession, SessionOptions
from voxlive.streaming.queues import MAX_SOCKET_BYTES, Inbox, Timeout
from voxlive.streaming.service import Service
from voxlive.web.access.access import ANYONE, SessionDeadline
from voxlive.web.access.keys import Limits
from voxlive.web.captions.feeds import MAX_NAME_LENGTH, CaptionFeeds, is_valid_name
from voxlive.web.errors import error_headers
from voxlive.web.live_models import LiveModels
from voxlive.web.metrics import SessionMeter, SessionMetrics
from voxlive.web.profiles import NO_PROFILES, VoiceProfiles
from voxlive.web.protocols.contract import (
    Action,
    AudioFrame,
    CorrectCaptions,
    EndConnection,
    FlushSession,
    NameSpeaker,
    OpenSession,
    Protocol,
    ReconfigureSession,
    Refuse,
    RememberVoice,
    Reply,
    ResumeSession,
    SetTurns,
    StopSession,
)
from voxlive.web.recorder import SessionRecorder
from voxlive.web.recording import new_holder
from voxlive.web.resume import (
    FoundSession,
    ResumableSession,
    ResumableSessions,
    StoredStart,
)
from voxlive.web.socket_writer import ConnectionState, Notice, SocketWriter

log = logging.getLogger(__name__)

# A client may take so long to open its session. Most do with the first packet; browsers ask for
# the microphone first.
_START_TIMEOUT_S = 60.0
_PROFILES_S = 2.0  # a session that begins waits so long for the voices that are remembered
_NO_HEADERS: Mapping[str, str] = {}


class LiveSocket:
    """One connection from its handshake on, in three tasks: frames in, events out, its limits.

    There is one queue each way: a session's inbox, so that the socket is read while the session
    is behind, and an outbox that the sessions of all sources share with the protocol's answers.

    Sessions are opened on ``service``, one of ``models``, unless their options name another one.
    Every session that begins is counted in ``metrics``, and kept by ``recorder`` where there is
    one, unless its client asks for the opposite. ``offered`` are the client's sub-protocols
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
        resumables: ResumableSessions,
        offered: Sequence[str] = (),
        recorder: SessionRecorder | None = None,
    ) -> None:
        self._socket = socket
        self._models = models
        self._service = service
        self._state = ConnectionState(protocol)
        self._resumables = resumables
        self._recorder = recorder
        self._resumable: ResumableSession | None = None
        self._taken_over = False
        self._feeds = feeds
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()
        self._receive_timeout = Timeout()
        self._writer = SocketWriter(socket, offered)
        self._loop = asyncio.get_running_loop()
        self._limits = Limits()
        self._ending = self._stopped = self._leaving = False
        self._failure: str | None = None

    @property
    def _protocol(self) -> Protocol:
        return self._state.protocol

    @property
    def _sessions(self) -> dict[str, LiveSession]:
        return self._state.sessions

    @property
    def in_session(self) -> bool:
        """Whether a session is open on this socket."""
        return bool(self._sessions)

    @property
    def outlives_server(self) -> bool:
        """Whether another server can go on with its session."""
        return self._resumable is not None and self._resumable.outlives_server

    @property
    def failure(self) -> str | None:
        """The code of the error that ended the connection, if one did."""
        return self._failure

    def leave(self, deadline: float) -> None:
        """Leave the session to the next server, where that can go on with it.

        As soon as it is at rest and its client has been sent everything, or at this time of the
        loop's clock.
        """
        session, outbox = self._sessions.get(""), self._state.outbox
        if not (session and self.outlives_server):
            return

        def leave_at_rest() -> None:
            if session.at_rest and outbox.idle:
                self._leave_now()

        session.on_rest = outbox.on_idle = leave_at_rest
        self._loop.call_at(deadline, self._leave_now)
        leave_at_rest()

    def _leave_now(self) -> None:
        if self.outlives_server:
            self._leaving = True
            self._done.set()

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
            if self._leaving and self._resumable:
                await self._leave_to_next_server(self._resumable)
        except WebSocketDisconnect:
            pass
        except VoxliveError as error:
            await self._fail(error.code, error.message)
        # The boundary of a session: whatever goes wrong inside ends this one and no other.
        except Exception:
            log.exception("session %s failed in the server", self._session_ids)
            await self._fail("internal", "the server failed in this session; start again")
        finally:
            await self._leave_sessions()

    async def _run_tasks(self) -> None:
        try:
            await self._handshake()
            for work in (self._receive_frames(), self._send_events(), self._enforce_limits()):
                self._start(work)
            if self._protocol.tick_s:
                self._start(self._tick(self._protocol.tick_s))
            await self._done.wait()
            if self._leaving:
                return
            if self._taken_over:
                message = "another connection goes on with this session"
                raise ProtocolError("taken_over", message)
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
        elif self._is_full and not (
            self._protocol.full_after_options
            or (self._protocol.resumes and self._resumables.may_have_one)
        ):
            raise EngineFull(self._service.engine.info.capacity)
        await self._writer.accept(self._protocol)
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
        named = replace(options, model=self._chosen(options))
        open_session = service.open_sources if named.sources else service.open
        session = open_session(named, inbox, self._state.outbox, source)
        self._sessions[source] = session
        drop_at = service.engine.info.drop_at
        if drop_at is not None:
            self._start(self._writer.drop(session, drop_at))

    def _track_session(
        self,
        options: SessionOptions,
        source: str,
        *,
        store: bool = True,
        keep_audio: bool | None = None,
    ) -> Notice:
        """Count a new session, open its captions, and keep it if its client agrees (``store``).

        ``keep_audio`` is as in ``OpenSession``; the URL may say it too. Returns what its client is
        sent first.
        """
        path, state, session = self._socket.url.path, self._state, self._sessions[source]
        service = self._service_of(options)
        label = self._models.label(service)
        state.meters[source] = self._open_meter(session, label)
        name = self._socket.query_params.get("captions")
        state.caption_feeds[source] = self._feeds.open(session.id, name, path, self._owner)
        state.unfinished += 1
        recorder = self._recorder
        if recorder and (self._resumable if recorder.transient else store):
            language = service.engine.info.language_of(options.stream)
            state.recordings[source] = recorder.open(
                session.id, language, self._owner, self._protocol.name, path, label, name, source
            )
            asked = self._socket.query_params.get("keep_audio")
            if keep_audio is None and asked is not None:
                keep_audio = asked == "true"
            kept = recorder.keep_audio(session, keep_audio, state.recordings[source])
            if not recorder.transient:
                self._protocol.on_stored(audio=kept)
        return Notice(partial(self._protocol.opened, session.id, options))

    def _open_meter(self, session: LiveSession, label: str) -> SessionMeter:
        return self._metrics.open(self._protocol.name, session, label, self._socket.headers)

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
                # A session that is resumed has less time left than its new connection.
                await asyncio.sleep(wait_s if self._sessions else min(wait_s, 1.0))
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
                if self._resumable:
                    await self._resumable.push(data)
                elif session := self._sessions.get(source):
                    await session.push(data)
            case OpenSession():
                # By now it is known which wire format the client has, where a path has several.
                with log_context(protocol=self._protocol.name):
                    profiles = self._profiles_of(action.options)
                    self._open(action)
                    if profiles:
                        await self._know_voices(profiles, self._sessions[action.source], {})
            case ResumeSession():
                await self._resume(action)
            case Refuse(code, message):
                await self._state.outbox.put_notice(
                    Notice(partial(self._protocol.refused, code, message))
                )
            case Reply(frame):
                await self._state.outbox.put_notice(
                    Notice(lambda: [frame() if callable(frame) else frame])
                )
            case FlushSession(marker, ends_turn):
                await self._sessions[""].flush(marker, ends_turn=ends_turn)
            case SetTurns(turns, vocabulary):
                session = self._sessions[""]
                await session.change_turns(turns)
                if vocabulary is not None:
                    self._service.change_vocabulary(session, vocabulary)
            case ReconfigureSession(options, marker):
                service = self._service_of(options)
                await service.reconfigure(self._sessions[""], options, marker)
            case CorrectCaptions():
                await self._correct(action)
            case NameSpeaker(speaker, name, source):
                await self._name(SpeakerNamed(speaker, name, source))
            case RememberVoice():
                await self._remember(action)
            case StopSession():
                self._stopped = True
                if self._resumable:
                    await self._resumable.push_rest()
                for session in self._sessions.values():
                    await session.stop()
            case EndConnection(code, message):
                await self._end_sessions(code, message)

    async def _correct(self, action: CorrectCaptions) -> None:
        """What the store keeps is corrected there, by whom it belongs to: readers have that too."""
        feed, message = self._state.caption_feeds.get(""), "there has been no such segment"
        kept = self._recorder and not self._recorder.transient
        if self._state.recordings and kept:
            message = "the server keeps this session: correct it at /v1/sessions"
        elif feed and feed.amend(action.segment, action.words, action.text):
            return
        refused = partial(self._protocol.refused, "bad_message", message)
        await self._state.outbox.put_notice(Notice(refused))

    async def _name(self, named: SpeakerNamed) -> None:
        """As a correction: in a session that is kept it is the store's, and what readers get."""
        feed = self._state.caption_feeds.get("")
        if self._state.recordings and self._recorder and not self._recorder.transient:
            message = "the server keeps this session: name its speakers at /v1/sessions"
            refused = partial(self._protocol.refused, "bad_message", message)
            await self._state.outbox.put_notice(Notice(refused))
        elif feed:
            feed.on_event(named)

    @property
    def _profiles(self) -> VoiceProfiles | None:
        return self._recorder.profiles if self._recorder else None

    def _profiles_of(self, options: SessionOptions) -> VoiceProfiles | None:
        """The voices that a session asks to be told of, if it does. Raises ProtocolError."""
        if options.speakers is None or not options.speakers.profiles:
            return None
        if self._profiles is None:
            raise ProtocolError("unsupported_option", NO_PROFILES)
        return self._profiles

    async def _know_voices(
        self, profiles: VoiceProfiles, session: LiveSession, names: SpeakerNames
    ) -> None:
        """Tell a session whose voices are remembered for its key; speakers may have ``names``."""
        try:
            async with asyncio.timeout(_PROFILES_S):
                session.know_voices(await profiles.known(self._owner), names)
        except (StoreError, TimeoutError) as error:
            why = getattr(error, "message", "") or "the store takes too long to answer"
            session.emit_warning("profiles_failed", f"nobody is known by their voice: {why}")

    async def _remember(self, voice: RememberVoice) -> None:
        """Keep a speaker's voice by the name that they have agreed to, and answer the client."""
        try:
            answer = partial(self._protocol.remembered, voice, await self._remembered(voice))
        except (RequestRefused, StoreError) as error:
            answer = partial(self._protocol.refused, error.code, error.message)
        await self._state.outbox.put_notice(Notice(answer))

    async def _remembered(self, voice: RememberVoice) -> str:
        """The id of the profile that it is from now on. Raises RequestRefused, StoreError."""
        if self._profiles is None:
            raise RequestRefused("no_profiles", NO_PROFILES)
        vector = self._sessions[""].voice_of(voice.speaker, voice.source)
        if vector is None:
            message = "too little of this speaker's voice was heard to know it again: some 5 s more"
            raise RequestRefused("too_little_voice", message)
        return await self._profiles.remember(self._owner, voice.name, vector)

    async def _end_sessions(self, code: str, message: str) -> None:
        """Finish the sessions with an error event, unless the client has stopped them itself."""
        if not self._sessions:
            raise ProtocolError(code, message)
        if not self._stopped:
            self._failure = code
            reason = SessionError(code, message, fatal=False)
            for session in self._sessions.values():
                await session.stop(reason)

    def _open(self, action: OpenSession) -> None:
        options, source, resumable = action.options, action.source, action.resumable
        if resumable and not self._resumables.enabled:
            raise ProtocolError("unsupported_option", "sessions are not resumable on this server")
        kept = self._recorder and (action.store or self._recorder.transient)
        if resumable and self._resumables.elsewhere and not kept:
            message = "with several workers a session that is not kept is not resumable"
            raise ProtocolError("unsupported_option", message)
        service = self._service_of(options)
        if self._protocol.resumes and service.full:  # the handshake was let in to resume one
            raise EngineFull(service.engine.info.capacity)
        try:
            self._open_session(options, source)
        except (EngineError, VadError) as error:
            if not self._sessions:
                raise
            # The sources that have a session go on without this one.
            refused = partial(self._protocol.refused, error.code, error.message)
            self._state.outbox.add_notice(Notice(refused))
        else:
            if resumable:
                self._resumable = self._resumables.add(
                    self._state,
                    self._owner,
                    options.audio.sample_bytes,
                    self._deadline.began_at,
                    self._let_go,
                )
                self._protocol.on_resumable(self._resumable.token)
            notice = self._track_session(
                options, source, store=action.store, keep_audio=action.keep_audio
            )
            if self._resumable:
                self._outlive_server(self._resumable, action)
            self._state.outbox.add_notice(notice)

    def _outlive_server(self, resumable: ResumableSession, action: OpenSession) -> None:
        """Have another server go on with the session, where there is a store and it may be kept."""
        recording, session = self._state.recordings.get(""), resumable.session
        if recording and session and session.outlive_server():
            chosen = self._chosen(action.options)
            start = StoredStart(action.start, chosen, session.keeps_audio)
            recording.make_resumable(resumable.token, start.dump())
            self._protocol.keep_sent()

    def _chosen(self, options: SessionOptions) -> str | None:
        return options.model or self._socket.query_params.get("model")

    async def _resume(self, resume: ResumeSession) -> None:
        """Go on with the session of another connection, in place of a new one."""
        async with self._resumables.restoring:
            found = await self._resumables.claim(resume.token, self._owner, self._let_go)
            if found is None and self._resumables.elsewhere:
                await self._resumables.elsewhere(resume.token, self._owner)
            found = found or await self._restore(resume)
        before, self._resumable = self._state, found
        try:
            missed = found.state.protocol.resumed(resume, found.samples)
        except ProtocolError:
            self._resumable = None
            self._resumables.suspend(found, self._let_go)
            raise
        self._deadline.resume(found.began_at)
        self._state = found.state
        if found.session:
            found.session.resume()
        # What it is sent next comes from the session's own outbox.
        before.outbox.add_notice(Notice(lambda: missed))

    async def _restore(self, resume: ResumeSession) -> ResumableSession:
        """Claim a session that another server has left in the store.

        Raises ProtocolError, and EngineFull while there is no slot for it.
        """
        recorder = self._recorder
        stored = recorder and await recorder.find_resumable(resume.token, self._owner)
        if not recorder or not stored:
            message = "there is no session to resume with this token: start another one"
            raise ProtocolError("unknown_session", message)
        start = StoredStart.load(stored.start)
        protocol = type(self._protocol)({}, self._service.engine.info)
        service = self._models.find(start.model, None, protocol.default_models)
        protocol.offer_engines(lambda _: service.engine.info)
        [opening] = protocol.received(start.message)
        assert isinstance(opening, OpenSession)
        found = FoundSession(stored, opening.options)
        found.check(resume)
        sources = opening.options.sources
        if service.free < (len(sources) or 1) and not stored.ended:
            raise EngineFull(service.engine.info.capacity)
        holder = new_holder()
        claimed = await recorder.claim(stored, holder)
        if claimed is None:
            raise ProtocolError("taken_over", "another connection goes on with this session")
        recording = recorder.go_on(claimed, holder)
        if received := found.received(resume, claimed):
            claimed = recording.recall(claimed, received)
        state, kept = ConnectionState(protocol), claimed.resumable.session
        restored_protocol = found.protocol(claimed, resume.token, resume.have)
        protocol.restore(restored_protocol)
        state.sent, state.speech_events = restored_protocol.next, found.speech_events(claimed)
        state.turns = found.turns(claimed)
        if not stored.ended:
            named = replace(opening.options, model=start.model)
            inbox: Inbox[Command] = Inbox(MAX_SOCKET_BYTES)
            states, queues = found.states(claimed), (inbox, state.outbox, "")
            try:
                session: LiveSession = (
                    service.open_sources(named, *queues, states, found.first)
                    if sources
                    else service.open(named, *queues, *states)
                )
            except (EngineError, VadError):
                recording.leave(kept.samples)
                raise
            session.outlive_server()
            if resume.have >= claimed.resumable.next:
                message = "what was sent last was not stored in time: some words may come again"
                session.emit_warning("words_may_repeat", message)
            state.sessions[""] = session
            if profiles := self._profiles_of(opening.options):
                names = {(one.source, one.speaker): one.name for one in claimed.transcript.names}
                await self._know_voices(profiles, session, names)
            label = self._models.label(service)
            state.meters[""] = self._open_meter(session, label)
            state.caption_feeds[""] = self._feeds.go_on(claimed.transcript)
            state.unfinished = 1
        state.recordings[""] = recording
        if start.audio and state.sessions:
            recorder.keep_audio(state.sessions[""], True, recording)
        age_s = (datetime.now(UTC) - kept.started_at).total_seconds()
        restored = ResumableSession(
            resume.token,
            self._owner,
            state,
            opening.options.audio.sample_bytes,
            self._loop.time() - age_s,
            self._let_go,
            found.samples,
        )
        self._resumables.adopt(restored)
        return restored

    async def _leave_to_next_server(self, resumable: ResumableSession) -> None:
        protocol = self._protocol
        self._resumable = None
        await self._resumables.leave(resumable)
        await self._writer.send(protocol.suspended(self._resumables.idle_s))

    async def _let_go(self) -> None:
        """Leave the session to another connection."""
        self._taken_over = True
        self._forget_session()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forget_session(self) -> None:
        """The session goes on without this connection, whose own messages are none of its."""
        self._resumable = None
        fresh = type(self._protocol)(self._socket.query_params, self._service.engine.info)
        self._state = ConnectionState(fresh)

    async def _send_events(self) -> None:
        """Send events and notices, until the protocol closes or all sessions have ended."""
        while True:
            outs, ended = await self._state.next()
            closed = await self._writer.send(outs)
            self._state.on_sent()
            if closed or ended:
                return

    async def _tick(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self._state.outbox.put_notice(Notice(self._protocol.tick))

    async def _fail(
        self, code: str, message: str, headers: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        fields = {"protocol": self._protocol.name, "code": code}
        fields |= {"session": self._session_ids} if self._sessions else {}
        log.info("session %s ended: %s: %s", self._session_ids, code, message, extra=fields)
        self._failure = code
        if self._resumable and code == "slow_client":  # the line's error: the client may come back
            self._resumables.suspend(self._resumable, self._let_go)
            self._forget_session()
        elif self._resumable:
            self._resumables.remove(self._resumable)
            self._resumable = None
        await self._state.close(self._feeds, code)
        entries = iter(self._state.outbox.pop, None)
        waiting = [entry for _, entry in entries if isinstance(entry, Notice)]
        if code == "slow_client":
            waiting.clear()  # what it has not read would only delay the reason
        await self._writer.fail(self._protocol, code, message, headers, waiting)

    async def _leave_sessions(self) -> None:
        """Suspend the session if its client may come back, else close them all."""
        if self._resumable:
            self._resumables.suspend(self._resumable, self._let_go)
        else:
            await self._resumables.finish(self._state)

    @property
    def _session_ids(self) -> str:
        ids = [session.id for session in self._sessions.values()]
        return " and ".join(ids) or "not opened"
