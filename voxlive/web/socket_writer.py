"""What goes out on a socket, to a client that reads it: for one task."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from voxlive.errors import ProtocolError
from voxlive.streaming.queues import Timeout
from voxlive.web.protocols.contract import CloseSocket, Out, Protocol

# A client may leave what it is sent unread for this long, and then has this long for the error.
_READ_WITHIN_S = 10.0
_LAST_WORDS_S = 5.0


@dataclass(frozen=True, slots=True)
class Notice:
    """What goes out between a session's events: translated when its turn comes, as they are.

    So what is numbered first is sent first.
    """

    translate: Callable[[], list[Out]]


class SocketWriter:
    """One connection's way out. Whoever uses it is alone: no one else sends on the socket then.

    ``offered`` are the client's sub-protocols without those that carry a key: none is said back.
    What is sent raises ProtocolError (``slow_client``) when it stays unread, and
    WebSocketDisconnect when the connection is gone.
    """

    def __init__(self, socket: WebSocket, protocol: Protocol, offered: Sequence[str]) -> None:
        self._socket = socket
        self._protocol = protocol
        self._offered = offered
        self._unread = Timeout()

    async def accept(self) -> None:
        """Take the handshake, as the protocol welcomes its clients."""
        handshake_response = self._protocol.handshake_response(self._offered)
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

    async def fail(
        self, code: str, message: str, headers: Mapping[str, str], waiting: Iterable[Notice]
    ) -> None:
        """What still waits, then why this ends, to a client that may be gone."""
        with contextlib.suppress(TimeoutError, WebSocketDisconnect):
            async with asyncio.timeout(_LAST_WORDS_S):
                for notice in waiting:
                    await self.send(notice.translate())
                if not await self._deny(code, message, headers):
                    await self.send(self._protocol.failed(code, message))

    async def _deny(self, code: str, message: str, headers: Mapping[str, str]) -> bool:
        """Refuse the handshake, if that is still open and the protocol's way; else accept it."""
        if self._socket.application_state is not WebSocketState.CONNECTING:
            return False
        denial = self._protocol.denied(code, message)
        if denial is None:
            await self.accept()
            return False
        response = JSONResponse(denial.body, denial.status, {**denial.headers, **headers})
        await self._send(self._socket.send_denial_response(response))
        return True

    async def _send(self, sending: Awaitable[None]) -> None:
        try:
            with self._unread.within(_READ_WITHIN_S):
                await sending
        except TimeoutError as error:
            message = f"nothing was read for {_READ_WITHIN_S:g} s"
            raise ProtocolError("slow_client", message) from error
        except RuntimeError as error:
            # The server's own keepalive or shutdown has closed the socket under this session.
            raise WebSocketDisconnect(1006) from error
