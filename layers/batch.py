"""Batch sizes that steps are built for, so that few graphs are compiled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)


def padded_size(rows: int) -> int:
    """The batch size that ``rows`` rows are filled up to: a step of ``_SIZES``, then of 32."""
    for size in _SIZES:
        if rows <= size:
            return size
    return -(-rows // 32) * 32


def padded(rows: Sequence[int], filler: int, *, fixed: bool) -> NDArray[np.int32]:
    """``rows``, filled up to one of the ``fixed`` batch sizes with ``filler``."""
    filled = np.full(padded_size(len(rows)) if fixed else len(rows), filler, np.int32)
    filled[: len(rows)] = rows
    return filled
