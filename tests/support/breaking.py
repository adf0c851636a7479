"""A relay to a server whose connections break off after a random number of bytes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class BreakingRelay:
    """``breaks`` counts; the connection after the last of ``most`` lives."""

    def __init__(self, url: str, seed: int, most: int, longest: int) -> None:
        parts = urlsplit(url)
        self._to = parts.hostname, parts.port
        self._random = random.Random(seed)
        self._most, self._longest = most, longest
        self.breaks = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._to)
        left = [self._random.randint(200, self._longest) if self.breaks < self._most else 1 << 60]
        ways = [
            asyncio.create_task(self._copy(reader, up_writer, left)),
            asyncio.create_task(self._copy(up_reader, writer, left)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        self.breaks += left[0] <= 0
        for way in ways:
            way.cancel()
        for end in (writer, up_writer):
            end.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[int]
    ) -> None:
        while data := await reader.read(self._random.choice([100, 4096, 65536])):
            left[0] -= len(data)
            if left[0] <= 0:
                return
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def breaking(
    url: str, seed: int, most: int, longest: int = 60_000
) -> AsyncIterator[tuple[str, BreakingRelay]]:
    """The relay, and its address as a WebSocket's."""
    relay = BreakingRelay(url, seed, most, longest)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/live", relay
