"""Sliding-window attention over paged rings: one interface, one implementation per device.

A row's keys and values live in a ring of ``ring`` positions, position p in ring slot p mod ring.
Ring slots are grouped into blocks that lie anywhere in the layer's pool [slots, 2, kv_heads,
head_dim] (keys at 0, rotated; values at 1). Every query sees exactly the last ``window`` positions
up to and including its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What an attention is built for. ``ring`` >= window + new positions per step - 1."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int
    ring: int
    block: int
    rope_theta: float


class Attention(Protocol):
    """Rotate, write and attend, for B rows that each bring n new positions."""

    all_blocks: bool
    """Whether it wants whole rings' block tables, reading only what is live by itself."""

    def plan(self, start: mx.array, blocks: mx.array, n: int) -> Any:
        """What all layers of one step share.

        ``start [B]``: each row's first new position. ``blocks [B, m]``: pool blocks of each ring
        in ring order; both int32. A block not yet allocated is 0, which no row owns.
        """
        ...

    def __call__(self, qkv: mx.array, pool: mx.array, plan: Any) -> tuple[mx.array, mx.array]:
        """``qkv [B, n, (heads + 2 kv_heads) head_dim]``, not rotated -> context and pool.

        The context is [B, n, heads * head_dim]; the pool has the new keys and values in it.
        """
        ...
