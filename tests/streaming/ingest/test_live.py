from __future__ import annotations

import asyncio
import threading
from functools import cache
from itertools import pairwise
from threading import Thread

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from support.clips import clip
from support.encode import encode
from support.examples import examples

from voxlive.errors import BadAudio
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.streaming.ingest.live import MAX_DECODED, DecoderPipe, open_ingest

CONTAINER = AudioFormat("container")
SPEECH = clip("yes").samples
WEBM = encode(SPEECH, "webm", "libopus", seekable=False, live="1")


@cache
def silence():
    """Ten minutes of it."""
    return encode(np.zeros(16_000 * 600, np.float32), "flac", "flac", 16_000)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "ingest"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    for thread in threads():
        thread.join(10)
    assert threads() == []


async def collect(pieces, into=None):
    decoded = [] if into is None else into
    async for samples in pieces:
        decoded.append(samples)
    return decoded


async def through(data, cuts=()):
    """Push the data in pieces; gives the samples of each push, those of finish last."""
    ingest = open_ingest(CONTAINER)
    edges = [0, *sorted(cuts), len(data)]
    decoded = [await collect(ingest.push(data[a:b])) for a, b in pairwise(edges)]
    decoded.append(await collect(ingest.finish()))
    ingest.close()
    return decoded


def joined(decoded):
    return np.concatenate([piece for pieces in decoded for piece in pieces])


@examples(30, suppress_health_check=[HealthCheck.too_slow])
@given(cuts=st.lists(st.integers(0, len(WEBM)), max_size=30))
def test_any_chunking_gives_the_same_samples(cuts):
    whole = joined(asyncio.run(through(WEBM)))
    assert np.array_equal(joined(asyncio.run(through(WEBM, cuts))), whole)
    assert abs(len(whole) - len(SPEECH)) < 800


async def test_a_push_yields_all_that_its_bytes_complete():
    """Cut anywhere, what has come out by then is as much as if the stream had ended there."""
    for end in range(2_000, len(WEBM), 1_777):
        ingest = open_ingest(CONTAINER)
        by_then = np.concatenate(await collect(ingest.push(WEBM[:end])))
        rest = await collect(ingest.finish())
        # Only the resampler's tail and one unfinished packet may come out at the end.
        assert sum(map(len, rest)) <= 640 + 320
        assert len(by_then) > 0
        ingest.close()


async def test_pushes_of_one_recording_give_sound_evenly():
    step = 500
    decoded = await through(WEBM, range(step, len(WEBM), step))
    counts = [sum(map(len, pieces)) for pieces in decoded]
    assert counts[0] == 0 or counts[1] > 0
    silent = [n for n in counts[2:-1] if n == 0]
    assert len(silent) < len(counts) / 4


async def test_much_audio_from_few_bytes_comes_in_bounded_pieces():
    """A small FLAC holds ten minutes of silence: they come out in bounded pieces."""
    assert len(silence()) < 16_000 * 600 / 50
    ingest = open_ingest(CONTAINER)
    total = largest = 0
    async for samples in ingest.push(silence()):
        largest = max(largest, len(samples))
        total += len(samples)
    async for samples in ingest.finish():
        total += len(samples)
    assert total == 16_000 * 600
    assert largest < MAX_DECODED + 65_536
    ingest.close()


async def test_the_loop_runs_while_the_decoder_works():
    ingest = open_ingest(CONTAINER)
    pushing = asyncio.create_task(collect(ingest.push(silence())))
    turns = 0
    while not pushing.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 10
    ingest.close()


