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
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .connections import Connections, EdgeConfig

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
