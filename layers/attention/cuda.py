"""Attention over paged rings as one CUDA kernel, which reads what is live and nothing else.

The kernel writes the new keys and values into the pool it is given, so a pool is never copied,
whoever else holds on to it. MLX does not know of that write. Nothing in the same step may read the
pool in another way, and a step must have been sent off before the next is built; in between, work
on one MLX stream runs in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import numpy as np

from ..cuda import kernel
from .contract import AttentionShape

_BODY = """
  paged::step<T, D, GROUP, KV, WINDOW, RING, BLOCK, WARPS>(
      qkv, const_cast<T*>(pool), angles, start, blocks, const_cast<int*>(tickets),
      context, parts, qkv_shape[1]);
"""
_TILE = 16
"""Queries, and keys, that a warp takes at a time."""
_WARPS = 4
_ENOUGH_WARPS = 1024
"""Warps from which the device has enough to do, so that no ring is split further."""
_LEAST_TILES = 2
"""Tiles of keys that a warp must have for a further split to pay."""


@dataclass(frozen=True, slots=True)
class _Plan:
    angles: mx.array
    start: mx.array
    blocks: mx.array
    tickets: mx.array


class CudaAttention:
    """See the module. For half precision and head sizes that are multiples of 64."""

    all_blocks = True

    def __init__(self, shape: AttentionShape) -> None:
        """ValueError for a shape that the kernel does not take."""
        if shape.head_dim % 64 or shape.block % _TILE:
            raise ValueError(
                f"the CUDA kernel takes heads of a multiple of 64 and blocks of a multiple of "
                f"{_TILE}, not {shape.head_dim} and {shape.block}"
            )
        self.shape = shape
        self._group = shape.heads // shape.kv_heads
        pairs = np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim
        self._turn = mx.array(shape.rope_theta**-pairs, mx.float32)

    @staticmethod
    def takes(shape: AttentionShape, dtype: mx.Dtype) -> bool:
        """Whether a model of this shape and dtype can run on the kernel."""
        half = dtype in (mx.bfloat16, mx.float16)
        return half and not (shape.head_dim % 64 or shape.block % _TILE)

    def plan(self, start: mx.array, blocks: mx.array, n: int) -> _Plan:
        """See ``Attention.plan``."""
        batch = blocks.shape[0]
        position = (start[:, None] + mx.arange(n)).astype(mx.float32)
        angle = position[:, :, None] * self._turn
        angles = mx.stack([mx.cos(angle), mx.sin(angle)], axis=-1)
        # One counter per unit of work, back at zero after every layer.
        tickets = mx.zeros((batch * self._tiles(n) * self.shape.kv_heads,), mx.int32)
        return _Plan(angles, mx.contiguous(start), mx.contiguous(blocks), tickets)

    def __call__(self, qkv: mx.array, pool: mx.array, plan: _Plan) -> tuple[mx.array, mx.array]:
        """See ``Attention.__call__``; TypeError for other than half precision."""
        s = self.shape
        if qkv.dtype not in (mx.bfloat16, mx.float16):
            raise TypeError(f"the CUDA kernel takes bfloat16 and float16, not {qkv.dtype}")
        batch, n, _ = qkv.shape
        units, splits = batch * self._tiles(n) * s.kv_heads, self._splits(batch, n)
        sums = units * splits * 32 * (s.head_dim // 2 + 4) if splits > 1 else 1
        context, _ = self._kernel(
            inputs=[qkv, pool, plan.angles, plan.start, plan.blocks, plan.tickets],
            template=[
                ("T", qkv.dtype),
                ("D", s.head_dim),
                ("GROUP", self._group),
                ("KV", s.kv_heads),
                ("WINDOW", s.window),
                ("RING", s.ring),
                ("BLOCK", s.block),
                ("WARPS", _WARPS),
            ],
            grid=(s.kv_heads * 32 * _WARPS, splits, batch * self._tiles(n)),
            threadgroup=(32 * _WARPS, 1, 1),
            output_shapes=[(batch, n, s.heads * s.head_dim), (sums,)],
            output_dtypes=[qkv.dtype, mx.float32],
        )
        return context, pool

    @cached_property
    def _kernel(self) -> Any:
        inputs = ["qkv", "pool", "angles", "start", "blocks", "tickets"]
        return kernel("attention", __file__, _BODY, inputs=inputs, outputs=["context", "parts"])

    def _tiles(self, n: int) -> int:
        return -(-n * self._group // _TILE)

    def _splits(self, batch: int, n: int) -> int:
        """Blocks that share a ring, a power of two, when there are too few rows for the device."""
        units = batch * self._tiles(n) * self.shape.kv_heads
        splits = 1
        while (
            units * splits * _WARPS < _ENOUGH_WARPS
            and 2 * splits * _WARPS * _LEAST_TILES * _TILE <= self.shape.window + _TILE
        ):
            splits *= 2
        return splits
