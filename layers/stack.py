"""The pre-norm transformer stack that the audio encoder and the text decoder share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .attention import Attention
from .linear import Linear, Weights


def gelu(x: mx.array) -> mx.array:
    """The exact GELU (erf), worked out in float32 and returned in x's dtype."""
    y = x.astype(mx.float32)
    return (y * (0.5 + 0.5 * mx.erf(y * 2**-0.5))).astype(x.dtype)


@dataclass(frozen=True, slots=True)
class _Layer:
    attn_norm: mx.array
    qkv: Linear
    o: Linear
    ffn_norm: mx.array
    gate_up: Linear
    down: Linear


class Stack:
    """``layers`` layers of RMSNorm, attention, RMSNorm, SwiGLU, and a final RMSNorm."""

    def __init__(self, weights: Weights, name: str, layers: int, norm_eps: float) -> None:
        self._layers = [_take_layer(weights, f"{name}.layers.{i}") for i in range(layers)]
        self._norm = weights.take(f"{name}.norm.weight")
        mx.eval(self._norm)
        self._eps = norm_eps

    def __call__(
        self,
        x: mx.array,
        pools: list[mx.array],
        attention: Attention,
        plan: Any,
        ffn_scale: mx.array | None = None,
    ) -> tuple[mx.array, list[mx.array]]:
        """``x [B, n, dim]`` -> normed hidden states [B, n, dim] and the layers' new pools.

        ``ffn_scale [B, layers, dim]`` multiplies the feed-forward's normed input.
        """
        after = []
        for index, (layer, pool) in enumerate(zip(self._layers, pools, strict=True)):
            qkv = layer.qkv(mx.fast.rms_norm(x, layer.attn_norm, self._eps))
            context, pool = attention(qkv, pool, plan)
            after.append(pool)
            x = x + layer.o(context)
            h = mx.fast.rms_norm(x, layer.ffn_norm, self._eps)
            if ffn_scale is not None:
                h = h * ffn_scale[:, index, None]
            gate, up = mx.split(layer.gate_up(h), 2, axis=-1)
            x = x + layer.down(gate * mx.sigmoid(gate) * up)
        return mx.fast.rms_norm(x, self._norm, self._eps), after


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
