"""One Wyoming connection: events in, a session for each utterance, events out.

An event is a line of JSON, then as many bytes of JSON and of payload as the line announces. Every
length is checked before anything of that length is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from wyoming.event import Event, async_write_event

from voxlive.errors import ProtocolError, VoxliveError
from voxlive.streaming.session import Session
from voxlive.web.access.access import ANYONE, Access, SessionDeadline
from voxlive.web.live_models import LiveModels
from voxlive.web.metrics import SessionMeter, SessionMetrics
from voxlive.web.protocols.contract import MAX_BINARY, AudioFrame, OpenSession, StopSession
from voxlive.web.protocols.fields import Json, integer, parse_message, parse_object
from voxlive.web.protocols.wyoming import Action, SendEvent, WyomingProtocol, error_event
from voxlive.web.recorder import SessionRecorder
from voxlive.web.recording import SessionRecording

log = logging.getLogger(__name__)

MAX_LINE = 64 * 1024
MAX_DATA = 1024 * 1024
_LENGTHS = (("data_length", MAX_DATA), ("payload_length", MAX_BINARY))

# How long a client may send nothing: at first, within an utterance, and between two.
_FIRST_EVENT_TIMEOUT_S = 30.0
_AUDIO_TIMEOUT_S = 30.0
_UTTERANCE_TIMEOUT_S = 600.0
# How long a client may leave events unread, and how long the last one and the close may take.
_SEND_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 5.0
_LINGER_S = 1.0
_MAX_LINGER_BYTES = 1 << 20


async def read_event(reader: asyncio.StreamReader) -> Event | None:
    """The next event, or None when the peer is done. The reader's limit bounds the line.

    Raises ProtocolError, and IncompleteReadError when the peer goes in the middle of an event.
    """
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError as error:
        raise ProtocolError("too_big", f"a header may have {MAX_LINE} bytes") from error
    except asyncio.IncompleteReadError:
        return None
    try:
        kind, header = parse_message(line.decode())
        sizes = [_size(header, name, most) for name, most in _LENGTHS]
        data_size, payload_size = sizes
        data = dict(_object(header.get("data")))
        if data_size:
            data.update(parse_object(await reader.readexactly(data_size)))
    except ValueError as error:
        raise ProtocolError("bad_message", str(error)) from error
    payload = await reader.readexactly(payload_size) if payload_size else None
    return Event(kind, data, payload)


def _size(header: Json, name: str, most: int) -> int:
    size = integer(header, name, 0, 2**63, 0)
    if size > most:
        raise ProtocolError("too_big", f'"{name}" may be {most} at most, not {size}')
    return size


def _object(data: object) -> dict[str, Any]:
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError('"data" must be an object')
    return data


class _ServiceClosing(Exception):
    """The service has ended the utterance, and there will be no other."""


class WyomingConnection:
    """Owns its socket and at most one session.

    Nothing is read while the session cannot take more or an utterance is being finished: TCP holds
    the client back, and there is no queue of ours to bound. Any failure ends the connection, which
    is what clients that wait for a transcript notice.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        models: LiveModels,
        access: Access,
        metrics: SessionMetrics,
        recorder: SessionRecorder | None = None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._models = models
        self._access = access
        self._metrics = metrics
        self._recorder = recorder
        self._meter: SessionMeter | None = None
        self._recording: SessionRecording | None = None
        engines = {label: one.engine.info for label, one in models.labels.items()}
        self._protocol = WyomingProtocol(models.default.engine.info)
        if models.named:
            self._protocol.offer_engines(engines, lambda name: models.find(name).engine.info)
        self._session: Session | None = None
        self._events_task: asyncio.Task[None] | None = None
        self._idle_timeout_s = _FIRST_EVENT_TIMEOUT_S
        self._pushing = False  # audio waits for the session, which is no silence
        self._failed = False  # the last event was an error

    @property
    def in_session(self) -> bool:
        """Whether an utterance is under way or being finished."""
        return self._session is not None

    async def run(self) -> None:
        """Serve the client until it or the service is done, then free everything."""
        try:
            await self._serve()
        except (OSError, asyncio.IncompleteReadError, _ServiceClosing):
            pass
        except VoxliveError as error:
            await self._fail(error.code, error.message)
        # The boundary of a connection's task, as in LiveSocket: an unforeseen fault ends this one
        # and no other, and its client gets an error.
        except Exception:
            log.exception("a Wyoming connection failed in the server")
            await self._fail("internal", "the server failed in this session; start again")
        finally:
            await self._free()

    async def refuse(self, code: str, message: str) -> None:
        """Send the reason why the client is not served, and close."""
        await self._fail(code, message)
        await self._free()

    async def _serve(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                while event := await self._next():
                    for action in self._protocol.received(event):
                        await self._do(action, tasks)
                if self._events_task:
                    self._events_task.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _next(self) -> Event | None:
        receive_timeout_s = (
            _AUDIO_TIMEOUT_S if self._protocol.in_utterance else self._idle_timeout_s
        )
        try:
            async with asyncio.timeout(receive_timeout_s):
                event = await read_event(self._reader)
        except TimeoutError as error:
            raise ProtocolError("idle", f"nothing came for {receive_timeout_s:g} s") from error
        self._idle_timeout_s = _UTTERANCE_TIMEOUT_S
        return event

    async def _do(self, action: Action, tasks: asyncio.TaskGroup) -> None:
        match action:
            case SendEvent(event):
                await self._send(event)
            case OpenSession():
                await self._open(action, tasks)
            case AudioFrame(data):
                if self._session:
                    self._pushing = True
                    await self._session.push(data)
                    self._pushing = False
                    self._deadline.on_audio(asyncio.get_running_loop().time())
            case StopSession():
                if self._session and self._events_task:
                    await self._session.stop()
                    await self._events_task

    async def _open(self, action: OpenSession, tasks: asyncio.TaskGroup) -> None:
        options = action.options
        limits = (await self._access.admit_without_key()).limits
        service = self._models.find(options.model)
        self._session = session = service.open(options)
        label = self._models.label(service)
        self._meter = self._metrics.open(WyomingProtocol.name, session, label)
        self._recording = None
        if self._recorder and action.store:
            language = service.engine.info.language_of(options.stream)
            self._recording = recording = self._recorder.open(
                session.id, language, ANYONE, WyomingProtocol.name, "", label
            )
            self._recorder.keep_audio(session, action.keep_audio, recording)
        self._deadline = SessionDeadline(limits, asyncio.get_running_loop().time())
        await self._send(*self._protocol.opened(options))
        watching = tasks.create_task(self._keep_limits(session))
        self._events_task = tasks.create_task(self._send_events(session))
        self._events_task.add_done_callback(lambda _: watching.cancel())

    async def _keep_limits(self, session: Session) -> None:
        """End the utterance when it has had its time; its transcript comes then."""
        now = asyncio.get_running_loop().time
        wait_s, end = self._deadline.remaining(now())
        while wait_s > 0:
            await asyncio.sleep(wait_s)
            if self._pushing:
                self._deadline.on_audio(now())
            wait_s, end = self._deadline.remaining(now())
        log.info("session %s ends: %s", session.id, end.message, extra=self._log_fields(end.code))
        self._access.count_error(end.code, WyomingProtocol.name)
        await session.stop()

    async def _send_events(self, session: Session) -> None:
        """Send all events of one utterance. The service may end it too, and then the connection."""
        async for event in session.events():
            if self._meter:
                self._meter.on_event(event)
            trace = self._meter.tracing(event) if self._meter else None
            if self._recording:
                recorded = self._recording.record(event)
                await (trace.storing(recorded) if trace else recorded)
            await self._send(*self._protocol.on_event(event))
            if trace:
                trace.on_sent(event)
        self._session = self._events_task = None
        await self._close(session)
        if self._models.closing:
            raise _ServiceClosing

    async def _send(self, *events: Event) -> None:
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                for event in events:
                    await async_write_event(event, self._writer)
        except TimeoutError as error:
            message = f"nothing was read for {_SEND_TIMEOUT_S:g} s"
            raise ProtocolError("slow_client", message) from error

    async def _fail(self, code: str, message: str) -> None:
        log.info("a Wyoming connection ended: %s: %s", code, message, extra=self._log_fields(code))
        self._access.count_error(code, WyomingProtocol.name)
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await async_write_event(error_event(code, message), self._writer)
        self._failed = True

    async def _linger(self) -> None:
        """Read what the client still sends until it closes, for a second and a MiB at most.

        A close over unread data resets the connection, and the client may lose the error by that.
        """
        left = _MAX_LINGER_BYTES
        with contextlib.suppress(OSError):
            self._writer.write_eof()
            async with asyncio.timeout(_LINGER_S):
                while left > 0 and (data := await self._reader.read(left)):
                    left -= len(data)

    async def _close(self, session: Session) -> None:
        if self._recording:
            self._recording.on_state("ended", session.received)
        await session.close()
        if self._meter:
            self._meter.close()

    def _log_fields(self, code: str) -> dict[str, str]:
        """The fields of a line in the log."""
        return {**(self._meter.fields if self._session and self._meter else {}), "code": code}

    async def _free(self) -> None:
        if self._session:
            session, self._session = self._session, None
            await self._close(session)
        if self._failed:
            await self._linger()
        self._writer.close()
        # A peer that reads nothing cannot keep a finished connection open.
        asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT_S, self._writer.transport.abort)
