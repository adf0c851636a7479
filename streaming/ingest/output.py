"""Decoded frames on one clock: mixed, resampled, with silence where time stamps leave a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..clock import SAMPLE_RATE
from .formats import MAX_CHANNELS, BadAudio, to_unit
from .pcm import Mixer, Resampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    import av

    from ..engine import Samples
    from .formats import Report

MIN_RATE, MAX_RATE = 8_000, 192_000
MAX_SILENCE_S = 3600.0
"""The silence that late starts and gaps in time stamps may become, in all, of one stream."""

# Smaller gaps are none, and add up until they are one. Clocks that are not counted in samples are
# not more exact than the first, decoders not than the second.
_JITTER_S, _EXACT_S = 0.1, 0.015
_BLOCK_S = 1.0


class Output:
    """Frames of any rate and layout onto one clock: mixed, resampled, silence between them.

    ``at_s`` is the place on the clock, ``heard`` the seconds that were decoded, ``gaps`` how many
    of time stamps' became silence, the late start aside.
    """

    def __init__(self, report: Report) -> None:
        self.at_s = 0.0
        self.heard = 0.0
        self.gaps = 0
        self._report = report
        self._silence_s = 0.0
        self._shape = (0, 0)
        self._mixer: Mixer | None = None
        self._resampler: Resampler | None = None
        self.restart()

    def restart(self, *, exact: bool = False) -> None:
        """What follows has a clock of its own, which goes on from here."""
        self._jitter_s = _EXACT_S if exact else _JITTER_S
        self._base_s = self.at_s
        self._due_s: float | None = None  # the next frame's time stamp, as the last one has it

    def place(self, at_s: float | None, lasts_s: float) -> Iterator[Samples]:
        """The silence before a frame with the time stamp ``at_s``."""
        if at_s is None:
            return
        late = self._due_s is None
        if self._due_s is not None and at_s < self._due_s - self._jitter_s:
            # The clock was set back: another recording, or a wrap.
            self._base_s = self.at_s - at_s
        self._due_s = at_s + lasts_s
        gap_s = self._base_s + at_s - self.at_s
        if gap_s <= self._jitter_s:
            return
        if self._silence_s + gap_s <= MAX_SILENCE_S:
            self.gaps += not late
            yield from self.silence(gap_s)
            return
        self._report.add(
            "timeline_jump",
            f"the time stamps leap by {gap_s:.1f} s at {self.at_s:.1f} s: no more than"
            f" {MAX_SILENCE_S:g} s of silence are put in, so that later times are early",
        )
        self._base_s -= gap_s

    def silence(self, lasts_s: float) -> Iterator[Samples]:
        """So much of it, if it may be."""
        if self._silence_s + lasts_s > MAX_SILENCE_S:
            return
        self._silence_s += lasts_s
        yield from self.finish()
        left = round(lasts_s * SAMPLE_RATE)
        self.at_s += left / SAMPLE_RATE
        while left > 0:
            size = min(left, int(_BLOCK_S * SAMPLE_RATE))
            yield np.zeros(size, np.float32)
            left -= size

    def push(self, samples: Samples, rate: int) -> Iterator[Samples]:
        """A frame [n, channels]."""
        if self._shape != (rate, samples.shape[1]) or not self._mixer or not self._resampler:
            if not self._resampler or self._resampler.rate != rate:
                yield from self.finish()
                self._resampler = Resampler(rate)
            self._shape = rate, samples.shape[1]
            self._mixer = Mixer(*self._shape)
        self.at_s += len(samples) / rate
        self.heard += len(samples) / rate
        yield self._resampler.push(self._mixer.push(samples))

    def finish(self) -> Iterator[Samples]:
        """The resampler's tail."""
        if self._resampler:
            yield self._resampler.finish()
        self._resampler = None


def samples_of(frame: av.AudioFrame) -> Samples:
    """A decoded frame as float32 [n, channels].

    More than eight channels must not reach PyAV's ``to_ndarray``, which reads past its planes then.
    """
    rate, channels = frame.sample_rate, frame.layout.nb_channels
    if not MIN_RATE <= rate <= MAX_RATE:
        raise BadAudio(f"a rate of {rate} Hz is not supported: use {MIN_RATE} to {MAX_RATE}")
    if channels > MAX_CHANNELS:
        raise BadAudio(f"{channels} channels are not supported: use 1 to {MAX_CHANNELS}")
    try:
        values = frame.to_ndarray()
    except ValueError as error:
        raise BadAudio(f"samples of the kind {frame.format.name} are not supported") from error
    return to_unit(values.T if frame.format.is_planar else values.reshape(-1, channels))
