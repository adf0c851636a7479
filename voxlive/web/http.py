"""HTTP/1.1 and WebSocket connections: uvicorn's protocols, with bounds on time and memory.

Timeouts of an HTTP connection; a slow request is answered with 408 if it has sent anything:

| what | may last |
|---|---|
| a request's head, from the connection or the first byte of the next request on | 10 s |
| idle between two requests | 5 s |
| a request's body | 30 s, and a second more for every 1000 bytes received |
| a response that the client does not read | 30 s |
| the rest of a body whose request is answered already | 30 s |
| what a client sends after a 400 or 408 | 5 s |

A connection that is closed before its client has sent all is half closed, and what still comes is
discarded: closing over unread input would reset the connection, and the client might lose the
response (RFC 9112, 9.6).

Bounds of a WebSocket connection:

- Unread output, pongs included: the transport's high-water mark. Beyond it nothing is read from
  the client, and it is cut off 30 s later.
- Pings, pongs and frames of less than 16 bytes, as empty fragments are: 2000 at once, 500 a second;
  frames of less than 64 bytes ten times as many. More are read no faster.
- Frames in one turn of the event loop: about 170. Then the other connections have their turn.
- Fragments of a message are joined as they come, so that many small ones take no more room.
- Incomplete messages, of all clients together: 512 MiB. The connection that goes beyond is closed
  with 1009.

A handshake with more than one Connection header is recognised too: some clients and proxies send
``Connection: Upgrade`` and ``Connection: keep-alive`` as two lines, which mean the same as one
(RFC 9110, 5.3); uvicorn looks at the last.
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
from voxlive.web.ports import ABORT, MAX_PARTIAL, Connections, UvicornConfig

HEAD_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 30.0
BODY_RATE = 1000  # bytes that extend the body's timeout by a second
UNREAD_TIMEOUT_S = 30.0
LINGER_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 5.0
"""How long a connection that is closed may take to send its last bytes."""

_BODY_CHECK_S = 5.0
_SLICE = 1024  # bytes that are parsed in one go: at most 170 frames
_MAX_SLICES = 64  # in one turn of the event loop, while they hold few frames
_MAX_FRAMES = 64  # in one turn, before the next slice
# A tenth: a control of a protocol is that small. Of a flood of them a pong has to come through in
# time, or the connection ends as one that answers no ping.
_TINY, _SMALL, _SMALL_COST = 16, 64, 0.1
_SMALL_PER_S, _SMALL_BURST = 500, 2000
_MIN_PAUSE_S = 0.1
_408 = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_400 = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s"
)


class UnreadTimeout(asyncio.Protocol):
    """Mixin: cuts off a peer that leaves its output unread for ``UNREAD_TIMEOUT_S``."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _unread_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Start the timer: the peer does not read, for now."""
        super().pause_writing()
        if not self._unread_timer:
            self._unread_timer = self.loop.call_later(UNREAD_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer: the peer reads again."""
        super().resume_writing()
        self._stop_unread_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_unread_timer()
        super().connection_lost(exc)

    def _stop_unread_timer(self) -> None:
        if self._unread_timer:
            self._unread_timer.cancel()
            self._unread_timer = None


class HttpConnection(UnreadTimeout, H11Protocol):
    """uvicorn's HTTP protocol, which has a timer between two requests only, with the others."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        assert isinstance(self.config, UvicornConfig)
        self._connections: Connections = self.config.connections
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._body_deadline = 0.0
        self._upgraded = False
        self._draining = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection and start the timer of its first request."""
        super().connection_made(transport)
        self._connections.add(transport)
        self._update_timers(received=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection, and its timers."""
        self._connections.remove(self.transport)
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes of a request, and restart the timers."""
        if self._draining:
            return
        self._body_deadline += len(data) / BODY_RATE
        super().data_received(data)
        self._update_timers(received=True)

    def handle_events(self) -> None:
        """Parse; a response's end closes the connection in the way of ``close_after_response``."""
        super().handle_events()
        if self.cycle is not None and not isinstance(self.cycle.transport, ResponseTransport):
            self.cycle.transport = ResponseTransport(self)

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP, unless a response is on its way, and close."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(_400 % (len(msg), msg.encode("ascii")))
        self._drain_and_close(CLOSE_TIMEOUT_S)

    def close_after_response(self) -> None:
        """Close at once, or once the rest of the request has come or taken too long."""
        if self.conn.their_state is h11.SEND_BODY:
            self._drain_and_close(LINGER_TIMEOUT_S)
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        """The response is sent, perhaps before the body was received."""
        super().on_response_complete()
        self._update_timers(received=bool(self.conn.trailing_data[0]))

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection to the WebSocket protocol, which has its own bounds."""
        self._upgraded = True
        self._stop_head_timer()
        self._connections.mark_busy(self.transport)
        super().handle_websocket_upgrade(event)

    def _update_timers(self, *, received: bool) -> None:
        """Set the timers by the request's state; ``received``: bytes have come since."""
        if self._upgraded or self._draining or self.transport.is_closing():
            return
        responding = self.cycle is not None and not self.cycle.response_complete
        receiving = self.conn.their_state is h11.SEND_BODY
        if responding:
            self._stop_head_timer()
            self._connections.mark_busy(self.transport)
            if receiving and not self._body_timer:
                self._body_deadline = self.loop.time() + BODY_TIMEOUT_S
                self._body_timer = self.loop.call_later(_BODY_CHECK_S, self._check_body)
        elif receiving and self.cycle is not None:
            if not self._linger_timer:
                self._linger_timer = self.loop.call_later(LINGER_TIMEOUT_S, self._close)
        else:
            if self._linger_timer:
                self._linger_timer.cancel()
                self._linger_timer = None
            self._connections.mark_idle(self.transport, self.transport.abort)
            if received and not self._head_timer:
                self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._time_out)

    def _check_body(self) -> None:
        self._body_timer = None
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.more_body:
            return
        if self.flow.read_paused:  # the server does not read, for now
            self._body_deadline = max(self._body_deadline, self.loop.time() + BODY_TIMEOUT_S)
        if self.loop.time() >= self._body_deadline:
            self._time_out()
        else:
            self._body_timer = self.loop.call_later(_BODY_CHECK_S, self._check_body)

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._body_timer, self._linger_timer):
            if timer:
                timer.cancel()

    def _stop_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _time_out(self) -> None:
        """Close, with 408 for a client that has sent something and got no response yet."""
        if self.cycle is not None and not self.cycle.response_complete:
            unanswered = not self.cycle.response_started
        else:
            unanswered = bool(self.conn.trailing_data[0])
        if unanswered:
            self.transport.write(_408)
            self._drain_and_close(CLOSE_TIMEOUT_S)
        else:
            self._close()

    def _drain_and_close(self, timeout_s: float) -> None:
        """Send no more, and discard what comes until the client closes, at most ``timeout_s``."""
        self._draining = True
        self._stop_timers()
        self._connections.mark_idle(self.transport, self.transport.abort)
        if self.transport.can_write_eof():  # not over TLS: its client goes by the length
            self.transport.write_eof()
        self.flow.resume_reading()
        self._linger_timer = self.loop.call_later(timeout_s, self.transport.abort)

    def _close(self) -> None:
        self.transport.close()
        self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    def _get_upgrade(self) -> bytes | None:
        fields = [(name, value.lower()) for name, value in self.headers]
        tokens = b",".join(value for name, value in fields if name == b"connection").split(b",")
        if b"upgrade" not in [token.strip() for token in tokens]:
            return None
        return next((value for name, value in reversed(fields) if name == b"upgrade"), None)


