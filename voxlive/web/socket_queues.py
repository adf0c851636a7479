"""What a client has sent ahead of its session: kept, so that the socket is read all the time.

A socket that is not read answers no ping, and either side's keepalive ends it. A client that plays
a file faster than the engine hears it would lose its session that way.

What goes out on a socket: in order, and to a client that reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVarTuple

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from voxlive.errors import ProtocolError
from voxlive.streaming.queues import Timeout, Wakeup
from voxlive.web.protocols.contract import Action, AudioFrame, CloseSocket, Out, Protocol

MAX_AHEAD = 64 << 20
"""Bytes of audio: half an hour of 16 kHz PCM. Beyond that the socket is not read after all."""
MAX_OTHERS = 10_000
"""Actions that are no audio, such as answers that are not read. Beyond that, the same."""
_JOINED = 4096
EACH = 200
"""Bytes that an action takes besides its audio, which are counted with it."""


class Ahead:
    """Actions in order, for one reader."""

    def __init__(self, limit: int = MAX_AHEAD) -> None:
        self._limit = limit
        self._actions: deque[Action] = deque()
        self._bytes = 0
        self._others = 0
        self._arrived = Wakeup()
        self._room = asyncio.Event()

    @property
    def waiting(self) -> bool:
        """Whether there is anything to get."""
        return bool(self._actions)

    @property
    def idle(self) -> bool:
        """Whether nothing is to be got and whatever was got before is done."""
        return self._arrived.awaited

    async def put(self, action: Action) -> None:
        """Append; waits while as much as is allowed is waiting already."""
        while not self._has_room():
            self._room.clear()
            await self._room.wait()
        if not self._joins(action):
            self._actions.append(action)
            self._count(action, 1)
        self._arrived.ring()

    async def get(self) -> Action:
        """Remove the oldest; waits for one."""
        while not self._actions:
            await self._arrived.wait()
        action = self._actions.popleft()
        self._count(action, -1)
        self._room.set()
        return action

    def _joins(self, action: Action) -> bool:
        """Add a little audio to the little that came last: many small pieces take more room."""
        last = self._actions[-1] if self._actions else None
        if not (isinstance(action, AudioFrame) and isinstance(last, AudioFrame)):
            return False
        if last.source != action.source or len(last.data) + len(action.data) > _JOINED:
            return False
        self._actions[-1] = AudioFrame(last.data + action.data, last.source)
        self._bytes += len(action.data)
        return True

    def _has_room(self) -> bool:
        return self._bytes < self._limit and self._others < MAX_OTHERS

    def _count(self, action: Action, sign: int) -> None:
        if isinstance(action, AudioFrame):
            self._bytes += sign * (len(action.data) + EACH)
        else:
            self._others += sign


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
            if isinstance(out, CloseSocket):
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
