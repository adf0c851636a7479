"""Linear layers, plain and quantised, the weights they are taken from, and a layer's products.

A layer's products come with what stands around them (norm, gate, residual), so that an
implementation may join them: in MLX one operation after another, or, for a few rows on NVIDIA GPUs,
as one kernel each. Reading the weight is what such a product costs. The kernel reads it once at
the memory's speed; norm, gate, bias and residual ride along instead of being kernels of their own.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import mlx.core as mx

_HERE = Path(__file__).parent
_SHARED = _HERE / "half.cu"

_HALF = (mx.bfloat16, mx.float16)
_MOST_ROWS = 16
"""Rows of x up to which the kernel is the faster way."""
_TILE = 16
"""Outputs that a block makes."""
_WARPS = ((256, 16), (512, 8), (1 << 31, 4))
"""(blocks, warps to a block below that): the fewer blocks, the more warps share their inputs."""
_SPAN = 64
"""Inputs that a warp takes at a time."""
_NORM_THREADS = 128
"""To a row whose sum and norm are one kernel."""
_VECTOR = 8
"""Half-precision values in 16 bytes."""


def on_cuda() -> bool:
    """Whether the default device is an NVIDIA GPU."""
    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    return bool(on_gpu and mx.cuda.is_available())


def kernel(name: str, body: str, *, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """The kernel that calls from ``body`` what the ``.cu`` file ``name`` has.

    MLX keeps compiled kernels by name, on disk too, so the name carries a sum of the source.
    """
    source = _SHARED.read_text() + (_HERE / f"{name}.cu").read_text()
    return mx.fast.cuda_kernel(
        name=f"voxlive_{name}_{zlib.crc32((source + body).encode()):08x}",
        input_names=inputs,
        output_names=outputs,
        header=source,
        source=body,
    )


class Linear(Protocol):
    """``x [..., in] -> [..., out]``."""

    def __call__(self, x: mx.array) -> mx.array:
        """Multiply by the transposed weight [out, in] and add the bias, if there is one."""
        ...

    @property
    def arrays(self) -> list[mx.array]:
        """Everything it holds in memory."""
        ...


@dataclass(frozen=True, slots=True)
class Dense:
    """A weight [out, in] as it is."""

    weight: mx.array
    bias: mx.array | None

    def __call__(self, x: mx.array) -> mx.array:
        """See ``Linear``."""
        if self.bias is None:
            return x @ self.weight.T
        return mx.addmm(self.bias, x, self.weight.T)

    def rows(self, ids: mx.array) -> mx.array:
        """The weight's rows, ``ids [...] -> [..., in]``: the same table as an embedding."""
        return self.weight[ids]

    @property
    def arrays(self) -> list[mx.array]:
        """See ``Linear``."""
        return [a for a in (self.weight, self.bias) if a is not None]


@dataclass(frozen=True, slots=True)
class Quantised:
    """A weight in groups of ``group_size`` values of ``bits`` bits (affine: scale and zero)."""

    weight: mx.array
    scales: mx.array
    zeros: mx.array
    bias: mx.array | None
    group_size: int
    bits: int

    def __call__(self, x: mx.array) -> mx.array:
        """See ``Linear``."""
        several = x.size > x.shape[-1]
        y = self._unpacked(x) if several and on_cuda() else self._packed(x)
        return y if self.bias is None else y + self.bias

    def _packed(self, x: mx.array) -> mx.array:
        return mx.quantized_matmul(
            x,
            self.weight,
            self.scales,
            self.zeros,
            transpose=True,
            group_size=self.group_size,
            bits=self.bits,
        )

    def _unpacked(self, x: mx.array) -> mx.array:
        """For MLX on CUDA, whose product of several rows is slow, and wrong at 64 inputs."""
        return x @ self._values(self.weight, self.scales, self.zeros).T

    def unpacked(self) -> Dense:
        """The same layer with its weight as it is read in products."""
        return Dense(self._values(self.weight, self.scales, self.zeros), self.bias)

    def rows(self, ids: mx.array) -> mx.array:
        """See ``Dense.rows``."""
        return self._values(self.weight[ids], self.scales[ids], self.zeros[ids])

    def _values(self, weight: mx.array, scales: mx.array, zeros: mx.array) -> mx.array:
        return mx.dequantize(weight, scales, zeros, group_size=self.group_size, bits=self.bits)

    @property
    def arrays(self) -> list[mx.array]:
        """See ``Linear``."""
        parts = (self.weight, self.scales, self.zeros, self.bias)
        return [a for a in parts if a is not None]


