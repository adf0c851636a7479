"""Leaks between the sources of one session: what a microphone has of the loudspeaker is taken out.

Where a microphone and the computer's sound are two channels, the loudspeaker is in both. A
``LeakSuppressor`` leaves every voice in its own channel. Each channel is modelled as its own sound
and what comes from the others through a room: an unknown filter that covers ``_AHEAD`` windows
before the other channel's sound, for clocks that are not quite the same, to 0.3 s behind it. The
filter is a partitioned-block frequency-domain Kalman filter, whose step size follows from the
uncertainty of the filter and the power of what it does not explain, so that it goes on in double
talk without a detector for it:

- G. Enzner, P. Vary: Frequency-domain adaptive Kalman filter for acoustic echo control in
  hands-free telephones. Signal Processing 86 (2006), 1140-1156.
- F. Kuech, E. Mabande, G. Enzner: State-space architecture of the partitioned-block-based acoustic
  echo controller. ICASSP 2014, 1295-1299. (Its equations, with the gradient constrained.)

What the filter explains is subtracted. A window of what is left counts as the channel's own sound
when its power is above the least that was left of the other channel's power lately (minimum
statistics after R. Martin, IEEE Trans. Speech and Audio Processing 9 (2001), 504-512), with a
margin, else it is silence: with hysteresis, so that words keep their edges. Two channels each of
which explains the other, such as a level apart, leak from the louder one into the other alone.
Where the other channels are silent, a channel passes as it is, bit by bit.

Pure, the same for every chunking. The latency is ``LATENCY`` samples; memory is constant.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from voxlive.vad.gate import WINDOW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxlive.values import Samples

MAX_SOURCES = 4
"""The cost grows with the square of their number."""

_AHEAD = 2  # windows
_BEHIND = 10
_PARTITIONS = _AHEAD + _BEHIND
_LOOK = 2  # windows behind one that are known when it is decided
_BLOCK = 2 * WINDOW
_BAND = slice(13, 448)  # 0.2 to 7 kHz: no hum, no rumble

LATENCY = (1 + _AHEAD + _LOOK) * WINDOW
"""Samples at most that a sample is held back: 160 ms."""

# The filter.
_KEEP = 0.999  # of the filter in a window; the rest of it may have changed
_UNCERTAIN = 0.05  # variance of a coefficient before anything is known
_NOISE_MEMORY = 0.8
_NO_POWER = 1e-7 * WINDOW  # in a window: -70 dB of full scale

# The levels. Powers are ratios to that of the other channel.
_SPAN = 16  # windows over which powers are compared
_LOUD = 10**-5.2 * WINDOW  # in a window: -52 dB of full scale
_RISE = 10 ** (0.1 / 31.25)  # in a window: 1 dB a second
_FIRST_REST = 0.04  # -14 dB, before anything is known: the filter is not either
_MOST_REST = 0.003  # -25 dB, once it has had some seconds of the other channel's sound
_LEAST_REST = 0.001  # -30 dB: what is left is not the same in every sound
_LEARN = 10 ** (-0.3 / 31.25)  # in a window of that: 3 dB a second
_MARGIN = 4.0
_LEAST_LOSS = 0.8  # a leak is lower by 1 dB at least
_MOST_GAIN = 1.25  # of the first of two channels that are the same
_OFF = 8.0  # what the filter explains may be off the least ratio
_DECAY = 0.64  # of a room's sound in a window: 60 dB a second
_ONSET = 2  # windows of own sound that begin it
_CLEAR = 8.0  # times the limit: one window is enough
_HOLD = 10  # windows without own sound that end it
_VOICE = 3.0  # times the least power of the channel lately
_FLOOR_RISE = 10 ** (0.4 / 31.25)  # in a window: 4 dB a second


class _Levels:
    """The power of one channel's rest beside that of another one, which may have leaked into it."""

    def __init__(self, *, first: bool) -> None:
        self._most = _MOST_GAIN if first else _LEAST_LOSS
        self._windows: deque[tuple[float, float, float, float]] = deque(maxlen=_SPAN)
        self._heights: deque[float] = deque([0.0] * (_AHEAD + _BEHIND), maxlen=_AHEAD + _BEHIND)
        self._wholes: deque[float] = deque(maxlen=_SPAN)  # a leak comes later than the sound
        self._loudest = 0.0
        self._tail = 0.0
        self._rest = self._most_rest = _FIRST_REST
        self._ratio: float | None = None
        self.is_leak = False
        """Whether what the filter explains may be a leak, by its power."""

    @property
    def limit(self) -> float:
        """Power below which the rest of this window may be the other channel's."""
        return _MARGIN * self._rest * self._tail

    def is_audible(self, ahead: float) -> bool:
        """Whether this channel may have something of the other one, which ``ahead`` belongs to."""
        return ahead > 0 or any(self._heights)

    def push(self, other: float, ahead: float, own: float, explained: float, rest: float) -> None:
        """Take a window's powers: the other channel's, now and ``_AHEAD``; this channel's, the
        part that the filter explains, what is left.
        """
        self._heights.append(ahead)
        self._tail = max(*self._heights, self._tail * _DECAY)
        self._windows.append((other, own, explained, rest))
        powers = np.array(self._windows)
        whole, owns, explains, rests = powers.sum(axis=0).tolist()
        self._wholes.append(whole)
        self._loudest = max(whole, self._loudest * 0.998)
        early = float(powers[: _SPAN // 2, 0].sum())
        # Noise, or just begun: the leak of what is heard may not have come yet.
        loud = len(self._windows) == _SPAN and whole > max(0.1 * self._loudest, _LOUD * _SPAN)
        if loud and early > 0.25 * whole:
            ratio = owns / whole
            self._ratio = ratio if self._ratio is None else min(ratio, self._ratio * _RISE)
            self._most_rest = max(self._most_rest * _LEARN, _MOST_REST)
            rest = min(rests / whole, self._rest * _RISE, self._most_rest)
            self._rest = max(rest, _LEAST_REST)
        level = self._ratio
        self.is_leak = (
            level is not None and level < self._most and explains < _OFF * level * max(self._wholes)
        )


class _Channel:
    """One channel: the filters of the others' leaks into it, and whether it has its own sound."""

    def __init__(self, others: list[int], number: int) -> None:
        shape = len(others), _PARTITIONS, WINDOW + 1
        self._others = others
        self._filter = np.zeros(shape, np.complex64)
        self._variance = np.full(shape, _UNCERTAIN, np.float32)
        self._noise: NDArray[np.float32] | None = None
        self._levels = [_Levels(first=other < number) for other in others]
        self._own: deque[bool] = deque(maxlen=_LOOK + 1)
        self._run = 0
        self._held = 0
        self._gain = 1.0
        self._floor = _NO_POWER

    def push(
        self,
        window: Samples,
        spectra: NDArray[np.complex64],
        powers: NDArray[np.float64],
        ahead: NDArray[np.float64],
        number: int,
    ) -> Samples:
        """What is left of a window [512] of this channel.

        ``spectra`` complex [C, partitions, 513]: of all channels' blocks, the newest first;
        ``powers``, ``ahead`` [C]: of their windows at this time and ``_AHEAD``.
        """
        other = spectra[self._others]
        explained = np.zeros((len(self._others), WINDOW), np.float32)
        if any(
            levels.is_audible(float(ahead[at]))
            for levels, at in zip(self._levels, self._others, strict=True)
        ):
            parts = (self._filter * other).sum(axis=1)
            explained = np.fft.irfft(parts, axis=1)[:, WINDOW:].astype(np.float32)
            self._adapt(window - explained.sum(axis=0), other)
        rest = window
        for levels, part in zip(self._levels, explained, strict=True):
            if levels.is_leak:
                rest = rest - part
        own, left = powers[number], band_power(rest) if rest is not window else powers[number]
        if left > own:
            rest, left = window, own
        limit = 0.0
        for levels, at, part in zip(self._levels, self._others, explained, strict=True):
            levels.push(
                float(powers[at]), float(ahead[at]), float(own), band_power(part), float(left)
            )
            limit += levels.limit
        self._decide(left, limit)
        return rest

    def _adapt(self, error: Samples, other: NDArray[np.complex64]) -> None:
        """One step of the Kalman filter, by the error of its prediction."""
        spectrum = np.fft.rfft(error, _BLOCK).astype(np.complex64)
        spectrum *= np.exp(-1j * np.pi * np.arange(WINDOW + 1)).astype(np.complex64)  # its 2nd half
        power: NDArray[np.float32] = np.abs(spectrum) ** 2
        if self._noise is None:
            self._noise = power
        self._noise = (
            np.float32(_NOISE_MEMORY) * self._noise + np.float32(1 - _NOISE_MEMORY) * power
        )
        heard = np.abs(other) ** 2
        uncertain = 0.5 * (self._variance * heard).sum(axis=(0, 1)) + self._noise + 1e-9
        step = self._variance / uncertain
        change = np.fft.irfft(step * other.conj() * spectrum, axis=2)
        change[:, :, WINDOW:] = 0
        self._filter = _KEEP * (self._filter + np.fft.rfft(change, axis=2).astype(np.complex64))
        left = (1 - 0.5 * step * heard) * self._variance
        self._variance = _KEEP**2 * left + (1 - _KEEP**2) * np.abs(self._filter) ** 2

    def _decide(self, left: float, limit: float) -> None:
        own = left >= limit
        self._floor = max(min(left, self._floor * _FLOOR_RISE), _NO_POWER)
        self._run = self._run + 1 if own else 0
        begins = self._run >= _ONSET or (own and left >= _CLEAR * limit)
        if begins or (own and self._held):
            # Noise ends at once where the other's sound begins: only a voice has edges to keep.
            self._held = _HOLD if left > _VOICE * self._floor else max(self._held - 1, 1)
        elif self._held:
            self._held -= 1
        self._own.append(self._held > 0)

    def gate(self, rest: Samples) -> Samples:
        """The window ``_LOOK`` before the last one, as it is or as silence, with a ramp between."""
        gain = 1.0 if any(self._own) else 0.0
        before, self._gain = self._gain, gain
        if gain == before:
            return rest if gain else np.zeros_like(rest)
        ramp = np.linspace(before, gain, len(rest), dtype=np.float32)
        ramped: Samples = rest * ramp
        return ramped


def band_power(window: Samples) -> float:
    """The power of a window in the band that counts."""
    return float((np.abs(np.fft.rfft(window, _BLOCK)[_BAND]) ** 2).sum()) / WINDOW


class LeakSuppressor:
    """Float32 [n, C] at 16 kHz to as many samples of the same shape, without leaks. See the module.

    Raises ValueError for more than ``MAX_SOURCES``.
    """

    def __init__(self, channels: int) -> None:
        if not 2 <= channels <= MAX_SOURCES:
            raise ValueError(f"leaks are suppressed between 2 to {MAX_SOURCES} sources")
        self._channels = [
            _Channel([other for other in range(channels) if other != number], number)
            for number in range(channels)
        ]
        self._waiting = np.zeros((0, channels), np.float32)
        self._last = np.zeros((WINDOW, channels), np.float32)
        self._spectra = np.zeros((channels, _PARTITIONS, WINDOW + 1), np.complex64)
        # Of each window on its way: its samples and powers; what is left of it.
        self._windows: deque[tuple[Samples, NDArray[np.float64], int]] = deque()
        self._rests: deque[tuple[Samples, int]] = deque()

    def push(self, frames: Samples) -> Samples:
        """Take samples; returns those that are decided, [m, C]."""
        self._waiting = np.concatenate([self._waiting, frames])
        done = [self._waiting[:0]]
        whole = len(self._waiting) // WINDOW * WINDOW
        windows = (self._waiting[at : at + WINDOW] for at in range(0, whole, WINDOW))
        done += [self._step(window, WINDOW) for window in windows]
        self._waiting = self._waiting[whole:].copy()
        return np.concatenate(done)

    def flush(self) -> Samples:
        """All samples that are held back, decided by what is known; more may follow."""
        rest = self._waiting
        self._waiting = rest[:0]
        done = [rest[:0]]
        if len(rest):
            done.append(self._step(np.pad(rest, ((0, WINDOW - len(rest)), (0, 0))), len(rest)))
        nothing = np.zeros_like(self._last)
        while any(real for _, _, real in self._windows) or any(real for _, real in self._rests):
            done.append(self._step(nothing, 0))
        return np.concatenate(done)

    def _step(self, window: Samples, real: int) -> Samples:
        """Take a window [512, C], whose first ``real`` samples are none of a flush's silence."""
        blocks = np.concatenate([self._last, window]).T
        self._last = window
        self._spectra = np.roll(self._spectra, 1, axis=1)
        self._spectra[:, 0] = np.fft.rfft(blocks, axis=1)
        powers = np.array([band_power(channel) for channel in window.T])
        powers[powers < _NO_POWER] = 0
        self._windows.append((window, powers, real))
        if len(self._windows) <= _AHEAD:
            return window[:0]
        own, present, real = self._windows.popleft()
        rest = [
            channel.push(own[:, number], self._spectra, present, powers, number)
            for number, channel in enumerate(self._channels)
        ]
        self._rests.append((np.stack(rest, axis=1), real))
        if len(self._rests) <= _LOOK:
            return window[:0]
        decided, real = self._rests.popleft()
        gated = [channel.gate(decided[:, number]) for number, channel in enumerate(self._channels)]
        return np.stack(gated, axis=1)[:real]
