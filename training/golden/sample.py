"""What the goldens and the tests that read them agree upon."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BOS = 1
STREAMING_PAD = 32
RIGHT_PAD_TOKENS = 10
"""A file ends in ``delay + 1 + 10`` positions of zeros."""

_STRIDE = 7


def rotating_sample(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """``count`` values of every row, evenly spaced, starting 7 further on in each row.

    rows [n, width] -> [n, count]; after ``width`` rows every column has had its turn.
    """
    width = rows.shape[1]
    columns = np.arange(len(rows))[:, None] * _STRIDE + np.arange(count) * (width // count)
    return np.take_along_axis(rows, columns % width, axis=1)
