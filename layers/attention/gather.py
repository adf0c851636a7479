"""Attention over paged rings in plain MLX."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from .contract import AttentionShape


@dataclass(frozen=True, slots=True)
class _Gathered:
    start: mx.array
    write: mx.array
    keys: mx.array
    visible: mx.array


class GatherAttention:
    """Plain MLX: gather each row's blocks, then masked attention. Runs on every device."""

    all_blocks = False

    def __init__(self, shape: AttentionShape) -> None:
        self.shape = shape

    def plan(self, start: mx.array, blocks: mx.array, n: int) -> _Gathered:
        """See ``Attention.plan``."""
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
        """See ``Attention.__call__``."""
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
