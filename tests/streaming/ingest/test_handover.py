import asyncio
from threading import Thread

import numpy as np
import pytest

from voxlive.streaming.ingest.handover import MAX_HELD, Handover


def block(n, value=0.0):
    return np.full(n, value, np.float32)


class Decoder:
    """Reads ``size`` bytes at a time on a thread and gives ``blocks`` blocks for each read."""

    def __init__(self, handover, size=4, n=10, blocks=1):
        self.handover = handover
        self.size, self.n, self.blocks = size, n, blocks
        self.seen = b""
        self.given = 0
        self.thread = Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while piece := self.handover.read(self.size):
            self.seen += piece
            for _ in range(self.blocks):
                if not self.handover.give(block(self.n, piece[0])):
                    return
                self.given += 1
        self.handover.finish()

    def gone(self):
        self.thread.join(10)
        return not self.thread.is_alive()


async def drain(handover):
    taken = []
    while (samples := await handover.take()) is not None:
        taken.append(samples)
    return np.concatenate(taken) if taken else block(0)


async def test_a_push_is_over_when_every_byte_has_been_decoded():
    handover = Handover(asyncio.get_running_loop())
    decoder = Decoder(handover)
    for push in (b"a", b"bcdefgh", b"", b"ijk"):
        before = decoder.seen
        if push:
            handover.put(push)
        samples = await drain(handover)
        assert decoder.seen == before + push
        assert len(samples) == 10 * -(-len(push) // 4)
    handover.end()
    assert len(await drain(handover)) == 0
    assert decoder.gone()


async def test_bytes_of_a_push_that_was_broken_off_come_first():
    handover = Handover(asyncio.get_running_loop())
    handover.put(b"abc")
    handover.put(b"def")
    decoder = Decoder(handover, size=100)
    await drain(handover)
    assert decoder.seen == b"abcdef"
    handover.close()
    assert decoder.gone()


async def test_the_decoder_waits_while_too_much_sound_is_held():
    handover = Handover(asyncio.get_running_loop())
    decoder = Decoder(handover, size=1, n=MAX_HELD // 4, blocks=100)
    handover.put(b"x")
    await asyncio.to_thread(decoder.thread.join, 0.2)
    assert decoder.given <= 4
    total = 0
    while (samples := await handover.take()) is not None:
        assert len(samples) <= MAX_HELD + MAX_HELD // 4
        total += len(samples)
    assert total == 100 * (MAX_HELD // 4)
    handover.close()
    assert decoder.gone()


async def test_bytes_after_the_decoder_has_finished_are_not_kept():
    handover = Handover(asyncio.get_running_loop())
    handover.finish()
    handover.put(b"more")
    assert await handover.take() is None
    handover.end()
    assert handover.read(10) == b""


@pytest.mark.parametrize("state", ["hungry", "full", "ended"])
async def test_close_lets_the_thread_go(state):
    handover = Handover(asyncio.get_running_loop())
    decoder = Decoder(handover, size=1, n=MAX_HELD, blocks=3 if state == "full" else 1)
    if state != "hungry":
        handover.put(b"xyz")
    if state == "full":
        assert await handover.take() is not None
    if state == "ended":
        handover.end()
    handover.close()
    handover.close()
    assert await asyncio.to_thread(decoder.gone)
    assert await handover.take() is None


async def test_close_wakes_a_loop_that_waits():
    handover = Handover(asyncio.get_running_loop())
    handover.put(b"never read")
    waiting = asyncio.create_task(handover.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    handover.close()
    assert await waiting is None
