"""Bounds on idle, slow and hostile connections (``ports.py`` and ``http.py``).

Timeouts are shortened; the tests check what happens and in which order, not when.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from uvicorn.server import ServerState

from voxlive.web import http as http_connection
from voxlive.web import http as websocket_connection
from voxlive.web import ports
from voxlive.web.http import HttpConnection, WebSocketConnection
from voxlive.web.ports import Connections, Listener, UvicornConfig, bind, max_connections
from voxlive.web.tls import local_certificate, machine_names

SOON = 0.2
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    for name in (
        "HEAD_TIMEOUT_S",
        "BODY_TIMEOUT_S",
        "UNREAD_TIMEOUT_S",
        "LINGER_TIMEOUT_S",
        "CLOSE_TIMEOUT_S",
        "_BODY_CHECK_S",
    ):
        monkeypatch.setattr(http_connection, name, SOON)
    monkeypatch.setattr(http_connection, "BODY_RATE", 10_000_000)
    monkeypatch.setattr(websocket_connection, "UNREAD_TIMEOUT_S", SOON)
    monkeypatch.setattr(ports, "HANDSHAKE_S", SOON)


class App:
    """Reads a body and says its length; answers large on /large and early on /early."""

    def __init__(self):
        self.messages = []
        self.ended = asyncio.Event()

    async def __call__(self, scope, receive, send):
        try:
            await (self._socket if scope["type"] == "websocket" else self._http)(
                scope, receive, send
            )
        finally:
            self.ended.set()

    async def _http(self, scope, receive, send):
        size, more = 0, scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, more = size + len(message["body"]), message["more_body"]
        status = 413 if scope["path"] == "/early" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        for _ in range(2000 if scope["path"] == "/large" else 0):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        await send({"type": "http.response.body", "body": str(size).encode()})

    async def _socket(self, _scope, receive, send):
        await send({"type": "websocket.accept"})
        await receive()
        while (message := await receive())["type"] != "websocket.disconnect":
            self.messages.append(message.get("bytes") or message.get("text"))


@asynccontextmanager
async def edge(most: int = 100, tls: ssl.SSLContext | None = None) -> AsyncIterator:
    app = App()
    config = UvicornConfig(
        app, http=HttpConnection, ws=WebSocketConnection, lifespan="off", timeout_keep_alive=0.2
    )
    config.connections = Connections(most)
    config.load()
    state = ServerState()
    bound = bind("127.0.0.1", 0)
    listener = Listener(bound, config.connections, lambda: HttpConnection(config, state, {}), tls)
    port = bound.getsockname()[1]
    try:
        yield SimpleNamespace(
            app=app,
            connections=config.connections,
            dial=lambda: asyncio.open_connection("127.0.0.1", port),
        )
    finally:
        await listener.aclose()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)


async def rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def all_closed(server) -> None:
    """Wait until the server has no connection; a client's end may be half open for a while."""
    while len(server.connections):  # noqa: ASYNC110
        await asyncio.sleep(SOON / 20)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP", GET[:-2], GET + b"GET /", b"\r\n\r\n"])
async def test_an_incomplete_or_missing_request_times_out(sent):
    async with edge() as server:
        reader, writer = await server.dial()
        writer.write(sent)
        said = await rest(reader)
        whole = sent.startswith(GET)
        assert said.startswith(
            b"HTTP/1.1 200" if whole else b"HTTP/1.1 408" if sent.strip() else b""
        )
        writer.close()
        await all_closed(server)


async def test_a_slow_request_head_times_out():
    async with edge() as server:
        reader, writer = await server.dial()
        ended = asyncio.create_task(rest(reader))
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nx: ")
        while not ended.done():
            writer.write(b"y")
            await asyncio.sleep(SOON / 20)
        assert (await ended).startswith(b"HTTP/1.1 408")
        await all_closed(server)  # although this end stays open


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"POST /early HTTP/1.0\r\ncontent-length: 100000000\r\n\r\n", b" 413 "),
        (
            b"POST /early HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 9\r\n\r\n",
            b" 413 ",
        ),
        (b"not HTTP\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 200_000, b" 400 "),
    ],
)
async def test_a_response_is_not_lost_to_what_the_client_still_sends(request_head, status):
    async with edge() as server:
        reader, writer = await server.dial()
        writer.write(request_head)
        if status == b" 413 ":
            await server.app.ended.wait()
        ended = asyncio.create_task(rest(reader))
        reader._transport.pause_reading()  # a client that reads late, as a blocking one does
        for _ in range(100):
            writer.write(bytes(10_000))
            await asyncio.sleep(0)
        reader._transport.resume_reading()
        assert status in (await ended).partition(b"\r\n")[0]
        await all_closed(server)


async def test_a_stalled_body_times_out_and_a_slow_one_is_read():
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n"
    async with edge() as server:
        reader, writer = await server.dial()
        writer.write(head + bytes(50))
        assert (await rest(reader)).startswith(b"HTTP/1.1 408")
        writer.close()
        await server.app.ended.wait()
        await all_closed(server)
        reader, writer = await server.dial()
        writer.write(head + bytes(100))
        assert (await reader.readuntil(b"100")).startswith(b"HTTP/1.1 200")


async def test_an_unread_response_times_out():
    async with edge() as server:
        _, writer = await server.dial()
        writer.transport.pause_reading()
        writer.write(GET.replace(b"/ ", b"/large ", 1))
        await server.app.ended.wait()
        assert len(server.connections) == 0


