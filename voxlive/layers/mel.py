"""Mel bands of audio, in NumPy: Slaney's filters, and power in them as networks take it."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from voxlive.values import SAMPLE_RATE

FFT = SAMPLE_RATE // 40
HOP = SAMPLE_RATE // 100

_LINEAR_TOP_HZ = 1000.0
_HZ_PER_MEL = 200.0 / 3.0
_LOG_STEP = math.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    """Slaney's scale (Auditory Toolbox): linear up to 1 kHz, logarithmic above."""
    if hz < _LINEAR_TOP_HZ:
        return hz / _HZ_PER_MEL
    return _LINEAR_TOP_HZ / _HZ_PER_MEL + math.log(hz / _LINEAR_TOP_HZ) / _LOG_STEP


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    top = _LINEAR_TOP_HZ / _HZ_PER_MEL
    above = _LINEAR_TOP_HZ * np.exp(_LOG_STEP * (np.maximum(mel, top) - top))
    return np.where(mel < top, mel * _HZ_PER_MEL, above)


@cache
def mel_filters(
    bands: int, n_fft: int = FFT, sample_rate: int = SAMPLE_RATE
) -> NDArray[np.float64]:
    """Triangles of equal area [n_fft / 2 + 1, bands] from 0 Hz to half the sample rate."""
    nyquist = sample_rate / 2
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(nyquist), bands + 2))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    hz = np.linspace(0.0, nyquist, n_fft // 2 + 1)[:, None]
    rise, fall = (hz - low) / (centre - low), (high - hz) / (high - centre)
    triangles: NDArray[np.float64] = np.maximum(0.0, np.minimum(rise, fall))
    return triangles * (2.0 / (high - low))


def mel_power(padded: NDArray[np.float32], frames: int, bands: int) -> NDArray[np.float64]:
    """Power [frames, bands] of float32 audio that has ``FFT // 2`` samples before its first.

    By a periodic Hann window of 25 ms, every 10 ms.
    """
    cut = sliding_window_view(padded, FFT)[::HOP][:frames]
    window = np.hanning(FFT + 1)[:-1].astype(np.float32)
    power: NDArray[np.float64] = np.abs(np.fft.rfft(cut * window)) ** 2 @ mel_filters(bands)
    return power
