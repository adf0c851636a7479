"""A decoder that blocks, driven by an event loop in lock-step.

The decoder runs on a thread of its own and reads the bytes of one push at a time. A push is over
when the decoder has read them all and asks for more: so what it returns depends on the bytes alone
and not on timing, nothing that can be decoded is held back, and no bytes pile up.

Ingest for one live session: bytes in the declared format to float32 mono at 16 kHz.
"""

from __future__ import annotations

import asyncio
from collections import deque
from threading import Condition, Thread
from typing import TYPE_CHECKING, Protocol

import numpy as np

from voxlive.errors import BadAudio
from voxlive.streaming.ingest.formats import CONTAINER, AudioFormat, Report
from voxlive.streaming.ingest.media import decode
from voxlive.streaming.ingest.pcm import PcmDecoder
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from voxlive.streaming.ingest.formats import AudioWarning
    from voxlive.values import Samples

MAX_DECODED = 10 * SAMPLE_RATE


class DecoderPipe:
    """What the loop and the decoding thread share.

    Bounds: the bytes of one push wait to be read; when 10 s of sound wait to be taken, the decoder
    waits. ``read``, ``give`` and ``finish`` are called by the thread, the rest by the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = Condition()
        self._stirred = asyncio.Event()
        self._data = memoryview(b"")
        self._blocks: deque[Samples] = deque()
        self._held = 0
        self._hungry = False
        self._ended = False
        self._closed = False
        self._finished = False

    def read(self, size: int, /) -> bytes:
        """The decoder's source: waits for bytes; none after ``end`` or ``close``."""
        with self._changed:
            while not (self._data or self._ended or self._closed):
                self._hungry = True
                self._stir()
                self._changed.wait()
            if self._closed:
                return b""
            piece, self._data = bytes(self._data[:size]), self._data[size:]
            return piece

    def give(self, block: Samples) -> bool:
        """The decoder's sink: waits for room; false once nobody wants more."""
        with self._changed:
            while self._held >= MAX_DECODED and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self._blocks.append(block)
            self._held += len(block)
            if len(self._blocks) == 1:
                self._stir()
            return True

    def finish(self) -> None:
        """The decoder will neither read nor give any more."""
        with self._changed:
            self._finished = True
            self._stir()

    def _stir(self) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(self._stirred.set)

    def put(self, data: bytes) -> None:
        """Bytes for the decoder; those that a broken-off push left over come first."""
        with self._changed:
            if not (self._finished or self._closed):
                self._data = memoryview(b"".join((self._data, data)))
                self._hungry = False
                self._changed.notify_all()

    def end(self) -> None:
        """No more bytes will come."""
        with self._changed:
            self._ended = True
            self._hungry = False
            self._changed.notify_all()

    def close(self) -> None:
        """Let the thread go, wherever it is waiting, and forget everything."""
        with self._changed:
            self._closed = True
            self._data = memoryview(b"")
            self._blocks.clear()
            self._stirred.set()
            self._changed.notify_all()

    async def take(self) -> Samples | None:
        """The sound that is ready, waiting for some; None once the decoder wants more bytes."""
        while True:
            with self._changed:
                self._stirred.clear()
                if self._blocks:
                    sound = np.concatenate(self._blocks)
                    self._blocks.clear()
                    self._held = 0
                    self._changed.notify_all()
                    return sound
                if self._hungry or self._finished or self._closed:
                    return None
            await self._stirred.wait()


_PIECE = 1 << 16


class Ingest(Protocol):
    """Decodes one session's audio. The pieces are the same however the bytes are cut.

    Every iterator gives float32 mono [n] at 16 kHz, n > 0 and bounded, and is to be exhausted
    before the next call. Bytes are ``bytes`` cut anywhere.
    """

    @property
    def warnings(self) -> tuple[AudioWarning, ...]:
        """What of the audio was lost, as far as is known; complete once ``finish`` is exhausted."""
        ...

    def push(self, data: bytes) -> AsyncIterator[Samples]:
        """All samples that these bytes complete; raises BadAudio when there will never be any."""
        ...

    def finish(self) -> AsyncIterator[Samples]:
        """What is still inside, at the end of the audio; raises BadAudio as ``push``."""
        ...

    def close(self) -> None:
        """Free everything at once, in any state. May be called twice."""
        ...


def open_ingest(audio: AudioFormat) -> Ingest:
    """The ingest for audio that arrives in this format."""
    return MediaIngest() if audio.encoding == CONTAINER else PcmIngest(audio)


class PcmIngest:
    """Raw PCM, decoded where it stands: a chunk costs microseconds.

    Bytes at the end that make no whole frame cannot be heard: they are a warning.
    """

    def __init__(self, audio: AudioFormat) -> None:
        self._decoder = PcmDecoder(audio)
        self.warnings: tuple[AudioWarning, ...] = ()

    async def push(self, data: bytes) -> AsyncIterator[Samples]:
        """Decode in pieces of at most 64 KiB."""
        view = memoryview(data)
        for at in range(0, len(view), _PIECE):
            samples = self._decoder.push(view[at : at + _PIECE])
            if len(samples):
                yield samples

    async def finish(self) -> AsyncIterator[Samples]:
        """The resampler's tail."""
        self.warnings = self._decoder.warnings
        samples = self._decoder.finish()
        if len(samples):
            yield samples

    def close(self) -> None:
        """Nothing is held."""


class MediaIngest:
    """A container, decoded on a thread of its own from the first byte on."""

    def __init__(self) -> None:
        self._pipe: DecoderPipe | None = None
        self._flaw: Exception | None = None
        self._closed = False
        self._report = Report()

    @property
    def warnings(self) -> tuple[AudioWarning, ...]:
        """See Ingest; not to be read while the thread is decoding."""
        return self._report.warnings

    async def push(self, data: bytes) -> AsyncIterator[Samples]:
        """Decode in lock-step with the thread; bytes after the end of a recording are ignored."""
        if data and not self._closed:
            pipe = self._pipe or self._start()
            pipe.put(data)
            while (samples := await pipe.take()) is not None:
                yield samples
            self._check()

    async def finish(self) -> AsyncIterator[Samples]:
        """The rest; nothing if no byte ever came."""
        if self._pipe:
            self._pipe.end()
            while (samples := await self._pipe.take()) is not None:
                yield samples
            self._check()

    def close(self) -> None:
        """Let the thread go; it ends with the frame that it is decoding."""
        self._closed = True
        if self._pipe:
            self._pipe.close()

    def _start(self) -> DecoderPipe:
        self._pipe = DecoderPipe(asyncio.get_running_loop())
        Thread(target=self._decode, args=(self._pipe,), name="ingest", daemon=True).start()
        return self._pipe

    def _decode(self, pipe: DecoderPipe) -> None:
        flaw: Exception | None = RuntimeError("the decoding thread died; the log says of what")
        try:
            for samples in decode(pipe, self._report):
                if len(samples) and not pipe.give(samples):
                    break
            flaw = None
        except BadAudio as error:
            flaw = error
        finally:
            self._flaw = flaw
            pipe.finish()

    def _check(self) -> None:
        if self._flaw and not self._closed:
            raise self._flaw
