"""Batch sizes that steps are built for, so that few graphs are compiled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import mlx.core as mx

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def padded_size(rows: int) -> int:
    """The batch size that ``rows`` rows are filled up to: a step of ``SIZES``, then of 128."""
    for size in SIZES:
        if rows <= size:
            return size
    return -(-rows // 128) * 128


def padded(rows: Sequence[int], filler: int, *, fixed: bool) -> mx.array:
    """``rows`` on the device, filled up to one of the ``fixed`` batch sizes with ``filler``."""
    fill = padded_size(len(rows)) - len(rows) if fixed else 0
    return on_device((*rows, *[filler] * fill))


@lru_cache(maxsize=256)
def on_device(rows: tuple[int, ...]) -> mx.array:
    """``rows`` as int32, not to be written to. Copied once: on GPUs each copy costs a pause."""
    return mx.array(rows, mx.int32)


@lru_cache(maxsize=256)
def zeros(size: int) -> mx.array:
    """float32 zeros [size] on the device, not to be written to."""
    return mx.zeros(size)
