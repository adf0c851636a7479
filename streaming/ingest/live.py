"""Ingest for one live session: bytes in the declared format to float32 mono at 16 kHz."""

from __future__ import annotations

import asyncio
from threading import Thread
from typing import TYPE_CHECKING, Protocol

from .formats import CONTAINER, AudioFormat, BadAudio, Report
from .handover import Handover
from .media import decode
from .pcm import PcmDecoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..engine import Samples
    from .formats import AudioWarning

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
        self._handover: Handover | None = None
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
            handover = self._handover or self._start()
            handover.put(data)
            while (samples := await handover.take()) is not None:
                yield samples
            self._check()

    async def finish(self) -> AsyncIterator[Samples]:
        """The rest; nothing if no byte ever came."""
        if self._handover:
            self._handover.end()
            while (samples := await self._handover.take()) is not None:
                yield samples
            self._check()

    def close(self) -> None:
        """Let the thread go; it ends with the frame that it is decoding."""
        self._closed = True
        if self._handover:
            self._handover.close()

    def _start(self) -> Handover:
        self._handover = Handover(asyncio.get_running_loop())
        Thread(target=self._decode, args=(self._handover,), name="ingest", daemon=True).start()
        return self._handover

    def _decode(self, handover: Handover) -> None:
        flaw: Exception | None = RuntimeError("the decoding thread died; the log says of what")
        try:
            for samples in decode(handover, self._report):
                if len(samples) and not handover.give(samples):
                    break
            flaw = None
        except BadAudio as error:
            flaw = error
        finally:
            self._flaw = flaw
            handover.finish()

    def _check(self) -> None:
        if self._flaw and not self._closed:
            raise self._flaw
