"""Audio embeddings that wait on the device for the decoder, in one table for all streams."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..layers.batch import on_device


class EmbeddingQueue:
    """First in, first out, at most ``capacity`` embeddings for each of ``slots`` streams.

    The encoder takes several tokens a step where the decoder takes one, and a prompt takes many:
    this is what stands between them. All methods belong on one thread.
    """

    def __init__(self, *, slots: int, capacity: int, dim: int, dtype: mx.Dtype) -> None:
        self.capacity = capacity
        self._table = mx.zeros((slots, capacity, dim), dtype)
        self._count = np.zeros(slots, np.int64)
        # How many each stream has pushed and taken: the device finds the cells by itself.
        self._pushed = mx.zeros((slots,), mx.int32)
        self._taken = mx.zeros((slots,), mx.int32)

    def waiting(self, slot: int) -> int:
        """How many embeddings of ``slot`` wait."""
        return int(self._count[slot])

    def room(self, slot: int) -> int:
        """How many more ``slot`` can hold."""
        return self.capacity - int(self._count[slot])

    def clear(self, slot: int) -> None:
        """Drop what waits for ``slot``."""
        self._count[slot] = 0
        self._taken[slot : slot + 1] = self._pushed[slot : slot + 1]

    def push(self, rows: Sequence[int], embeddings: mx.array) -> None:
        """Append ``embeddings [B, n, dim]``; OverflowError when a row has no room for n."""
        n = embeddings.shape[1]
        if any(self.room(slot) < n for slot in rows):
            raise OverflowError(f"an embedding queue of {self.capacity} has no room for {n} more")
        slots = on_device(tuple(rows))
        self._table[slots[:, None], self._columns(self._pushed[slots], n)] = embeddings
        self._pushed = self._pushed.at[slots].add(n)
        self._count[rows] += n

    def take(self, rows: Sequence[int], n: int) -> mx.array:
        """Remove the first n of each row: [B, n, dim]; IndexError when a row has fewer."""
        if any(self._count[slot] < n for slot in rows):
            raise IndexError(f"not every row has {n} embeddings waiting")
        slots = on_device(tuple(rows))
        cells = slots[:, None], self._columns(self._taken[slots], n)
        self._taken = self._taken.at[slots].add(n)
        self._count[rows] -= n
        return self._table[cells]

    def _columns(self, first: mx.array, n: int) -> mx.array:
        return (first[:, None] + mx.arange(n)) % self.capacity
