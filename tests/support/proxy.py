"""A reverse proxy that serves a server under a path of its own site, WebSockets included."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

_HEAD = b"\r\n\r\n"


@dataclass(frozen=True)
class ReverseProxy:
    """``strips``: whether it takes the path off what it passes on."""

    host: str
    port: int
    path: str
    strips: bool
    forwarded: str

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of one connection; after it, or as a WebSocket, bytes in both directions."""
        try:
            head = await reader.readuntil(_HEAD)
            method, target, rest = head.decode("latin-1").split(" ", 2)
            if target != self.path and not target.startswith(f"{self.path}/"):
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                return
            if self.strips:
                target = target[len(self.path) :] or "/"
            up_reader, up_writer = await asyncio.open_connection(self.host, self.port)
            up_writer.write(f"{method} {target} {self._headers(rest)}".encode("latin-1"))
            await asyncio.gather(_copy(reader, up_writer), _copy(up_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _headers(self, rest: str) -> str:
        """One request per connection, but for an upgrade; who asked, and how."""
        if "upgrade: websocket" not in rest.lower():
            lines = rest.split("\r\n")
            kept = [line for line in lines if not line.lower().startswith("connection:")]
            rest = "\r\n".join([kept[0], "connection: close", *kept[1:]])
        return rest.replace("\r\n", f"\r\n{self.forwarded}\r\n", 1)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def behind_a_proxy(
    url: str,
    path: str,
    *,
    strips: bool = True,
    forwarded: str = "x-forwarded-for: 203.0.113.9\r\nx-forwarded-proto: https",
) -> AsyncIterator[str]:
    """The address of a site that serves the server at ``url`` under ``path``."""
    parts = urlsplit(url)
    proxy = ReverseProxy(parts.hostname, parts.port, path, strips, forwarded)
    site = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{site.sockets[0].getsockname()[1]}{path}"
    finally:
        site.close()
