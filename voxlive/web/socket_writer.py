"""The sending side of a live connection: what its sessions have to send, and the socket's writer.

The writer has a timeout for clients that do not read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from voxlive.errors import ProtocolError
from voxlive.store.contract import AddSent, State
from voxlive.streaming.events import (
    Event,
    SessionCheckpoint,
    SessionClosed,
    SpeechStarted,
    SpeechStopped,
)
from voxlive.streaming.intake import LiveSession
from voxlive.streaming.queues import Outbox, Timeout
from voxlive.streaming.traces import PipelineTrace
from voxlive.turns.told import TurnsTold
from voxlive.web.captions.feed import CaptionFeed
from voxlive.web.captions.feeds import CaptionFeeds
from voxlive.web.metrics import SessionMeter
from voxlive.web.ports import ABORT
from voxlive.web.protocols.contract import CloseSocket, Out, Protocol
from voxlive.web.recording import SessionRecording, StoredCheckpoint, tell_of_turns

# A client may leave what it is sent unread for this long, and then has this long for the error.
_SEND_TIMEOUT_S = 10.0
_FAIL_TIMEOUT_S = 5.0
_LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Notice:
    """A message of the protocol among a session's events, translated when its turn comes.

    Events are translated then too, so that sequence numbers follow the order of sending.
    """

    translate: Callable[[], list[Out]]


class ConnectionState:
    """The sessions of one client, by source, with their queue out, captions, meters, recordings."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.outbox: Outbox[Notice] = Outbox()
        self.sessions: dict[str, LiveSession] = {}
        self.caption_feeds: dict[str, CaptionFeed] = {}
        self.meters: dict[str, SessionMeter] = {}
        self.recordings: dict[str, SessionRecording] = {}
        self.unfinished = 0
        """Sessions whose events have not all been translated."""
        self.sent = 0
        """The number of the next message, where they are kept."""
        self.speech_events: Counter[str] = Counter()
        """How many there were, by the session's source."""
        self.turns: dict[str, TurnsTold] = {}
        """What was told of them, by the session's source."""
        self._sending: tuple[PipelineTrace, Event] | None = None

    async def next(self) -> tuple[list[Out], bool]:
        """The frames of the next event or notice, and whether all sessions have ended with it.

        Where the session is kept its store has the event by then, or is late. Raises ProtocolError
        if another server goes on with the session.
        """
        self._sending = None
        source, entry = await self.outbox.take()
        recording = self.recordings.get(source)
        if recording:
            self.protocol.on_sent_kept(recording.sent_kept)
        if isinstance(entry, SessionCheckpoint):
            return await self._checkpoint(entry, recording), False
        if isinstance(entry, Notice):
            event, outs = None, entry.translate()
        else:
            event, outs = entry, self._translate(source, entry)
        trace = self.meters[source].tracing(event) if event else None
        ended = isinstance(event, SessionClosed)
        self.unfinished -= ended
        # Whoever cancels this here does not lose the event: the protocol has it already.
        if recording:
            recorded = recording.record(event, self._take_sent())
            warning = await (trace.storing(recorded) if trace else recorded)
            if warning and not ended:
                outs = outs + self._translate(source, warning)
                await recording.record(None, self._take_sent())
        self._sending = (trace, event) if trace and event else None
        return outs, ended and not self.unfinished

    def on_sent(self) -> None:
        """What ``next`` has returned is on its way to the client."""
        if self._sending:
            trace, event = self._sending
            trace.on_sent(event)

    def _translate(self, source: str, event: Event) -> list[Out]:
        self.caption_feeds[source].on_event(event)
        self.meters[source].on_event(event)
        if isinstance(event, SpeechStarted | SpeechStopped):
            self.speech_events[event.source] += 1
        elif source in self.recordings and self.recordings[source].resumable:
            tell_of_turns(self.turns, event)
        return self.protocol.on_source_event(source, event)

    def _take_sent(self) -> AddSent | None:
        sent = self.protocol.take_sent()
        self.sent = sent.first + len(sent.texts) if sent else self.sent
        return sent

    async def _checkpoint(
        self, checkpoint: SessionCheckpoint, recording: SessionRecording | None
    ) -> list[Out]:
        """The frames for a checkpoint, which only counts once it is stored."""
        for told in self.turns.values():
            told.forget(min(at.gate.end for at in checkpoint.sources))
        kept = StoredCheckpoint(checkpoint, self.sent, {**self.speech_events}, self.turns)
        if recording and await recording.set_checkpoint(kept.dump()):
            self.protocol.on_sent_kept(recording.sent_kept)
            return self.protocol.on_event(checkpoint)
        return []

    def on_state(self, state: State, error: str | None = None) -> None:
        """The client is gone for now, is back, or does not come back: have that kept."""
        for source, recording in self.recordings.items():
            if session := self.sessions.get(source):
                recording.on_state(state, session.received, error)

    @property
    def has_audience(self) -> bool:
        """Whether words have somebody beside the client: the store, or readers of the captions."""
        return bool(self.recordings) or any(one.readers for one in self.caption_feeds.values())

    def _leave(self) -> None:
        for source, recording in self.recordings.items():
            if session := self.sessions.get(source):
                recording.leave(session.received)
                session.leave()

    def end_resumable(self) -> None:
        """The sessions can be resumed no more."""
        for recording in self.recordings.values():
            recording.end_resumable()

    async def close(
        self, feeds: CaptionFeeds, error: str | None = None, *, over: bool = True
    ) -> None:
        """Free everything at once; ``error`` is the code of why. May be called twice.

        ``over`` False: another server may go on with the sessions.
        """
        if over:
            self.on_state("ended", error)
        else:
            self._leave()
        while self.caption_feeds:
            feeds.close(self.caption_feeds.popitem()[1], over=over)
        while self.sessions:
            source, session = self.sessions.popitem()
            await session.close()
            if source in self.meters:
                self.meters[source].close(error)