async def test_a_cut_is_a_warning_after_all_samples():
    good = encode(clip("market").samples, "flac", "flac", 16_000)
    ingest = open_ingest(CONTAINER)
    decoded = await collect(ingest.push(good[: len(good) // 2]))
    await collect(ingest.finish(), decoded)
    assert sum(map(len, decoded)) > 2.5 * 16_000
    assert [warning.code for warning in ingest.warnings] == ["cut_off"]
    assert await collect(ingest.push(b"more")) == []
    ingest.close()


async def test_bad_audio_is_raised_again_by_later_calls():
    ingest = open_ingest(CONTAINER)
    for _ in range(2):
        with pytest.raises(BadAudio, match="none of WebM"):
            await collect(ingest.push(b"this is no audio at all"))
    ingest.close()


async def test_what_is_no_container_is_refused_at_once():
    ingest = open_ingest(CONTAINER)
    with pytest.raises(BadAudio, match="it is text"):
        await collect(ingest.push(b"Hello, this is text"))
    ingest.close()


async def test_no_bytes_at_all_are_no_error():
    ingest = open_ingest(CONTAINER)
    assert await collect(ingest.push(b"")) == []
    assert await collect(ingest.finish()) == []
    assert threads() == []
    ingest.close()


def test_an_ingest_can_be_opened_and_closed_without_a_loop():
    ingest = open_ingest(CONTAINER)
    ingest.close()
    ingest.close()


@pytest.mark.parametrize("bytes_in", [1, 100, len(WEBM) // 2, len(WEBM)])
async def test_close_between_pushes_frees_the_thread(bytes_in):
    ingest = open_ingest(CONTAINER)
    await collect(ingest.push(WEBM[:bytes_in]))
    assert len(threads()) == 1
    ingest.close()
    ingest.close()
    assert await collect(ingest.push(WEBM)) == []
    assert await collect(ingest.finish()) == []


async def test_close_in_the_middle_of_a_push_frees_the_thread():
    ingest = open_ingest(CONTAINER)
    pieces = ingest.push(silence())
    assert len(await anext(pieces)) > 0
    ingest.close()
    with pytest.raises(StopAsyncIteration):
        await anext(pieces)


async def test_a_push_that_is_cancelled_frees_the_thread_on_close():
    ingest = open_ingest(CONTAINER)
    pushing = asyncio.create_task(collect(ingest.push(silence())))
    await asyncio.sleep(0)
    pushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    ingest.close()


def block(n, value=0.0):
    return np.full(n, value, np.float32)


class PieceDecoder:
    """Reads ``size`` bytes at a time on a thread and gives ``blocks`` blocks for each read."""

    def __init__(self, pipe, size=4, n=10, blocks=1):
        self.pipe = pipe
        self.size, self.n, self.blocks = size, n, blocks
        self.seen = b""
        self.given = 0
        self.thread = Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while piece := self.pipe.read(self.size):
            self.seen += piece
            for _ in range(self.blocks):
                if not self.pipe.give(block(self.n, piece[0])):
                    return
                self.given += 1
        self.pipe.finish()

    def gone(self):
        self.thread.join(10)
        return not self.thread.is_alive()


async def drain(pipe):
    taken = []
    while (samples := await pipe.take()) is not None:
        taken.append(samples)
    return np.concatenate(taken) if taken else block(0)


async def test_a_push_is_over_when_every_byte_has_been_decoded():
    pipe = DecoderPipe(asyncio.get_running_loop())
    decoder = PieceDecoder(pipe)
    for push in (b"a", b"bcdefgh", b"", b"ijk"):
        before = decoder.seen
        if push:
            pipe.put(push)
        samples = await drain(pipe)
        assert decoder.seen == before + push
        assert len(samples) == 10 * -(-len(push) // 4)
    pipe.end()
    assert len(await drain(pipe)) == 0
    assert decoder.gone()


async def test_bytes_left_by_a_cancelled_push_come_first():
    pipe = DecoderPipe(asyncio.get_running_loop())
    pipe.put(b"abc")
    pipe.put(b"def")
    decoder = PieceDecoder(pipe, size=100)
    await drain(pipe)
    assert decoder.seen == b"abcdef"
    pipe.close()
    assert decoder.gone()


async def test_the_decoder_waits_while_too_many_samples_wait():
    pipe = DecoderPipe(asyncio.get_running_loop())
    decoder = PieceDecoder(pipe, size=1, n=MAX_DECODED // 4, blocks=100)
    pipe.put(b"x")
    await asyncio.to_thread(decoder.thread.join, 0.2)
    assert decoder.given <= 4
    total = 0
    while (samples := await pipe.take()) is not None:
        assert len(samples) <= MAX_DECODED + MAX_DECODED // 4
        total += len(samples)
    assert total == 100 * (MAX_DECODED // 4)
    pipe.close()
    assert decoder.gone()


async def test_bytes_after_the_decoder_has_finished_are_not_kept():
    pipe = DecoderPipe(asyncio.get_running_loop())
    pipe.finish()
    pipe.put(b"more")
    assert await pipe.take() is None
    pipe.end()
    assert pipe.read(10) == b""


@pytest.mark.parametrize("state", ["hungry", "full", "ended"])
async def test_close_ends_the_thread(state):
    pipe = DecoderPipe(asyncio.get_running_loop())
    decoder = PieceDecoder(pipe, size=1, n=MAX_DECODED, blocks=3 if state == "full" else 1)
    if state != "hungry":
        pipe.put(b"xyz")
    if state == "full":
        assert await pipe.take() is not None
    if state == "ended":
        pipe.end()
    pipe.close()
    pipe.close()
    assert await asyncio.to_thread(decoder.gone)
    assert await pipe.take() is None


async def test_close_wakes_a_take_that_waits():
    pipe = DecoderPipe(asyncio.get_running_loop())
    pipe.put(b"never read")
    waiting = asyncio.create_task(pipe.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    pipe.close()
    assert await waiting is None
