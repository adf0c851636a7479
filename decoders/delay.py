"""What a stream's delay means to the decoder: its prompt, its conditioning and its clock."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

_PERIOD = 10_000.0


def time_embedding(delay_tokens: int, dim: int) -> mx.array:
    """Sinusoids of the delay in positions, cosines first, float32 [dim].

    Frequencies are ``exp(-ln(10000) i / (dim / 2))``, as in the released model.
    """
    half = dim // 2
    angle = delay_tokens * np.exp(-np.log(_PERIOD) * np.arange(half) / half)
    return mx.array(np.concatenate([np.cos(angle), np.sin(angle)]), mx.float32)


def prompt_length(left_pad_tokens: int, delay_tokens: int) -> int:
    """Positions before the first output: BOS, the silence on the left, the delay."""
    return 1 + left_pad_tokens + delay_tokens


def prompt(left_pad_tokens: int, delay_tokens: int, *, bos: int, pad: int) -> NDArray[np.int32]:
    """The prompt's token ids: BOS, then a pad for each further position."""
    ids = np.full(prompt_length(left_pad_tokens, delay_tokens), pad, np.int32)
    ids[0] = bos
    return ids
