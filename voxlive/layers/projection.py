"""A layer's products with what stands around them, so that an implementation may join them.

Products and what stands around them, one operation after another in MLX.

Products for a few rows on NVIDIA GPUs: one kernel each, with all that stands around them.

Reading the weight is what such a product costs. The kernel reads it once at the memory's speed;
norm, gate, bias and residual ride along instead of being kernels of their own.

A layer's products with what stands around them: one contract, one file per implementation.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import mlx.core as mx

from voxlive.layers.device import kernel, on_cuda
from voxlive.layers.linear import Dense, Linear


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


_MOST_ROWS = 16
"""Rows of x up to which the kernel is the faster way."""
_TILE = 16
"""Outputs that a block makes."""
_WARPS = ((256, 16), (512, 8), (1 << 31, 4))
"""(blocks, warps to a block below that): the fewer blocks, the more warps share their inputs."""
_SPAN = 64
"""Inputs that a warp takes at a time."""


class CudaProjections(PlainProjections):
    """The kernel where it fits (few rows, half precision, not quantised), else plain MLX."""

    def normed(self, x: mx.array, norm: mx.array, linear: Linear) -> mx.array:
        """See ``Projections.normed``."""
        if isinstance(linear, Dense) and _takes(x, linear):
            return self._run(x, linear, linear.weight.shape[0], norm=norm)
        return super().normed(x, norm, linear)

    def gated(
        self, x: mx.array, norm: mx.array, scale: mx.array | None, linear: Linear
    ) -> mx.array:
        """See ``Projections.gated``."""
        if isinstance(linear, Dense) and linear.bias is None and _takes(x, linear):
            outputs = linear.weight.shape[0] // 2
            return self._run(x, linear, outputs, norm=norm, scale=scale, gated=True)
        return super().gated(x, norm, scale, linear)

    def added(self, x: mx.array, linear: Linear, residual: mx.array) -> mx.array:
        """See ``Projections.added``."""
        if isinstance(linear, Dense) and _takes(x, linear):
            return self._run(x, linear, linear.weight.shape[0], residual=residual)
        return super().added(x, linear, residual)

    def _run(
        self,
        x: mx.array,
        linear: Dense,
        outputs: int,
        *,
        norm: mx.array | None = None,
        scale: mx.array | None = None,
        residual: mx.array | None = None,
        gated: bool = False,
    ) -> mx.array:
        batch, n, inputs = x.shape
        optional = {"NORM": norm, "SCALE": scale, "BIAS": linear.bias, "RESIDUAL": residual}
        given = [x if array is None else array for array in optional.values()]
        blocks = outputs // _TILE
        warps = next(warps for most, warps in _WARPS if blocks < most)
        y: mx.array = self._kernel(
            inputs=[x, linear.weight, *given],
            template=[
                ("T", x.dtype),
                ("INPUTS", inputs),
                ("OUTPUTS", outputs),
                ("TILES", -(-batch * n // 8)),
                ("WARPS", warps),
                ("UNROLL", 1 if gated else 2),
                ("GATED", gated),
                *((name, array is not None) for name, array in optional.items()),
            ],
            grid=(blocks * 32 * warps, 1, 1),
            threadgroup=(32 * warps, 1, 1),
            output_shapes=[(batch, n, outputs)],
            output_dtypes=[x.dtype],
        )[0]
        return y

    @cached_property
    def _kernel(self) -> Any:
        body = f"""
          projection::project<
              T, INPUTS, OUTPUTS, TILES, WARPS, UNROLL, NORM, SCALE, GATED, BIAS, RESIDUAL>(
              x, norm, scale, weight, bias, residual, y,
              x_shape[0] * x_shape[1], x_shape[1], {self._eps!r}f);
        """
        inputs = ["x", "weight", "norm", "scale", "bias", "residual"]
        return kernel("projection", __file__, body, inputs=inputs, outputs=["y"])


def _takes(x: mx.array, linear: Dense) -> bool:
    outputs, inputs = linear.weight.shape
    return (
        x.shape[0] * x.shape[1] <= _MOST_ROWS
        and x.dtype == linear.weight.dtype
        and x.dtype in (mx.bfloat16, mx.float16)
        and inputs % _SPAN == 0
        and outputs % (2 * _TILE) == 0
    )


__all__ = ["Projections", "best_projections"]


def best_projections(norm_eps: float) -> Projections:
    """The fastest implementation on the default device."""
    return CudaProjections(norm_eps) if on_cuda() else PlainProjections(norm_eps)
