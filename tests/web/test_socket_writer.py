"""Clients that do not read, in simulated time."""

from __future__ import annotations

import asyncio

import pytest
from support.scripted import Client, Deaf, serve
from support.simulated import simulate

from voxlive.web.protocols.live import LiveProtocol

START = {"type": "websocket.receive", "text": '{"type": "start", "format": "s16le", "vad": false}'}
FLUSH = {"type": "websocket.receive", "text": '{"type": "flush", "id": "1"}'}


class Unread(Client):
    """From a set time on, what it is sent goes nowhere."""

    def __init__(self, since: float, *script: tuple[float, dict]) -> None:
        super().__init__(*script)
        self._since = since

    async def send(self, message: dict) -> None:
        if asyncio.get_running_loop().time() >= self._since:
            await asyncio.Event().wait()
        await super().send(message)


@pytest.mark.parametrize("flushes", [1, 50])
def test_a_client_that_reads_nothing_is_cut_off_after_both_timeouts(flushes):
    client, engine = Unread(2, (0, START), *[(3, FLUSH)] * flushes), Deaf()

    async def serve_it():
        await serve(client, LiveProtocol, engine)
        return asyncio.get_running_loop().time()

    assert simulate(serve_it()) == pytest.approx(3 + 10 + 5, abs=0.1)
    assert engine.in_use == 0
    assert [message["type"] for _, message in client.heard] == [
        "websocket.accept",
        "websocket.send",
    ]


def test_a_slow_client_within_the_timeout_stays():
    class LateClient(Client):
        async def send(self, message: dict) -> None:
            await asyncio.sleep(9)
            await super().send(message)

    stop = {"type": "websocket.receive", "text": '{"type": "stop"}'}
    client = LateClient((0, START), *[(30, FLUSH)] * 20, (31, stop))
    simulate(serve(client, LiveProtocol))
    assert client.heard[-1][1]["type"] == "websocket.close"
    assert client.heard[-1][1]["code"] == 1000
