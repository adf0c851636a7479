"""Synthetic audio made of whole numbers, so that every machine computes the same samples."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
CLIP_SAMPLES = 1_000_123
"""62.5 s and no whole number of positions."""


@cache
def synthetic_audio(samples: int = CLIP_SAMPLES, seed: int = 0) -> NDArray[np.float32]:
    """Gliding buzzes under syllable-like envelopes, noise bursts and true silence.

    float32 [samples] within [-1, 1], 16 kHz, read-only. A longer clip begins with the shorter one.
    """
    t = np.arange(samples, dtype=np.int64)
    bend = _triangle(t * 7 + seed * 991, 1 << 17)
    voice = sum(
        _triangle(t * pitch + (t // 8) * (bend >> drift), 1 << 16) >> shift
        for pitch, drift, shift in ((451, 9, 1), (1373, 8, 2), (5309, 7, 3), (11117, 8, 4))
    )
    noise = np.random.RandomState(seed + 1).randint(-(1 << 15), 1 << 15, samples).astype(np.int64)
    syllables = np.maximum(_triangle(t * 23, 1 << 17), 0)
    bursts = np.maximum(_triangle(t * 5 + (1 << 15), 1 << 18) - (1 << 14), 0)
    mixed = (voice * syllables >> 15) + (noise * bursts >> 17) + (noise >> 9)
    mixed[(t // 20_000) % 6 == 4] = 0
    audio = (np.clip(mixed, -32768, 32767) / 32768).astype(np.float32)
    audio.setflags(write=False)
    return audio


def _triangle(phase: NDArray[np.int64], period: int) -> NDArray[np.int64]:
    """A triangle wave within [-32768, 32768] at integer phases."""
    folded = np.abs(2 * (phase % period) - period)
    return folded * 65536 // period - 32768
