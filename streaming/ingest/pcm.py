"""The arithmetic of ingest: interleaved PCM to mono at 16 kHz, the same for every chunking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soxr

from ..clock import SAMPLE_RATE
from .formats import ENCODINGS

if TYPE_CHECKING:
    from ..engine import Samples
    from .formats import AudioFormat


def mix_down(frames: Samples) -> Samples:
    """The mean over the channels of float32 [n, channels], as [n].

    Channels are added one by one, so that a frame's sum never depends on how many came with it.
    """
    mono = frames[:, 0]
    if frames.shape[1] == 1:
        return mono
    mono = mono.copy()
    for channel in range(1, frames.shape[1]):
        mono += frames[:, channel]
    mono /= frames.shape[1]
    return mono


class Resampler:
    """Streams mono float32 from ``rate`` to 16 kHz through soxr (HQ); 16 kHz passes untouched.

    soxr keeps its filter state between calls, so the output does not depend on the calls' sizes.
    It works in blocks and holds back at most about 0.12 s (8 kHz) or 0.04 s (44.1 and 48 kHz).
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._stream = (
            None
            if rate == SAMPLE_RATE
            else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        )

    def push(self, mono: Samples) -> Samples:
        """What can be given out once ``mono`` [n] has gone in."""
        return mono if self._stream is None else self._stream.resample_chunk(mono)

    def finish(self) -> Samples:
        """The tail. Nothing may be pushed after it."""
        rest = np.empty(0, np.float32)
        return rest if self._stream is None else self._stream.resample_chunk(rest, last=True)


class PcmDecoder:
    """Bytes of one PCM format, cut anywhere, to float32 mono at 16 kHz."""

    def __init__(self, audio: AudioFormat) -> None:
        self._encoding = ENCODINGS[audio.encoding]
        self._channels = audio.channels
        self._frame = self._encoding.dtype.itemsize * audio.channels
        self._resampler = Resampler(audio.rate)
        self._rest = b""

    @property
    def pending(self) -> int:
        """Bytes at hand that do not make a whole frame yet."""
        return len(self._rest)

    def push(self, data: bytes | memoryview) -> Samples:
        """Samples [n] at 16 kHz; bytes short of a whole frame wait for the next push."""
        data = b"".join((self._rest, data)) if self._rest else data
        whole = len(data) - len(data) % self._frame
        self._rest = bytes(data[whole:]) if whole < len(data) else b""
        samples = self._encoding.decode(data[:whole])
        return self._resampler.push(mix_down(samples.reshape(-1, self._channels)))

    def finish(self) -> Samples:
        """The resampler's tail."""
        return self._resampler.finish()
