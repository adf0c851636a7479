"""Handshakes and requests with unusual ``Connection`` and ``Upgrade`` headers."""

import asyncio
from urllib.parse import urlsplit

import pytest


@pytest.mark.parametrize(
    "connection", [["Upgrade", "keep-alive"], ["keep-alive", "Upgrade"], ["keep-alive, upgrade"]]
)
async def test_a_handshake_may_have_several_connection_headers(server, connection):
    address = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    lines = [
        "GET /v1/realtime?intent=transcription HTTP/1.1",
        f"Host: {address.netloc}",
        *(f"Connection: {value}" for value in connection),
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 101")
    writer.close()


async def test_a_request_with_an_upgrade_header_alone_is_plain_http(server):
    address = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    lines = ["GET /health HTTP/1.1", f"Host: {address.netloc}", "Upgrade: websocket"]
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
