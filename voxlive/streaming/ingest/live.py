"""The ingest of a live session: bytes in its declared format to float32 mono at 16 kHz.

PCM is decoded at once. A container is decoded by libav, which blocks, on a thread of its own that
the event loop drives in lock-step: the thread reads the bytes of one push at a time, and the push
is over when it has read them all and asks for more. So what a push returns depends on the bytes
alone and not on timing, nothing that can be decoded is held back, and no bytes pile up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from threading import Condition, Thread
from typing import TYPE_CHECKING, Protocol

import numpy as np

from voxlive.errors import BadAudio
from voxlive.streaming.ingest.formats import CONTAINER, AudioFormat, PcmIngest, Report
from voxlive.streaming.ingest.media import decode
from voxlive.values import SAMPLE_RATE, CodedWarning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from voxlive.values import Samples

MAX_DECODED = 10 * SAMPLE_RATE
"""Decoded samples that may wait for the loop before the decoding thread waits."""


class Ingest(Protocol):
    """Decodes one session's audio. The samples are the same however the bytes are cut.

    Every iterator yields float32 mono [n] at 16 kHz, n > 0 and bounded, and has to be exhausted
    before the next call.
    """

    @property
    def warnings(self) -> tuple[CodedWarning, ...]:
        """What of the audio was lost; complete once ``finish`` is exhausted."""
        ...

    def push(self, data: bytes) -> AsyncIterator[Samples]:
        """All samples that these bytes complete; raises BadAudio when nothing can be decoded."""
        ...

    def finish(self) -> AsyncIterator[Samples]:
        """The remaining samples, at the end of the audio; raises BadAudio as ``push``."""
        ...

    def close(self) -> None:
        """Free everything at once, in any state. May be called twice."""
        ...


def open_ingest(audio: AudioFormat) -> Ingest:
    """The ingest for audio that arrives in this format."""
    return MediaIngest() if audio.encoding == CONTAINER else PcmIngest(audio)


class MediaIngest:
    """A container, decoded on a thread of its own from the first byte on."""

    def __init__(self) -> None:
        self._pipe: DecoderPipe | None = None
        self._error: Exception | None = None
        self._closed = False
        self._report = Report()

    @property
    def warnings(self) -> tuple[CodedWarning, ...]:
        """What of the audio was lost; not to be read while the thread is decoding."""
        return self._report.warnings

    async def push(self, data: bytes) -> AsyncIterator[Samples]:
        """Decode in lock-step with the thread; bytes after the end of the audio are ignored."""
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
        """End the thread, with the frame that it is decoding."""
        self._closed = True
        if self._pipe:
            self._pipe.close()

    def _start(self) -> DecoderPipe:
        self._pipe = DecoderPipe(asyncio.get_running_loop())
        Thread(target=self._decode, args=(self._pipe,), name="ingest", daemon=True).start()
        return self._pipe

    def _decode(self, pipe: DecoderPipe) -> None:
        failure: Exception | None = RuntimeError("the decoding thread died; the log says of what")
        try:
            for samples in decode(pipe, self._report):
                if len(samples) and not pipe.give(samples):
                    break
            failure = None
        except BadAudio as error:
            failure = error
        finally:
            self._error = failure
            pipe.finish()

    def _check(self) -> None:
        if self._error and not self._closed:
            raise self._error


class DecoderPipe:
    """Bytes from the loop to the decoding thread, and samples back.

    Bounds: the bytes of one push wait to be read; when ``MAX_DECODED`` samples wait to be taken,
    the thread waits. The thread calls ``read``, ``give`` and ``finish``, the loop the rest.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = Condition()
        self._woken = asyncio.Event()
        self._data = memoryview(b"")
        self._blocks: deque[Samples] = deque()
        self._held = 0
        self._needs_bytes = False
        self._ended = False
        self._closed = False
        self._finished = False

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes for the decoder; waits for some; none after ``end`` or ``close``."""
        with self._changed:
            while not (self._data or self._ended or self._closed):
                self._needs_bytes = True
                self._wake_loop()
                self._changed.wait()
            if self._closed:
                return b""
            piece, self._data = bytes(self._data[:size]), self._data[size:]
            return piece

    def give(self, block: Samples) -> bool:
        """Take decoded samples [n]; waits for room; returns False after ``close``."""
        with self._changed:
            while self._held >= MAX_DECODED and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self._blocks.append(block)
            self._held += len(block)
            if len(self._blocks) == 1:
                self._wake_loop()
            return True

    def finish(self) -> None:
        """The decoder neither reads nor gives any more."""
        with self._changed:
            self._finished = True
            self._wake_loop()

    def _wake_loop(self) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(self._woken.set)

    def put(self, data: bytes) -> None:
        """Bytes for the decoder, after those that a cancelled push has left over."""
        with self._changed:
            if not (self._finished or self._closed):
                self._data = memoryview(b"".join((self._data, data)))
                self._needs_bytes = False
                self._changed.notify_all()

    def end(self) -> None:
        """No more bytes come."""
        with self._changed:
            self._ended = True
            self._needs_bytes = False
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread, wherever it is waiting, and drop everything."""
        with self._changed:
            self._closed = True
            self._data = memoryview(b"")
            self._blocks.clear()
            self._woken.set()
            self._changed.notify_all()

    async def take(self) -> Samples | None:
        """Decoded samples [n]; waits for some; None once the decoder needs more bytes."""
        while True:
            with self._changed:
                self._woken.clear()
                if self._blocks:
                    sound = np.concatenate(self._blocks)
                    self._blocks.clear()
                    self._held = 0
                    self._changed.notify_all()
                    return sound
                if self._needs_bytes or self._finished or self._closed:
                    return None
            await self._woken.wait()
