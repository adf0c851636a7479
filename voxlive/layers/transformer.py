"""The transformer that encoder and decoder share: linear layers, their weights, attention, stack.

The stack is pre-norm. Its steps are built for few batch sizes (``SIZES``), so that few graphs are
compiled.

Attention is over a sliding window in paged rings. A row's keys and values live in a ring of
``ring`` positions, position p in ring slot p mod ring. Ring slots are grouped into blocks that lie
anywhere in the layer's pool [slots, 2, kv_heads, head_dim] (keys at 0, rotated; values at 1). Every
query sees exactly the last ``window`` positions up to and including its own. Positions are rotary
(arXiv 2104.09864), in pairs [2i, 2i + 1]. All of it is plain MLX, for every device; on NVIDIA GPUs
models in 16-bit floats run without it (``engines/voxtral/nvidia.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import mlx.core as mx

from voxlive.checkpoints.config import DecoderConfig, EncoderConfig
from voxlive.layers.rings import Rings, View


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


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What an attention is built for.

    ``window`` and ``ring`` are positions, ``ring`` >= ``window`` + new positions per step - 1;
    ``block`` is the ring slots of a block. ``rope_theta`` is the base of the rotary frequencies.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: int
    ring: int
    block: int
    rope_theta: float


@dataclass(frozen=True, slots=True)
class _Gathered:
    start: mx.array
    write: mx.array
    keys: mx.array
    visible: mx.array


class GatherAttention:
    """Rotate, write and attend, for B rows that each bring n new positions.

    Gathers each row's blocks, then attends under a mask.
    """

    def __init__(self, shape: AttentionShape) -> None:
        self.shape = shape

    def plan(self, start: mx.array, blocks: mx.array, n: int) -> _Gathered:
        """What all layers of one step of n new positions a row share.

        ``start [B]`` int32: each row's first new position. ``blocks [B, m]`` int32: the pool blocks
        of each ring in ring order. A block that is not allocated yet is 0, which no row owns.
        """
        s = self.shape
        batch = blocks.shape[0]
        query = start[:, None] + mx.arange(n)
        new = query % s.ring
        write = mx.take_along_axis(blocks, new // s.block, axis=1) * s.block + new % s.block
        within = mx.arange(s.block)
        slots = (blocks[:, :, None] * s.block + within).reshape(batch, 1, -1)
        # Keys as rows of the pool taken as [slots * 2 * kv_heads, head_dim]: gathered head by head,
        # since attention copies what does not lie that way once more.
        keys = slots * (2 * s.kv_heads) + mx.arange(s.kv_heads)[:, None]
        newest = query[:, -1:]
        # The position that a ring slot holds after the write; negative where it holds none yet.
        key = newest - (newest - mx.arange(slots.shape[-1])) % s.ring
        key, query = key[:, None, None, :], query[:, None, :, None]
        visible = (key >= 0) & (key <= query) & (key > query - s.window)
        return _Gathered(start, write.reshape(-1), keys, visible)

    def __call__(self, qkv: mx.array, pool: mx.array, plan: _Gathered) -> tuple[mx.array, mx.array]:
        """``qkv [B, n, (heads + 2 kv_heads) * head_dim]``, not rotated, to context and pool.

        The context is [B, n, heads * head_dim]: softmax(q k / sqrt(head_dim)) v over the window.
        The pool that is returned has the new keys and values in it.
        """
        s = self.shape
        batch, n, _ = qkv.shape
        qkv = qkv.reshape(batch, n, s.heads + 2 * s.kv_heads, s.head_dim).swapaxes(1, 2)
        rotated = self.rotated(qkv[:, : s.heads + s.kv_heads], plan.start)
        new = mx.stack([rotated[:, s.heads :], qkv[:, s.heads + s.kv_heads :]])
        new = new.transpose(1, 3, 0, 2, 4).reshape(batch * n, 2, s.kv_heads, s.head_dim)
        pool[plan.write] = new
        rows = pool.reshape(-1, s.head_dim)
        context = mx.fast.scaled_dot_product_attention(
            rotated[:, : s.heads],
            rows[plan.keys],
            rows[plan.keys + s.kv_heads],
            scale=s.head_dim**-0.5,
            mask=plan.visible,
        )
        return context.swapaxes(1, 2).reshape(batch, n, s.heads * s.head_dim), pool

    def rotated(self, x: mx.array, start: mx.array) -> mx.array:
        """``x [B, heads, n, head_dim]`` turned by its positions, those from ``start [B]`` on."""
        return mx.fast.rope(
            x,
            self.shape.head_dim,
            traditional=True,
            base=self.shape.rope_theta,
            scale=1.0,
            offset=start,
        )


SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def gelu(x: mx.array) -> mx.array:
    """The exact GELU (erf), worked out in float32 and returned in x's dtype."""
    y = x.astype(mx.float32)
    return (y * (0.5 + 0.5 * mx.erf(y * 2**-0.5))).astype(x.dtype)


def compiles(choice: bool | None) -> bool:
    """Whether steps are compiled: None says on GPUs, where fewer kernels pay for the tracing."""
    return mx.default_device() == mx.Device(mx.gpu) if choice is None else choice


