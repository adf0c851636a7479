"""Audio embeddings that wait on the device for the decoder, in one table for all streams."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray


class EmbeddingQueue:
    """First in, first out, at most ``capacity`` embeddings for each of ``slots`` streams.

    The encoder takes several tokens a step where the decoder takes one, and a prompt takes many:
    this is what stands between them. All methods belong on one thread.
    """

    def __init__(self, *, slots: int, capacity: int, dim: int, dtype: mx.Dtype) -> None:
        self.capacity = capacity
        self._table = mx.zeros((slots, capacity, dim), dtype)
        self._first = np.zeros(slots, np.int64)
        self._count = np.zeros(slots, np.int64)

    def waiting(self, slot: int) -> int:
        """How many embeddings of ``slot`` wait."""
        return int(self._count[slot])

    def room(self, slot: int) -> int:
        """How many more ``slot`` can hold."""
        return self.capacity - int(self._count[slot])

    def clear(self, slot: int) -> None:
        """Drop what waits for ``slot``."""
        self._first[slot] = self._count[slot] = 0

    def push(self, rows: Sequence[int], embeddings: mx.array) -> None:
        """Append ``embeddings [B, n, dim]``; OverflowError when a row has no room for n."""
        n = embeddings.shape[1]
        if any(self.room(slot) < n for slot in rows):
            raise OverflowError(f"an embedding queue of {self.capacity} has no room for {n} more")
        end = self._first[rows] + self._count[rows]
        slots, columns = self._cells(rows, end, n)
        self._table[slots, columns] = embeddings
        self._count[rows] += n

    def take(self, rows: Sequence[int], n: int) -> mx.array:
        """Remove the first n of each row: [B, n, dim]; IndexError when a row has fewer."""
        if any(self._count[slot] < n for slot in rows):
            raise IndexError(f"not every row has {n} embeddings waiting")
        slots, columns = self._cells(rows, self._first[rows], n)
        self._first[rows] = (self._first[rows] + n) % self.capacity
        self._count[rows] -= n
        return self._table[slots, columns]

    def _cells(
        self, rows: Sequence[int], first: NDArray[np.int64], n: int
    ) -> tuple[mx.array, mx.array]:
        columns = (first[:, None] + np.arange(n)) % self.capacity
        slots = np.asarray(rows, np.int32)[:, None]
        return mx.array(slots), mx.array(columns.astype(np.int32))