async def test_the_rest_of_a_refused_body_is_discarded_for_a_bounded_time():
    async with edge() as server:
        reader, writer = await server.dial()
        writer.write(b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        ended = asyncio.create_task(rest(reader))
        while not ended.done():
            writer.write(bytes(1000))
            await asyncio.sleep(SOON / 20)
        assert len(server.connections) == 0
        reader, writer = await server.dial()
        writer.write(b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        writer.write(bytes(10) + GET)
        assert b"HTTP/1.1 200" in await rest(reader)


async def test_an_incomplete_tls_handshake_times_out(tmp_path):
    tls = local_certificate(machine_names(), tmp_path).context()
    async with edge(tls=tls) as server:
        reader, writer = await server.dial()
        writer.write(b"\x16\x03\x01\x02\x00")
        await rest(reader)
        assert len(server.connections) == 0


async def test_at_the_limit_the_longest_idle_is_closed_or_new_ones_are_refused(caplog):
    async with edge(most=8) as server:
        idle = [await server.dial() for _ in range(20)]
        reader, writer = await server.dial()
        writer.write(GET.replace(b"a\r\n", b"a\r\nconnection: close\r\n", 1))
        assert (await rest(reader)).startswith(b"HTTP/1.1 200")
        assert await rest(idle[0][0]) == b""
        assert len(server.connections) <= 8
        sockets = []
        for _ in range(8):
            reader, writer = await server.dial()
            writer.write(UPGRADE)
            assert b" 101 " in await reader.readline()
            sockets.append(writer)
        for _ in range(30):
            reader, writer = await server.dial()
            writer.write(GET)
            said = await rest(reader)
            assert said.startswith(b"HTTP/1.1 503")
            assert b"retry-after" in said
            writer.close()  # a refusal lasts until the client has gone, for a few at a time
        assert server.connections.refused == 30
        for writer in sockets:
            writer.close()
        await all_closed(server)
        reader, writer = await server.dial()
        writer.write(GET)
        assert b" 200 " in await reader.readline()
    lines = [record for record in caplog.records if "connections" in record.getMessage()]
    assert 1 <= len(lines) < 10


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A client's frame of less than 126 bytes, masked with zeros."""
    return bytes([opcode | 0x80 * fin, 0x80 | len(payload)]) + bytes(4) + payload


@asynccontextmanager
async def websocket(server):
    reader, writer = await server.dial()
    writer.write(UPGRADE)
    await reader.readuntil(b"\r\n\r\n")
    yield reader, writer


async def test_unread_pongs_are_bounded(monkeypatch):
    monkeypatch.setattr(websocket_connection, "_SMALL_BURST", 10_000_000)  # not what ends it
    ping = frame(9, bytes(125)) * 1000
    async with edge() as server, websocket(server) as (_, writer):
        writer.transport.pause_reading()
        sent = 0
        while not server.app.ended.is_set() and sent < 200_000_000:
            writer.write(ping)
            sent += len(ping)
            drained = asyncio.create_task(writer.drain())
            ended = asyncio.create_task(server.app.ended.wait())
            await asyncio.wait([drained, ended], return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
            ended.cancel()
            await asyncio.gather(drained, ended, return_exceptions=True)
        assert server.app.ended.is_set()  # cut off: it was not read any more
        assert len(server.connections) == 0


async def test_many_fragments_are_one_message_and_other_connections_go_on():
    empty = frame(0, fin=False) * 1500
    async with edge() as server, websocket(server) as (reader, writer):
        turns = 0

        async def neighbour():
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        taking_turns = asyncio.create_task(neighbour())
        writer.write(frame(2, b"a", fin=False) + empty + frame(0, b"b"))
        writer.write(frame(9, b"!"))
        pong = await reader.readexactly(3)
        taking_turns.cancel()
        assert pong == b"\x8a\x01!"
        assert server.app.messages == [b"ab"]
        assert turns >= len(empty) / 6 / 200


async def test_small_frames_are_rate_limited_without_loss():
    async with edge() as server, websocket(server) as (reader, writer):
        began = asyncio.get_running_loop().time()
        writer.write(b"".join(frame(2, b"%d" % n) for n in range(2500)) + frame(9, b"!"))
        assert await reader.readexactly(3) == b"\x8a\x01!"
        took = asyncio.get_running_loop().time() - began
        assert server.app.messages == [b"%d" % n for n in range(2500)]
        assert took >= 500 / websocket_connection._SMALL_PER_S - 0.3  # the bucket had 2000


async def test_incomplete_messages_are_bounded_over_all_clients(monkeypatch):
    monkeypatch.setattr(websocket_connection, "MAX_PARTIAL", 100_000)
    async with (
        edge() as server,
        websocket(server) as (one, writer),
        websocket(server) as (
            other,
            another,
        ),
    ):
        begun = frame(2, bytes(125), fin=False) + frame(0, bytes(125), fin=False) * 600
        writer.write(begun)
        another.write(begun)
        done, _ = await asyncio.wait(
            [asyncio.create_task(rest(one)), asyncio.create_task(rest(other))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert len(done) == 1
        assert 0 < server.connections.partial_bytes <= 100_000


def test_the_connection_limit_leaves_descriptors_for_the_rest(monkeypatch):
    for soft, most in ((128, 64), (1024, 768), (70, 8), (1_000_000, 10_000)):
        monkeypatch.setattr(ports.resource, "getrlimit", lambda _, s=soft: (s, s))
        assert max_connections() == most