class SocketWriter:
    """Sends on one WebSocket, for one task at a time; nothing else sends on it.

    ``offered`` are the client's sub-protocols without those that carry a key, which must not be
    sent back. Sending raises ProtocolError (``slow_client``) when the client does not read, and
    WebSocketDisconnect when the connection is closed.
    """

    def __init__(self, socket: WebSocket, offered: Sequence[str]) -> None:
        self._socket = socket
        self._offered = offered
        self._send_timeout = Timeout()

    async def accept(self, protocol: Protocol) -> None:
        """Accept the handshake with the protocol's sub-protocol and headers."""
        handshake_response = protocol.handshake_response(self._offered)
        headers = [
            (name.encode(), value.encode()) for name, value in handshake_response.headers.items()
        ]
        # A browser that offered some gives up unless one is selected.
        selected = handshake_response.subprotocol or next(iter(self._offered), None)
        await self._send(self._socket.accept(selected, headers))

    async def send(self, outs: list[Out]) -> bool:
        """Send what the protocol has made; True once it has closed the socket."""
        for out in outs:
            if isinstance(out, CloseSocket):
                await asyncio.sleep(out.wait_s)
                await self._send(self._socket.close(out.code, out.reason))
                return True
            await self._send(self._socket.send_text(out))
        return False

    async def drop(self, session: LiveSession, at: int) -> None:
        """A fault on demand: once the session is at this sample, break the line, with no close.

        Raises WebSocketDisconnect then.
        """
        while session.received < at:  # noqa: ASYNC110 (other sessions need no event for it)
            await asyncio.sleep(_LOOK_S)
        if extension := self._socket.scope.get("extensions", {}).get(ABORT):
            extension["abort"]()
        raise WebSocketDisconnect(1006)

    async def fail(
        self,
        protocol: Protocol,
        code: str,
        message: str,
        headers: Mapping[str, str],
        waiting: Iterable[Notice],
    ) -> None:
        """Send what is waiting, then the error; a client that is gone is no failure."""
        with contextlib.suppress(TimeoutError, WebSocketDisconnect):
            async with asyncio.timeout(_FAIL_TIMEOUT_S):
                for notice in waiting:
                    await self.send(notice.translate())
                if not await self._deny(protocol, code, message, headers):
                    await self.send(protocol.failed(code, message))

    async def _deny(
        self, protocol: Protocol, code: str, message: str, headers: Mapping[str, str]
    ) -> bool:
        """Whether the error was sent as a refusal of the handshake, which is accepted otherwise."""
        if self._socket.application_state is not WebSocketState.CONNECTING:
            return False
        denial = protocol.denied(code, message)
        if denial is None:
            await self.accept(protocol)
            return False
        response = JSONResponse(denial.body, denial.status, {**denial.headers, **headers})
        await self._send(self._socket.send_denial_response(response))
        return True

    async def _send(self, sending: Awaitable[None]) -> None:
        try:
            with self._send_timeout.within(_SEND_TIMEOUT_S):
                await sending
        except TimeoutError as error:
            message = f"nothing was read for {_SEND_TIMEOUT_S:g} s"
            raise ProtocolError("slow_client", message) from error
        except RuntimeError as error:
            # The server's own keepalive or shutdown has closed the socket under this session.
            raise WebSocketDisconnect(1006) from error