class ResponseTransport(asyncio.Transport):
    """What a response is written to: its close is the connection's ``close_after_response``."""

    def __init__(self, connection: HttpConnection) -> None:
        super().__init__()
        self._connection = connection

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send to the client."""
        self._connection.transport.write(data)

    def close(self) -> None:
        """Close, once the client has the response."""
        self._connection.close_after_response()

    def is_closing(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._connection.transport.is_closing()


class WebSocketConnection(UnreadTimeout, WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, parsed in slices and read no faster than it is handled."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        assert isinstance(self.config, UvicornConfig)
        self._connections: Connections = self.config.connections
        self._unparsed = bytearray()
        self._fragments: bytearray | None = None  # of a message that is not complete
        self._partial_bytes = 0
        self._small_frames = TokenBucket(60.0 * _SMALL_PER_S, _SMALL_BURST)
        self._frames = 0
        self._next_advance: asyncio.Handle | None = None

    def data_received(self, data: bytes) -> None:
        """Parse bytes of frames, or wait with them."""
        self._unparsed += data
        if self._next_advance is None:
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection, and its timer."""
        self._connections.remove(self.transport)
        self._connections.partial_bytes -= self._partial_bytes
        self._partial_bytes = 0
        self._unparsed.clear()
        if self._next_advance:
            self._next_advance.cancel()
        super().connection_lost(exc)

    async def receive(self) -> ASGIReceiveEvent:
        """The next message; once none is queued, the client is read again."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._schedule_advance()
        return message

    def resume_writing(self) -> None:
        """The peer reads again: so is it read, which it is not while its output is unread."""
        super().resume_writing()
        self._schedule_advance()

    def keepalive_timeout(self) -> None:
        """The client answers no ping: give up what is not sent by now."""
        super().keepalive_timeout()
        self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    async def send(self, message: ASGISendEvent) -> None:
        """Send; after a close frame, read on until the peer's own."""
        await super().send(message)
        if self.close_sent:
            self._schedule_advance()

    async def run_asgi(self) -> None:
        """Serve the connection, and cut it off if the peer does not read its end."""
        self.scope["extensions"][ABORT] = {"abort": self.transport.abort}
        await super().run_asgi()
        self.loop.call_later(self.close_timeout, self.transport.abort)

    def handle_text(self, event: Frame) -> None:
        """Take a text message, or its first fragment."""
        self._count_frame(event)
        if event.fin:
            return super().handle_text(event)
        self.curr_msg_data_type, self._fragments = "text", bytearray(event.data)
        return None

    def handle_bytes(self, event: Frame) -> None:
        """Take a binary message, or its first fragment."""
        self._count_frame(event)
        if event.fin:
            return super().handle_bytes(event)
        self.curr_msg_data_type, self._fragments = "bytes", bytearray(event.data)
        return None

    def handle_cont(self, event: Frame) -> None:
        """Join a fragment at once: a list of many small ones would be far larger."""
        self._count_frame(event)
        assert self._fragments is not None
        self._fragments += event.data
        if event.fin:
            self.frames, self._fragments = [bytes(self._fragments)], None
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Count a ping; the parser answers it."""
        self._frames += 1
        self._small_frames.take(self.loop.time())
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Count a pong, whether or not it answers a ping of this server's."""
        self._count_frame(event)
        super().handle_pong(event)

    def _count_frame(self, event: Frame) -> None:
        self._frames += 1
        if len(event.data) < _SMALL:
            cost = 1.0 if len(event.data) < _TINY else _SMALL_COST
            self._small_frames.take(self.loop.time(), cost)

    def _schedule_advance(self) -> None:
        if self._next_advance is None:
            self._next_advance = self.loop.call_soon(self._run_scheduled)

    def _run_scheduled(self) -> None:
        self._next_advance = None
        self._advance()

    def _advance(self) -> None:
        """Parse what was received as far as the bounds allow, then read more or wait."""
        self._frames = 0
        slices = 0
        while self._unparsed and self._may_parse():
            if slices == _MAX_SLICES or self._frames >= _MAX_FRAMES:
                self._schedule_advance()
                break
            piece = bytes(self._unparsed[:_SLICE])
            del self._unparsed[:_SLICE]
            slices += 1
            super().data_received(piece)
        self._count_partial()
        if not self.transport.is_closing():
            wait_s = self._small_frames.wait_s(self.loop.time())
            if wait_s > 0 and self._next_advance is None:
                pause_s = max(wait_s, _MIN_PAUSE_S)
                self._next_advance = self.loop.call_later(pause_s, self._run_scheduled)
            if self._unparsed or self._next_advance or not self._may_parse():
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _may_parse(self) -> bool:
        return (
            not self.read_paused
            and self.writable.is_set()
            and self._small_frames.wait_s(self.loop.time()) <= 0
            and not self.transport.is_closing()
        )

    def _count_partial(self) -> None:
        """Bound the bytes of incomplete messages, of all clients together."""
        partial = len(self.conn.reader.buffer) + len(self._fragments or b"")
        self._connections.partial_bytes += partial - self._partial_bytes
        self._partial_bytes = partial
        if (
            self._connections.partial_bytes > MAX_PARTIAL
            and partial > _SLICE
            and not self.close_sent
        ):
            self.conn.fail(1009, "too many unfinished messages")
            self.handle_parser_exception()
            self._connections.partial_bytes -= partial  # the others need not wait for its end
            self._partial_bytes = 0
