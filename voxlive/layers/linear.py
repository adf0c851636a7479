"""Linear layers, plain and quantised, and the weights they are taken from."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx


def on_cuda() -> bool:
    """Whether the default device is an NVIDIA GPU."""
    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    return bool(on_gpu and mx.cuda.is_available())


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
