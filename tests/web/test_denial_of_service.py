"""Floods on a real server while another session runs: its words stay whole, and the server's
memory, descriptors, processes and slots are afterwards what they were.
"""

import asyncio
import contextlib
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from support.clips import clip
from support.server import AT_PAUSES, Server, serving
from support.wire import START, ServerOutput, live, receive, s16le, send
from websockets.asyncio.client import connect

SPEECH = s16le(clip("doctor").samples)
MB = 1_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*AT_PAUSES) as running:
        yield running


@dataclass
class Footprint:
    """Of the server and its children; ``peak`` is the most memory of the server in between."""

    children: int
    descriptors: int
    memory: int
    peak: int = 0

    @classmethod
    def of(cls, server: Server) -> "Footprint":
        process = psutil.Process(server.process.pid)
        memory = process.memory_info().rss
        return cls(len(process.children(recursive=True)), process.num_fds(), memory, memory)


@asynccontextmanager
async def beside_a_neighbour(server: Server, label: str) -> AsyncIterator[Footprint]:
    """What is done within does not harm a session that runs meanwhile, and leaves nothing."""
    alone = await live(server.ws, SPEECH)  # also so that everything is loaded
    await server.until(in_use=0)
    before = Footprint.of(server)

    async def watch() -> None:
        while True:
            before.peak = max(before.peak, Footprint.of(server).memory)
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    neighbour = asyncio.create_task(live(server.ws, SPEECH, pace=1.0))
    await asyncio.sleep(0.3)
    yield before
    heard: ServerOutput = await neighbour
    watching.cancel()
    assert not heard.errors
    assert heard.of("done")[0]["text"] == alone.of("done")[0]["text"]
    await server.until(in_use=0)
    # The other side is another process: there is nothing to wait on but its state.
    while (after := Footprint.of(server)).descriptors > before.descriptors + 2:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    assert after.children == before.children
    grown = before.peak - before.memory
    sys.stderr.write(
        f"{label}: peak +{grown / MB:.1f} MB, descriptors {before.descriptors}"
        f" -> {after.descriptors}, processes {before.children} -> {after.children}\n"
    )


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A client's frame of less than 126 bytes, masked with zeros."""
    return bytes([opcode | 0x80 * fin, 0x80 | len(payload)]) + bytes(4) + payload


async def flood(server: Server, flooding: bytes, first: bytes = b"", seconds: float = 4.0) -> int:
    """A WebSocket client that sends the same over and over and reads nothing; bytes sent."""
    async with connect(f"{server.ws}/v1/live", compression=None, ping_interval=None) as client:
        await send(client, START)
        await receive(client)
        client.transport.pause_reading()
        end = asyncio.get_running_loop().time() + seconds
        line: socket.socket = client.transport.get_extra_info("socket")
        raw = socket.socket(fileno=os.dup(line.fileno()))
        sent = 0
        with raw, contextlib.suppress(ConnectionError, TimeoutError):
            raw.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(raw, first)
            while loop.time() < end:
                async with asyncio.timeout(max(0.0, end - loop.time())):
                    await loop.sock_sendall(raw, flooding)
                sent += len(flooding)
        client.transport.abort()
    return sent


@pytest.mark.parametrize(
    ("label", "flooding", "first"),
    [
        ("pings, unread", frame(9, bytes(125)) * 500, b""),
        # Each takes until the server has found its client gone, by a ping.
        pytest.param(
            "empty fragments",
            frame(0, fin=False) * 10_000,
            frame(2, b"ab", fin=False),
            marks=pytest.mark.endurance,
        ),
        pytest.param("empty messages", frame(2) * 10_000, b"", marks=pytest.mark.endurance),
        pytest.param(
            "one byte a message", frame(2, b"a") * 10_000, b"", marks=pytest.mark.endurance
        ),
        pytest.param(
            "pongs nobody asked for", frame(10) * 10_000, b"", marks=pytest.mark.endurance
        ),
    ],
)
async def test_floods_of_frames_do_not_affect_another_session(server, label, flooding, first):
    async with beside_a_neighbour(server, label) as before:
        await flood(server, flooding, first)
        assert before.peak - before.memory < 40 * MB


@pytest.mark.long
async def test_silent_connections_do_not_exhaust_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        try:
            server = stack.enter_context(serving("--max-sessions", "2"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        place = urlsplit(server.url)
        async with beside_a_neighbour(server, "400 idle connections") as before:
            most = before.descriptors
            idle = []
            for n in range(400):
                opened = await asyncio.open_connection(place.hostname, place.port)
                if n % 2:
                    opened[1].write(b"GET / HTTP/1.1\r\nhost:")
                idle.append(opened)
                if n % 50 == 49:
                    async with httpx.AsyncClient(base_url=server.url) as http:
                        answer = await http.get("/health/live")
                        assert answer.status_code == 200
                    most = max(most, Footprint.of(server).descriptors)
            assert most < 128
            # The first are gone for the last, without a word, or with one if they had begun.
            for reader, _ in idle[:100]:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            for _, writer in idle:
                writer.close()
        assert "ended the longest waiting of" in server.logged()
        assert server.logged().count("longest waiting") < 50
