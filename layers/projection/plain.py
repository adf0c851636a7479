"""Products and what stands around them, one operation after another in MLX."""

from __future__ import annotations

import mlx.core as mx

from ..linear import Linear


class PlainProjections:
    """See ``Projections``. Takes every layer on every device."""

    def __init__(self, norm_eps: float) -> None:
        self._eps = norm_eps

    def normed(self, x: mx.array, norm: mx.array, linear: Linear) -> mx.array:
        """See ``Projections.normed``."""
        return linear(mx.fast.rms_norm(x, norm, self._eps))

    def gated(
        self, x: mx.array, norm: mx.array, scale: mx.array | None, linear: Linear
    ) -> mx.array:
        """See ``Projections.gated``."""
        h = mx.fast.rms_norm(x, norm, self._eps)
        if scale is not None:
            h = h * scale
        gate, up = mx.split(linear(h), 2, axis=-1)
        return gate * mx.sigmoid(gate) * up

    def added(self, x: mx.array, linear: Linear, residual: mx.array) -> mx.array:
        """See ``Projections.added``."""
        return residual + linear(x)