@dataclass(frozen=True, slots=True)
class Side:
    """Layers on the same input whose weights cannot be joined, with their outputs side by side."""

    parts: tuple[Linear, ...]

    def __call__(self, x: mx.array) -> mx.array:
        """See ``Linear``."""
        return mx.concatenate([part(x) for part in self.parts], axis=-1)

    @property
    def arrays(self) -> list[mx.array]:
        """See ``Linear``."""
        return [a for part in self.parts for a in part.arrays]


def fuse(parts: Sequence[Linear]) -> Linear:
    """One layer for several on the same input: one product instead of many.

    Quantised layers join when their group size and bits agree; else they stay ``Side`` by side.
    """
    dense = [p for p in parts if isinstance(p, Dense)]
    if len(dense) == len(parts):
        return Dense(mx.concatenate([p.weight for p in dense]), _join_bias(dense))
    quant = [p for p in parts if isinstance(p, Quantised)]
    if len(quant) == len(parts) and len({(p.group_size, p.bits) for p in quant}) == 1:
        return Quantised(
            mx.concatenate([p.weight for p in quant]),
            mx.concatenate([p.scales for p in quant]),
            mx.concatenate([p.zeros for p in quant]),
            _join_bias(quant),
            quant[0].group_size,
            quant[0].bits,
        )
    return Side(tuple(parts))


def _join_bias(parts: Sequence[Dense | Quantised]) -> mx.array | None:
    """The biases end to end, zeros where a part has none; None where no part has one."""
    some = next((p.bias for p in parts if p.bias is not None), None)
    if some is None:
        return None
    return mx.concatenate(
        [mx.zeros(p.weight.shape[0], some.dtype) if p.bias is None else p.bias for p in parts]
    )


class Weights:
    """A checkpoint's tensors while they are being taken over by the modules.

    ``tensors`` maps canonical names to arrays and is emptied as modules take what is theirs, so
    that fused copies and originals never stand in memory together. ``quantised`` maps a module's
    name to (group size, bits). Everything floating is cast to ``dtype``. ``unpack`` makes quantised
    layers dense: the numbers are the same, only products of them round otherwise.
    """

    def __init__(
        self,
        tensors: MutableMapping[str, mx.array],
        quantised: Mapping[str, tuple[int, int]],
        dtype: mx.Dtype,
        *,
        unpack: bool = False,
    ) -> None:
        self._tensors = tensors
        self._unpack = unpack
        self._quantised = quantised
        self.dtype = dtype

    def take(self, name: str) -> mx.array:
        """Hand out a floating tensor; a second time, or an unknown name, is a KeyError."""
        return self._tensors.pop(name).astype(self.dtype)

    def linear(self, name: str) -> Dense | Quantised:
        """The layer ``name``, with its ``name.bias`` if there is one."""
        bias = self.take(f"{name}.bias") if f"{name}.bias" in self._tensors else None
        if name not in self._quantised:
            return Dense(self.take(f"{name}.weight"), bias)
        group_size, bits = self._quantised[name]
        layer = Quantised(
            self._tensors.pop(f"{name}.weight"),
            self.take(f"{name}.scales"),
            self.take(f"{name}.biases"),
            bias,
            group_size,
            bits,
        )
        return layer.unpacked() if self._unpack else layer

    def fused(self, *names: str) -> Linear:
        """Several layers on the same input as one, evaluated."""
        layer = fuse([self.linear(name) for name in names])
        mx.eval(layer.arrays)
        return layer


class Hidden(NamedTuple):
    """Hidden states [B, n, dim] between two sublayers, a sum that may still have to be taken.

    Where it is taken together with the norm that follows, it is not an operation of its own.
    """

    x: mx.array
    more: mx.array | None = None

    @property
    def total(self) -> mx.array:
        """The states."""
        return self.x if self.more is None else self.x + self.more


class Projections(Protocol):
    """The three kinds of product in a pre-norm layer; ``x [B, n, in] -> [B, n, out]``."""

    def normed(self, hidden: Hidden, norm: mx.array, linear: Linear) -> tuple[mx.array, mx.array]:
        """``linear`` of the hidden states after RMSNorm, and these states."""
        ...

    def gated(
        self, hidden: Hidden, norm: mx.array, scale: mx.array | None, linear: Linear
    ) -> tuple[mx.array, mx.array]:
        """SwiGLU of the states after RMSNorm, times ``scale [B, 1, in]`` if given, and the states.

        ``linear`` gives the gates in its first half of outputs and what they gate in the second.
        """
        ...

    def added(self, x: mx.array, linear: Linear, residual: mx.array) -> Hidden:
        """``residual`` plus ``linear`` of x."""
        ...

    def last(self, hidden: Hidden, norm: mx.array) -> mx.array:
        """The hidden states after RMSNorm."""
        ...


