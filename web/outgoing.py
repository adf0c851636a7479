"""What goes out on a socket: in order, and to a client that reads it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVarTuple

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..streaming.timeout import Timeout
from .protocols.contract import Close, Out, Protocol, ProtocolError

# A client may leave what it is sent unread for this long, and then has this long for the error.
_READ_WITHIN_S = 10.0
_LAST_WORDS_S = 5.0

_Args = TypeVarTuple("_Args")


class Outgoing:
    """One connection's way out, for any number of tasks.

    ``offered`` are the client's sub-protocols without those that carry a key: none is said back.
    What is sent raises ProtocolError (``slow_client``) when it stays unread, and
    WebSocketDisconnect when the connection is gone.
    """

    def __init__(self, socket: WebSocket, protocol: Protocol, offered: Sequence[str]) -> None:
        self._socket = socket
        self._protocol = protocol
        self._offered = offered
        self._turn = asyncio.Lock()
        self._unread = Timeout()  # of whose turn it is

    async def accept(self) -> None:
        """Take the handshake, as the protocol welcomes its clients."""
        welcome = self._protocol.welcome(self._offered)
        headers = [(name.encode(), value.encode()) for name, value in welcome.headers.items()]
        # A browser that offered some gives up unless one is selected.
        selected = welcome.subprotocol or next(iter(self._offered), None)
        await self._send(self._socket.accept(selected, headers))

    async def say(self, translate: Callable[[*_Args], list[Out]], *args: *_Args) -> bool:
        """Translate and send in one go, so that what is numbered first is sent first.

        True once the protocol has closed the socket.
        """
        async with self._turn:
            outs = translate(*args)
            for out in outs:
                if isinstance(out, str):
                    await self._send(self._socket.send_text(out))
        for out in outs:
            if isinstance(out, Close):
                await asyncio.sleep(out.wait_s)
                async with self._turn:
                    await self._send(self._socket.close(out.code, out.reason))
                return True
        return False

    async def fail(self, code: str, message: str, headers: Mapping[str, str]) -> None:
        """The last words: why this ends, to a client that may be gone."""
        with contextlib.suppress(TimeoutError, WebSocketDisconnect):
            async with asyncio.timeout(_LAST_WORDS_S):
                if not await self._deny(code, message, headers):
                    await self.say(self._protocol.failed, code, message)

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
