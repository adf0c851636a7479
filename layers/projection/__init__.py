"""A layer's products with what stands around them: one contract, one file per implementation."""

from __future__ import annotations

import mlx.core as mx

from .contract import Projections
from .cuda import CudaProjections
from .plain import PlainProjections

__all__ = ["Projections", "best_projections"]


def best_projections(norm_eps: float) -> Projections:
    """The fastest implementation on the default device."""
    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    if on_gpu and mx.cuda.is_available():
        return CudaProjections(norm_eps)
    return PlainProjections(norm_eps)
