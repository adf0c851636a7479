from __future__ import annotations

import asyncio

from voxlive.cli.listen import MOST_BLOCKS, MicrophoneQueue, TerminalCaptions
from voxlive.streaming.events import Draft, Lag, SegmentClosed, SessionError, Words
from voxlive.values import SAMPLE_RATE, Word


def test_a_line_grows_and_is_printed_when_its_segment_closes():
    captions = TerminalCaptions()
    start = 3725 * SAMPLE_RATE
    assert captions.on_event(Words(0, (Word(" Good", start, start + 800),))) == []
    assert captions.on_event(Draft(0, " morn")) == []
    assert (captions.committed, captions.draft) == (" Good", " morn")
    captions.on_event(Words(0, (Word(" morning.", start + 800, start + 1600),)))
    captions.on_event(Draft(0, ""))
    assert captions.on_event(SegmentClosed(0, start, start + 1600, " Good morning.")) == [
        "1:02:05  Good morning."
    ]
    assert (captions.committed, captions.draft) == ("", "")


def test_large_lag_is_shown():
    captions = TerminalCaptions()
    captions.on_event(Lag(0.4))
    assert captions.note == ""
    captions.on_event(Lag(3.2))
    assert captions.note == "(3 s behind)"


def test_an_error_is_a_line():
    assert TerminalCaptions().on_event(SessionError("code", "what to do")) == [
        "voxlive: what to do"
    ]


async def read(blocks: MicrophoneQueue) -> list[bytes]:
    return [block async for block in blocks.read()]


async def test_blocks_come_out_in_order_up_to_the_end():
    blocks = MicrophoneQueue(lambda: None)
    blocks.put(b"1")
    reading = asyncio.create_task(read(blocks))
    await asyncio.sleep(0)
    blocks.put(b"2")
    blocks.end()
    blocks.put(b"late")
    assert await reading == [b"1", b"2"]


async def test_a_full_queue_reports_once_and_ends():
    text = []
    blocks = MicrophoneQueue(lambda: text.append("overrun"))
    for _ in range(MOST_BLOCKS + 50):
        blocks.put(b"x")
    assert text == ["overrun"]
    assert len(await read(blocks)) == MOST_BLOCKS
    blocks.put(b"x")
    assert text == ["overrun"]
