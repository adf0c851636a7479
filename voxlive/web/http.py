"""An HTTP/1.1 connection: uvicorn's, with an end to what does nothing.

| what | may last |
|---|---|
| a request's head, from the connection or the first byte of the next request on | 10 s |
| nothing between two requests | 5 s |
| a request's body | 30 s, and a second more for every 1000 bytes that came |
| an answer that is not read | 30 s |
| the rest of a body whose request is answered already | 30 s |

A WebSocket handshake with more than one Connection header is recognised too: some clients and
proxies send ``Connection: Upgrade`` and ``Connection: keep-alive`` as two lines, which mean the
same as one (RFC 9110, 5.3); uvicorn looks at the last.

A WebSocket connection: uvicorn's, with a bound on what a client can make it do.

- What is not read, answers to pings included: the transport's high-water mark. Beyond it nothing is
  read from that client, and it is cut off 30 s later.
- Pings, pongs and frames of less than 16 bytes, as empty fragments are: 2000 at once, 500 a second;
  of less than 64 bytes ten times as many. More are read no faster.
- Frames in one turn of the event loop: about 170. Then the other connections have their turn.
- Parts of a message: they are joined as they come, so that many small ones take no more room.
- Messages that are not complete, of all clients together: 512 MiB. The connection that goes beyond
  is closed with 1009.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from voxlive.web.access.keys import TokenBucket
from voxlive.web.connections import MAX_PARTIAL, Connections, EdgeConfig

HEAD_S = 10.0
BODY_S = 30.0
BODY_RATE = 1000  # bytes for a second more
UNREAD_S = 30.0
LINGER_S = 30.0
CLOSE_S = 5.0
"""For a connection that is closed to bring out its last bytes."""

_LOOK_S = 5.0
_408 = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class HttpConnection(H11Protocol):
    """uvicorn's protocol, which knows of one timer only: between two requests."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        assert isinstance(self.config, EdgeConfig)
        self._edge: Connections = self.config.connections
        self._head: asyncio.TimerHandle | None = None
        self._body: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._body_until = 0.0
        self._upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """From here on it is counted."""
        super().connection_made(transport)
        self._edge.opened(transport)
        self._look(came=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._edge.closed(self.transport)
        for timer in (self._head, self._body, self._unread, self._linger):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """More of a head, of a body, or of what nobody waits for."""
        self._body_until += len(data) / BODY_RATE
        super().data_received(data)
        self._look(came=True)

    def on_response_complete(self) -> None:
        """The answer is out, perhaps before the body was read."""
        super().on_response_complete()
        self._look(came=bool(self.conn.trailing_data[0]))

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """From here on the connection is another protocol's."""
        self._upgraded = True
        self._stop_head()
        self._edge.works(self.transport)
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        """The peer does not read, for now."""
        super().pause_writing()
        if not self._unread:
            self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if self._unread:
            self._unread.cancel()
            self._unread = None

    def _look(self, *, came: bool) -> None:
        """Set the timers by where the connection is now; ``came``: bytes have come."""
        if self._upgraded or self.transport.is_closing():
            return
        answering = self.cycle is not None and not self.cycle.response_complete
        unread = self.conn.their_state is h11.SEND_BODY
        if answering:
            self._stop_head()
            self._edge.works(self.transport)
            if unread and not self._body:
                self._body_until = self.loop.time() + BODY_S
                self._body = self.loop.call_later(_LOOK_S, self._look_at_body)
        elif unread and self.cycle is not None:
            self._linger = self._linger or self.loop.call_later(LINGER_S, self._close)
        else:
            if self._linger:
                self._linger.cancel()
                self._linger = None
            self._edge.waits(self.transport, self.transport.abort)
            if came and not self._head:
                self._head = self.loop.call_later(HEAD_S, self._time_out)

    def _look_at_body(self) -> None:
        self._body = None
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.more_body:
            return
        if self.flow.read_paused:  # the server does not read, for now
            self._body_until = max(self._body_until, self.loop.time() + BODY_S)
        if self.loop.time() >= self._body_until:
            self._time_out()
        else:
            self._body = self.loop.call_later(_LOOK_S, self._look_at_body)

    def _stop_head(self) -> None:
        if self._head:
            self._head.cancel()
            self._head = None

    def _time_out(self) -> None:
        """Too slow. A client that has sent something and got no answer is told so."""
        if self.cycle is not None and not self.cycle.response_complete:
            tell = not self.cycle.response_started
        else:
            tell = bool(self.conn.trailing_data[0])
        if tell:
            self.transport.write(_408)
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self.loop.call_later(CLOSE_S, self.transport.abort)

    def _get_upgrade(self) -> bytes | None:
        fields = [(name, value.lower()) for name, value in self.headers]
        tokens = b",".join(value for name, value in fields if name == b"connection").split(b",")
        if b"upgrade" not in [token.strip() for token in tokens]:
            return None
        return next((value for name, value in reversed(fields) if name == b"upgrade"), None)


_SLICE = 1024  # bytes that are parsed in one go: at most 170 frames
_TURN = 64  # slices in one turn, while they hold few frames
_FRAMES_PER_TURN = 64
# A tenth: a control of a protocol is that small. Of a flood of them a pong has to come through in
# time, or the connection ends as one that answers no ping.
_TINY, _SMALL, _SMALL_PRICE = 16, 64, 0.1
_SMALL_PER_S, _SMALL_AT_ONCE = 500, 2000
_HOLD_S = 0.1


class WebSocketConnection(WebSocketsSansIOProtocol):
    """Parses in slices, and reads on only when what came before is dealt with."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        assert isinstance(self.config, EdgeConfig)
        self._edge: Connections = self.config.connections
        self._unparsed = bytearray()
        self._parts: bytearray | None = None  # of a message that is not complete
        self._partial = 0
        self._small = TokenBucket(60.0 * _SMALL_PER_S, _SMALL_AT_ONCE)
        self._frames = 0
        self._next: asyncio.Handle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes of frames, or the handshake."""
        self._unparsed += data
        if self._next is None:
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._edge.closed(self.transport)
        self._edge.partial -= self._partial
        self._partial = 0
        self._unparsed.clear()
        for timer in (self._next, self._unread):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    async def receive(self) -> ASGIReceiveEvent:
        """The next message; once there is none, the client is read again."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._soon()
        return message

    def pause_writing(self) -> None:
        """The peer does not read: nor is it read, since what it says has answers."""
        super().pause_writing()
        if not self._unread:
            self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if self._unread:
            self._unread.cancel()
            self._unread = None
        self._soon()

    def keepalive_timeout(self) -> None:
        """It answers no ping: what is not sent by now need not be."""
        super().keepalive_timeout()
        self.loop.call_later(CLOSE_S, self.transport.abort)

    async def send(self, message: ASGISendEvent) -> None:
        """As uvicorn; after a close the peer's own is still to be read."""
        await super().send(message)
        if self.close_sent:
            self._soon()

    async def run_asgi(self) -> None:
        """A peer that reads nothing cannot keep a finished connection open."""
        await super().run_asgi()
        self.loop.call_later(self.close_timeout, self.transport.abort)

    # What frames do.

    def handle_text(self, event: Frame) -> None:
        """A message, or its first part."""
        self._count(event)
        if event.fin:
            return super().handle_text(event)
        self.curr_msg_data_type, self._parts = "text", bytearray(event.data)
        return None

    def handle_bytes(self, event: Frame) -> None:
        """A message, or its first part."""
        self._count(event)
        if event.fin:
            return super().handle_bytes(event)
        self.curr_msg_data_type, self._parts = "bytes", bytearray(event.data)
        return None

    def handle_cont(self, event: Frame) -> None:
        """Another part, joined at once: a list of many small ones would be far larger."""
        self._count(event)
        assert self._parts is not None
        self._parts += event.data
        if event.fin:
            self.frames, self._parts = [bytes(self._parts)], None
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answered by the parser."""
        self._frames += 1
        self._small.take(self.loop.time())
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """The answer to a ping of ours, or none."""
        self._count(event)
        super().handle_pong(event)

    def _count(self, event: Frame) -> None:
        self._frames += 1
        if len(event.data) < _SMALL:
            price = 1.0 if len(event.data) < _TINY else _SMALL_PRICE
            self._small.take(self.loop.time(), price)

    # When it is read.

    def _soon(self) -> None:
        if self._next is None:
            self._next = self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._next = None
        self._advance()

    def _advance(self) -> None:
        """Parse what has come until something has to happen first, then read more or wait."""
        self._frames = 0
        slices = 0
        while self._unparsed and self._may_go_on():
            if slices == _TURN or self._frames >= _FRAMES_PER_TURN:
                self._soon()
                break
            piece = bytes(self._unparsed[:_SLICE])
            del self._unparsed[:_SLICE]
            slices += 1
            super().data_received(piece)
        self._count_partial()
        if not self.transport.is_closing():
            wait_s = self._small.wait_s(self.loop.time())
            if wait_s > 0 and self._next is None:
                self._next = self.loop.call_later(max(wait_s, _HOLD_S), self._go_on)
            if self._unparsed or self._next or not self._may_go_on():
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _may_go_on(self) -> bool:
        return (
            not self.read_paused
            and self.writable.is_set()
            and self._small.wait_s(self.loop.time()) <= 0
            and not self.transport.is_closing()
        )

    def _count_partial(self) -> None:
        """Bound what waits for its end, of this client and of others."""
        partial = len(self.conn.reader.buffer) + len(self._parts or b"")
        self._edge.partial += partial - self._partial
        self._partial = partial
        if self._edge.partial > MAX_PARTIAL and partial > _SLICE and not self.close_sent:
            self.conn.fail(1009, "too many unfinished messages")
            self.handle_parser_exception()
            self._edge.partial -= partial  # the others need not wait for its end
            self._partial = 0
