"""Sliding-window attention over paged rings: one contract, one file per implementation."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from ..cuda import on_cuda
from .contract import Attention, AttentionShape
from .cuda import CudaAttention
from .gather import GatherAttention

__all__ = ["ATTENTIONS", "Attention", "AttentionShape", "default_attention"]

ATTENTIONS: dict[str, Callable[[AttentionShape], Attention]] = {
    "gather": GatherAttention,
    "cuda": CudaAttention,
}
"""Every implementation by name."""


def default_attention(shape: AttentionShape, dtype: mx.Dtype) -> str:
    """The fastest implementation that takes such a model on the default device."""
    if on_cuda() and CudaAttention.takes(shape, dtype):
        return "cuda"
    return "gather"
