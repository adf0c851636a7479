"""Clients that read nothing, in simulated time."""

from __future__ import annotations

import asyncio

import pytest
from support.scripted import Client, Deaf, serve
from support.simulated import simulate

from voxlive.web.protocols.contract import AudioFrame, FlushSession, StopSession
from voxlive.web.protocols.live import LiveProtocol
from voxlive.web.socket_queues import EACH, MAX_OTHERS, Ahead


async def test_actions_keep_their_order_and_audio_is_counted() -> None:
    ahead = Ahead(limit=2 * EACH + 10)
    actions = [AudioFrame(b"12345"), FlushSession("a"), AudioFrame(b"123456"), StopSession()]
    for action in actions[:3]:
        await ahead.put(action)
    late = asyncio.create_task(ahead.put(actions[3]))
    await asyncio.sleep(0)
    assert not late.done()
    assert [await ahead.get() for _ in range(3)] == actions[:3]
    await late
    assert await ahead.get() == actions[3]


async def test_a_reader_waits_for_a_writer() -> None:
    ahead = Ahead()
    reading = asyncio.create_task(ahead.get())
    await asyncio.sleep(0)
    assert not reading.done()
    await ahead.put(StopSession())
    assert await reading == StopSession()


async def test_what_is_no_audio_has_a_bound_too():
    ahead = Ahead()
    for _ in range(MAX_OTHERS):
        await ahead.put(StopSession())
    late = asyncio.create_task(ahead.put(StopSession()))
    await asyncio.sleep(0)
    assert not late.done()
    await ahead.get()
    await late


async def test_it_is_idle_while_its_reader_waits_for_something_to_do() -> None:
    ahead = Ahead()
    assert not ahead.idle
    reading = asyncio.create_task(ahead.get())
    await asyncio.sleep(0)
    assert ahead.idle
    await ahead.put(StopSession())
    assert not ahead.idle
    assert await reading == StopSession()
    assert not ahead.idle


async def test_many_small_pieces_of_audio_are_joined_and_none_is_lost() -> None:
    ahead = Ahead()
    for n in range(10_000):
        await ahead.put(AudioFrame(bytes([n % 251]), "ab"[n // 5000]))
    got = []
    while ahead.waiting:
        got.append(await ahead.get())
    assert len(got) < 10
    assert b"".join(audio.data for audio in got) == bytes(n % 251 for n in range(10_000))
    assert [audio.source for audio in got] == sorted(audio.source for audio in got)


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
def test_ten_seconds_unread_and_five_for_the_last_words_end_a_connection(flushes):
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


def test_a_client_that_reads_late_but_in_time_stays():
    class Late(Client):
        async def send(self, message: dict) -> None:
            await asyncio.sleep(9)
            await super().send(message)

    stop = {"type": "websocket.receive", "text": '{"type": "stop"}'}
    client = Late((0, START), *[(30, FLUSH)] * 20, (31, stop))
    simulate(serve(client, LiveProtocol))
    assert client.heard[-1][1]["type"] == "websocket.close"
    assert client.heard[-1][1]["code"] == 1000
