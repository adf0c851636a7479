"""Power in mel bands, as networks take it: periodic Hann window of 25 ms, every 10 ms, centred.

Slaney's mel scale: linear up to 1 kHz, logarithmic above, triangles of equal area.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from voxlive.values import SAMPLE_RATE

FFT = SAMPLE_RATE // 40
HOP = SAMPLE_RATE // 100

_HZ_PER_MEL = 200 / 3
_LINEAR_MELS = 15.0
_LOG_STEP = np.log(6.4) / 27


def mel_power(padded: NDArray[np.float32], frames: int, bands: int) -> NDArray[np.float64]:
    """Power [frames, bands] of float32 audio that has ``FFT // 2`` samples before its first."""
    cut = sliding_window_view(padded, FFT)[::HOP][:frames]
    window = np.hanning(FFT + 1)[:-1].astype(np.float32)
    power: NDArray[np.float64] = np.abs(np.fft.rfft(cut * window)) ** 2 @ _filters(bands)
    return power


@cache
def _filters(bands: int) -> NDArray[np.float64]:
    """Triangles [201, bands] from 0 Hz to 8 kHz."""
    top = _LINEAR_MELS + np.log(SAMPLE_RATE / 2 / (_LINEAR_MELS * _HZ_PER_MEL)) / _LOG_STEP
    mels = np.linspace(0, top, bands + 2)
    above = _LINEAR_MELS * np.exp(_LOG_STEP * (np.maximum(mels, _LINEAR_MELS) - _LINEAR_MELS))
    edges = np.where(mels < _LINEAR_MELS, mels, above) * _HZ_PER_MEL
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)[:, None]
    rise, fall = (bins - low) / (middle - low), (high - bins) / (high - middle)
    filters: NDArray[np.float64] = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
    return filters