class PlainProjections:
    """See ``Projections``. Takes every layer on every device."""

    def __init__(self, norm_eps: float) -> None:
        self._eps = norm_eps

    def normed(self, hidden: Hidden, norm: mx.array, linear: Linear) -> tuple[mx.array, mx.array]:
        """See ``Projections.normed``."""
        h, x = self._norm(hidden, norm, None)
        return linear(h), x

    def gated(
        self, hidden: Hidden, norm: mx.array, scale: mx.array | None, linear: Linear
    ) -> tuple[mx.array, mx.array]:
        """See ``Projections.gated``."""
        h, x = self._norm(hidden, norm, scale)
        gate, up = mx.split(linear(h), 2, axis=-1)
        return gate * mx.sigmoid(gate) * up, x

    def added(self, x: mx.array, linear: Linear, residual: mx.array) -> Hidden:
        """See ``Projections.added``."""
        return Hidden(residual, linear(x))

    def last(self, hidden: Hidden, norm: mx.array) -> mx.array:
        """See ``Projections.last``."""
        return self._norm(hidden, norm, None)[0]

    def _norm(
        self, hidden: Hidden, norm: mx.array, scale: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        """The states after RMSNorm, times ``scale`` if given, and the states."""
        x = hidden.total
        h = mx.fast.rms_norm(x, norm, self._eps)
        return (h if scale is None else h * scale), x


class CudaProjections(PlainProjections):
    """One kernel for each product where it fits (few rows, half precision, not quantised).

    Elsewhere a sum and the norm behind it are one kernel, in half precision.
    """

    def normed(self, hidden: Hidden, norm: mx.array, linear: Linear) -> tuple[mx.array, mx.array]:
        """See ``Projections.normed``."""
        if isinstance(linear, Dense) and _takes(hidden.x, linear):
            x = hidden.total
            return self._run(x, linear, linear.weight.shape[0], norm=norm), x
        return super().normed(hidden, norm, linear)

    def gated(
        self, hidden: Hidden, norm: mx.array, scale: mx.array | None, linear: Linear
    ) -> tuple[mx.array, mx.array]:
        """See ``Projections.gated``."""
        if isinstance(linear, Dense) and linear.bias is None and _takes(hidden.x, linear):
            x, outputs = hidden.total, linear.weight.shape[0] // 2
            return self._run(x, linear, outputs, norm=norm, scale=scale, gated=True), x
        return super().gated(hidden, norm, scale, linear)

    def added(self, x: mx.array, linear: Linear, residual: mx.array) -> Hidden:
        """See ``Projections.added``."""
        if isinstance(linear, Dense) and _takes(x, linear):
            return Hidden(self._run(x, linear, linear.weight.shape[0], residual=residual))
        return super().added(x, linear, residual)

    def _norm(
        self, hidden: Hidden, norm: mx.array, scale: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        x, more = hidden
        if more is None or x.dtype not in _HALF or x.shape[-1] % _VECTOR:
            return super()._norm(hidden, norm, scale)
        batch, n, dim = x.shape
        normed, total = self._sum_norm(
            inputs=[x, more, norm, x if scale is None else scale],
            template=[("T", x.dtype), ("DIM", dim), ("SCALE", scale is not None)],
            grid=(batch * n * _NORM_THREADS, 1, 1),
            threadgroup=(_NORM_THREADS, 1, 1),
            output_shapes=[x.shape, x.shape],
            output_dtypes=[x.dtype, x.dtype],
        )
        return normed, total

    @cached_property
    def _sum_norm(self) -> Any:
        body = f"""
          projection::sum_norm<T, DIM, {_NORM_THREADS}, SCALE>(
              x, more, norm, scale, normed, total, x_shape[1], {self._eps!r}f);
        """
        inputs, outputs = ["x", "more", "norm", "scale"], ["normed", "total"]
        return kernel("projection", body, inputs=inputs, outputs=outputs)

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
        return kernel("projection", body, inputs=inputs, outputs=["y"])


def _takes(x: mx.array, linear: Dense) -> bool:
    outputs, inputs = linear.weight.shape
    return (
        x.shape[0] * x.shape[1] <= _MOST_ROWS
        and x.dtype == linear.weight.dtype
        and x.dtype in _HALF
        and inputs % _SPAN == 0
        and outputs % (2 * _TILE) == 0
    )


def best_projections(norm_eps: float) -> Projections:
    """The fastest implementation on the default device."""
    return CudaProjections(norm_eps) if on_cuda() else PlainProjections(norm_eps)
