"""The pre-norm transformer stack that the audio encoder and the text decoder share.

Its steps are built for few batch sizes (``SIZES``), so that few graphs are compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx

from voxlive.layers.attention import ATTENTIONS, AttentionShape, default_attention
from voxlive.layers.linear import Hidden, Linear, Weights, best_projections
from voxlive.layers.rings import Rings, View

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
        attention: str | None,
    ) -> None:
        """``chunk`` is the most positions per row and step; ``attention`` None takes the best."""
        self._layers = [_take_layer(weights, f"{name}.layers.{i}") for i in range(shape.layers)]
        self._norm = weights.take(f"{name}.norm.weight")
        mx.eval(self._norm)
        self._projections = best_projections(shape.norm_eps)
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
        name = attention or default_attention(attended, weights.dtype)
        self._attention = ATTENTIONS[name](attended)

    def view(self, rows: Sequence[int], slots: mx.array, n: int) -> View:
        """See ``Rings.view``."""
        return self.rings.view(rows, slots, n, all_blocks=self._attention.all_blocks)

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
        plan = self._attention.plan(*view.read(), x.shape[1])
        project, hidden, after = self._projections, Hidden(x), []
        for scale, layer, pool in zip(self._scales(ffn_scale), self._layers, pools, strict=True):
            qkv, x = project.normed(hidden, layer.attn_norm, layer.qkv)
            context, written = self._attention(qkv, pool, plan)
            after.append(written)
            hidden = project.added(context, layer.o, x)
            h, x = project.gated(hidden, layer.ffn_norm, scale, layer.gate_up)
            hidden = project.added(h, layer.down, x)
        return project.last(hidden, self._norm), after

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
