"""A layer's products with what stands around them: one contract, one file per implementation."""

from __future__ import annotations

from ..cuda import on_cuda
from .contract import Projections
from .cuda import CudaProjections
from .plain import PlainProjections

__all__ = ["Projections", "best_projections"]


def best_projections(norm_eps: float) -> Projections:
    """The fastest implementation on the default device."""
    return CudaProjections(norm_eps) if on_cuda() else PlainProjections(norm_eps)
