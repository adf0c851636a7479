"""A client of ``/v1/live`` in this process, whose line may break."""

from __future__ import annotations

import asyncio
import json
from collections import deque

from starlette.websockets import WebSocket

from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.protocols.live import LiveProtocol

START = {"type": "start", "format": "s16le", "rate": 16000, "resumable": True}


class Line:
    """One WebSocket between a client and a server in this process, which may break."""

    def __init__(self, endpoints: LiveEndpoints, query: str = "") -> None:
        self._incoming: asyncio.Queue[dict] = asyncio.Queue()
        self.received: deque[dict] = deque()
        self._arrived = asyncio.Event()
        self.closed: int | None = None
        self.flows = asyncio.Event()
        self.flows.set()
        self._incoming.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "path": "/v1/live",
            "query_string": query.encode(),
            "headers": [],
            "subprotocols": [],
            "server": ("test", 80),
        }
        serve = endpoints.endpoint(LiveProtocol)
        self._task = asyncio.create_task(serve(WebSocket(scope, self._incoming.get, self._send)))

    async def _send(self, message: dict) -> None:
        await self.flows.wait()
        if message["type"] == "websocket.send":
            self.received.append(json.loads(message["text"]))
        elif message["type"] == "websocket.close":
            self.closed = message["code"]
        self._arrived.set()

    def send(self, message: dict | bytes) -> None:
        if isinstance(message, bytes):
            self._incoming.put_nowait({"type": "websocket.receive", "bytes": message})
        else:
            text = json.dumps(message)
            self._incoming.put_nowait({"type": "websocket.receive", "text": text})

    async def until(self, *kinds: str) -> list[dict]:
        """All messages up to the first of these kinds; ConnectionError at a close before it."""
        got: list[dict] = []
        while not got or got[-1]["type"] not in kinds:
            while not self.received:
                if self.closed is not None:
                    raise ConnectionError(self.closed, got)
                self._arrived.clear()
                await self._arrived.wait()
            got.append(self.received.popleft())
        return got

    async def read(self, yields: int) -> list[dict]:
        """What has come after the loop has gone round so many times."""
        for _ in range(yields):
            await asyncio.sleep(0)
        got = list(self.received)
        self.received.clear()
        return got

    async def break_off(self) -> None:
        """Neither side gets anything any more; the server learns that the client is gone."""
        while not self._incoming.empty():
            self._incoming.get_nowait()
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
        await self._task

    async def end(self) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self._task