def padded_size(rows: int) -> int:
    """The batch size that ``rows`` rows are filled up to: a step of ``SIZES``, then of 128."""
    for size in SIZES:
        if rows <= size:
            return size
    return -(-rows // 128) * 128


def padded(rows: Sequence[int], filler: int, *, fixed: bool) -> mx.array:
    """``rows`` on the device, filled up to one of the ``fixed`` batch sizes with ``filler``."""
    fill = padded_size(len(rows)) - len(rows) if fixed else 0
    return on_device((*rows, *[filler] * fill))


@lru_cache(maxsize=256)
def on_device(rows: tuple[int, ...]) -> mx.array:
    """``rows`` as int32, not to be written to. Copied once: on GPUs each copy costs a pause."""
    return mx.array(rows, mx.int32)


@lru_cache(maxsize=256)
def zeros(size: int) -> mx.array:
    """float32 zeros [size] on the device, not to be written to."""
    return mx.zeros(size)


@dataclass(frozen=True, slots=True)
class StackShape:
    """The sizes that are not in the weights; ``window`` counts positions."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    rope_theta: float
    norm_eps: float

    @classmethod
    def of(cls, part: EncoderConfig | DecoderConfig) -> StackShape:
        """The encoder's, whose heads all have keys and values of their own, or the decoder's."""
        return cls(
            layers=part.layers,
            heads=part.heads,
            kv_heads=part.kv_heads if isinstance(part, DecoderConfig) else part.heads,
            head_dim=part.head_dim,
            window=part.window,
            rope_theta=part.rope_theta,
            norm_eps=part.norm_eps,
        )


@dataclass(frozen=True, slots=True)
class _Layer:
    attn_norm: mx.array
    qkv: Linear
    o: Linear
    ffn_norm: mx.array
    gate_up: Linear
    down: Linear


class Stack:
    """Layers of RMSNorm, attention, RMSNorm and SwiGLU, a final RMSNorm, and the streams' rings."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        shape: StackShape,
        *,
        slots: int,
        chunk: int,
        block: int,
    ) -> None:
        """``chunk`` is the most positions per row and step."""
        self._layers = [_take_layer(weights, f"{name}.layers.{i}") for i in range(shape.layers)]
        self._norm = weights.take(f"{name}.norm.weight")
        mx.eval(self._norm)
        self._eps = shape.norm_eps
        self.rings = Rings(
            layers=shape.layers,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            rope_theta=shape.rope_theta,
            window=shape.window,
            chunk=chunk,
            slots=slots,
            block=block,
            dtype=weights.dtype,
        )
        attended = AttentionShape(
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            window=shape.window,
            ring=self.rings.ring,
            block=block,
            rope_theta=shape.rope_theta,
        )
        self._attention = GatherAttention(attended)

    def view(self, rows: Sequence[int], slots: mx.array, n: int) -> View:
        """See ``Rings.view``."""
        return self.rings.view(rows, slots, n)

    def __call__(
        self,
        x: mx.array,
        view: View,
        pools: list[mx.array],
        ffn_scale: mx.array | None = None,
    ) -> tuple[mx.array, list[mx.array]]:
        """``x [B, n, dim]`` -> normed hidden states [B, n, dim] and the layers' new pools.

        ``ffn_scale [layers, B, dim]`` multiplies the feed-forward's normed input.
        """
        plan, after = self._attention.plan(*view.read(), x.shape[1]), []
        for scale, layer, pool in zip(self._scales(ffn_scale), self._layers, pools, strict=True):
            context, written = self._attention(
                layer.qkv(self._normed(x, layer.attn_norm)), pool, plan
            )
            after.append(written)
            x = x + layer.o(context)
            h = self._normed(x, layer.ffn_norm)
            gate, up = mx.split(layer.gate_up(h if scale is None else h * scale), 2, axis=-1)
            x = x + layer.down(gate * mx.sigmoid(gate) * up)
        return self._normed(x, self._norm), after

    def _normed(self, x: mx.array, norm: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, norm, self._eps)

    def _scales(self, ffn_scale: mx.array | None) -> Sequence[mx.array | None]:
        """Each layer's part, [B, 1, dim]."""
        layers = len(self._layers)
        if ffn_scale is None:
            return [None] * layers
        _, batch, dim = ffn_scale.shape
        return [part.reshape(batch, 1, dim) for part in mx.split(ffn_scale, layers)]


def _take_layer(weights: Weights, name: str) -> _Layer:
    """One layer, evaluated before the next is touched so that only its parts stand twice."""
    layer = _Layer(
        attn_norm=weights.take(f"{name}.attn_norm.weight"),
        qkv=weights.fused(f"{name}.q", f"{name}.k", f"{name}.v"),
        o=weights.linear(f"{name}.o"),
        ffn_norm=weights.take(f"{name}.ffn_norm.weight"),
        gate_up=weights.fused(f"{name}.gate", f"{name}.up"),
        down=weights.linear(f"{name}.down"),
    )
    mx.eval(layer.attn_norm, layer.o.arrays, layer.ffn_norm, layer.down.arrays)
    return layer
