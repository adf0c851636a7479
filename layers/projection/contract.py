"""A layer's products with what stands around them, so that an implementation may join them."""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx

from ..linear import Linear


class Projections(Protocol):
    """The three kinds of product in a pre-norm layer; ``x [B, n, in] -> [B, n, out]``."""

    def normed(self, x: mx.array, norm: mx.array, linear: Linear) -> mx.array:
        """``linear`` of x after RMSNorm."""
        ...

    def gated(
        self, x: mx.array, norm: mx.array, scale: mx.array | None, linear: Linear
    ) -> mx.array:
        """SwiGLU of x after RMSNorm, times ``scale [B, 1, in]`` if given.

        ``linear`` gives the gates in its first half of outputs and what they gate in the second.
        """
        ...

    def added(self, x: mx.array, linear: Linear, residual: mx.array) -> mx.array:
        """``residual`` plus ``linear`` of x."""
        ...
