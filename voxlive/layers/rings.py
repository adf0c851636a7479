"""Sliding key/value rings of many streams, in blocks of one pool per layer.

A slot's ring grows block by block with its age up to the window and gives its blocks back when it
leaves. Nothing a row does touches another row. Pools grow and shrink with what is held, between
what was reserved and a bound. A pool of another size is an array of another shape, and compiled
steps are compiled again for it: where that costs a pause, all that may be held is reserved.

A pool is written in place only while nobody reads it: MLX copies the whole array otherwise. So what
was sent off must be complete before the next write is.

The host decides where everything lies and keeps count. The device has a copy of that, which steps
read and move on by themselves; only slots that changed otherwise are copied over again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Positions in a block."""
_FIRST_BLOCKS = 16
"""The smallest pool."""


def ring_positions(window: int, chunk: int, block: int = BLOCK) -> int:
    """Positions of a ring in which a step of ``chunk`` new ones still sees ``window``."""
    return -(-(window + chunk - 1) // block) * block


class RingsFull(MemoryError):
    """A row needs a block and the pools' bound is reached."""


class View(NamedTuple):
    """Which rows a step is for and where their rings lie, int32."""

    slots: mx.array
    """[B]; fillers are the slot past the end."""
    table: mx.array
    """[slots + 1, 1 + blocks per ring]: every slot's next position, then its blocks."""
    width: int
    """Blocks of a ring that need looking at."""

    def read(self) -> tuple[mx.array, mx.array]:
        """Each row's first new position [B] and its blocks [B, width]."""
        rows = self.table[self.slots, : 1 + self.width]
        return rows[:, 0], rows[:, 1:]

    def moved(self, n: int) -> mx.array:
        """The table after n new positions in every row that is no filler."""
        new = mx.where(self.slots == self.table.shape[0] - 1, 0, n)
        return self.table.at[self.slots, 0].add(new)


class Rings:
    """Per-slot rings for all layers of a stack, at most ``slots`` of them.

    ``chunk`` is the largest number of new positions per step. Positions are counted on the host
    and bounded: at four times the ring a row's cached keys are rotated back and its position
    moved down by whole rings, so that rotary angles stay small however long a stream lasts.
    """

    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        rope_theta: float,
        window: int,
        chunk: int,
        slots: int,
        block: int,
        dtype: mx.Dtype,
    ) -> None:
        self.chunk = chunk
        self.block = block
        self.ring = ring_positions(window, chunk, block)
        self.per_ring = self.ring // block
        self.limit = 4 * self.ring
        self.slots = slots
        self._rope_theta = rope_theta
        self._head_dim = head_dim
        self._most = slots * self.per_ring + 1
        self._least = min(_FIRST_BLOCKS, self._most)
        self._entry = 2, kv_heads, head_dim
        self._dtype = dtype
        self._layers = layers
        self.clear()

    def bound(self, blocks: int, *, reserve: bool | int = False) -> None:
        """Let all rows together hold ``blocks`` blocks, more than they hold now, and no more.

        ``reserve`` says how many of them the pools have from now on, True for all.
        """
        self._most = min(blocks + 1, self.slots * self.per_ring + 1)
        reserved = blocks if reserve is True else int(reserve)
        self._least = min(max(reserved + 1, _FIRST_BLOCKS), self._most)
        if self._least > self._size:
            self._resize(self._least)

    def clear(self) -> None:
        """Start all slots over on new pools, whatever has become of the old ones."""
        self.pools = []  # given up before new ones are asked for: there may be no room for both
        self._size = self._least
        self.pools = self._new_pools()
        self._position = np.zeros(self.slots, np.int64)
        self._held = np.zeros(self.slots, np.int64)
        self._table = np.zeros((self.slots, self.per_ring), np.int32)
        self._on_device = mx.zeros((self.slots + 1, 1 + self.per_ring), mx.int32)
        self._changed: set[int] = set()  # slots of which the device has an old copy
        # Block 0 belongs to nobody: rows that only fill up a batch write there.
        self._used = np.zeros(self.slots * self.per_ring + 1, bool)
        self._used[0] = True
        self._taken = 1

    @property
    def nbytes(self) -> int:
        """Bytes of all pools now."""
        return sum(pool.nbytes for pool in self.pools)

    @property
    def block_nbytes(self) -> int:
        """Bytes of one block in all layers."""
        return self._layers * self.block * math.prod(self._entry) * self._dtype.size

    @property
    def full_nbytes(self) -> int:
        """Bytes of one whole ring in all layers: what a stream holds once it is old enough."""
        return self.per_ring * self.block_nbytes

    def blocks(self, positions: int) -> int:
        """Blocks that a row of so many positions holds."""
        return min(-(-positions // self.block), self.per_ring)

    def missing_nbytes(self, others: int) -> int | None:
        """Bytes by which the pools must grow for one row more to take a whole ring.

        None past the bound, which ``others`` rows never reach if all of them may grow old. May be
        asked on any thread.
        """
        after = self._taken + self.per_ring
        if after > self._most and (others + 1) * self.per_ring >= self._most:
            return None
        return max(0, min(after, self._most) - self._size) * self.block_nbytes

    def short(self, rows: Sequence[int], n: Sequence[int]) -> list[bool]:
        """Which of ``rows``, served in order, would find no block for its ``n`` new positions."""
        at = np.asarray(rows, np.int64)
        after = self._position[at] + np.asarray(n, np.int64)
        need = np.minimum(-(-after // self.block), self.per_ring) - self._held[at]
        missing: list[bool] = ((need > 0) & (np.cumsum(need) > self._most - self._taken)).tolist()
        return missing

    def slot_nbytes(self, slot: int) -> int:
        """Bytes that ``slot`` holds now."""
        return int(self._held[slot]) * self.block_nbytes

    def position(self, slot: int) -> int:
        """The next position of ``slot``: never above ``limit``."""
        return int(self._position[slot])

    def leave(self, slot: int, *, scrub: bool = False) -> None:
        """Give the slot's blocks back and start it over at position 0.

        ``scrub`` zeroes them first: for a row whose numbers went wrong, since a masked NaN is
        still a NaN to whoever gets the block next.
        """
        blocks = self._table[slot, : self._held[slot]]
        if scrub and len(blocks):
            self._zero(blocks)
        self._used[blocks] = False
        self._taken -= len(blocks)
        self._table[slot] = 0
        self._held[slot] = 0
        self._position[slot] = 0
        self._changed.add(slot)
        top = int(np.flatnonzero(self._used)[-1]) + 1
        if 4 * top <= self._size > self._least:
            self._resize(max(2 * top, self._least))

    def view(self, rows: Sequence[int], slots: mx.array, n: int) -> View:
        """Make room for ``n`` new positions in each of ``rows`` and say where everything is.

        ``slots`` are the rows on the device and fillers behind them. The view is as wide as the
        longest row needs, rounded up to a power of two.
        """
        if not 1 <= n <= self.chunk:
            raise ValueError(f"a step takes 1 to {self.chunk} positions, not {n}")
        self._make_room(np.asarray(rows, np.int64), n)
        self._update_device()
        longest = int(self._held[rows].max())
        width = min(1 << (longest - 1).bit_length(), self.per_ring)
        return View(slots, self._on_device, width)

    def advance(self, rows: Sequence[int], n: int, table: mx.array) -> None:
        """Count ``n`` positions that a step has written in each of ``rows``.

        ``table`` is the step's ``View.moved(n)``.
        """
        self._position[rows] += n
        self._on_device = table

    def fill(self, rows: Sequence[int]) -> None:
        """As if each of ``rows`` had taken in a whole ring by now: to measure steps with."""
        self._make_room(np.asarray(rows, np.int64), self.ring)
        self._position[rows] += self.ring
        self._changed.update(rows)

    def reanchor(self, slot: int, shift: int) -> None:
        """Move the slot's positions down by ``shift``, a multiple of ``ring``.

        Exact, because scores depend on differences of positions alone: the cached keys are
        rotated by R(-shift), angles from float64, and the ring slots stay where they are.
        """
        if shift % self.ring or shift > self._position[slot]:
            raise ValueError(f"cannot move position {self._position[slot]} down by {shift}")
        pairs = np.arange(0, self._head_dim, 2, dtype=np.float64)
        angle = -shift * self._rope_theta ** (-pairs / self._head_dim)
        self._turn_keys(self._table[slot, : self._held[slot]], angle)
        self._position[slot] -= shift
        self._changed.add(slot)

    def _new_pools(self) -> list[mx.array]:
        """A zeroed pool for each layer."""
        shape = self._size * self.block, *self._entry
        return [mx.zeros(shape, self._dtype) for _ in range(self._layers)]

    def _zero(self, blocks: NDArray[np.int32]) -> None:
        where = mx.array(self._pool_slots(blocks))
        self._settle()
        for pool in self.pools:
            pool[where] = 0.0

    def _turn_keys(self, blocks: NDArray[np.int32], angle: NDArray[np.float64]) -> None:
        """Rotate the keys in ``blocks`` of every layer by ``angle [head_dim / 2]``."""
        cos, sin = mx.array(np.cos(angle), mx.float32), mx.array(np.sin(angle), mx.float32)
        where = mx.array(self._pool_slots(blocks))
        moved = [_turn(pool[where, 0], cos, sin) for pool in self.pools]
        mx.eval(moved)
        self._settle()
        for pool, keys in zip(self.pools, moved, strict=True):
            pool[where, 0] = keys

    def _pool_slots(self, blocks: NDArray[np.int32]) -> NDArray[np.int32]:
        within = np.arange(self.block, dtype=np.int32)
        return (blocks[:, None] * self.block + within).reshape(-1)

    def _make_room(self, slots: NDArray[np.int64], n: int) -> None:
        for slot in slots[self._position[slots] + n > self.limit]:
            self.reanchor(slot, int(self._position[slot] // self.ring - 1) * self.ring)
        need = np.minimum(-(-(self._position[slots] + n) // self.block), self.per_ring)
        short = need > self._held[slots]
        for slot, blocks in zip(slots[short], need[short], strict=True):
            for index in range(int(self._held[slot]), int(blocks)):
                self._table[slot, index] = self._take_block()
            self._held[slot] = blocks
            self._changed.add(int(slot))

    def _update_device(self) -> None:
        if self._changed:
            slots = np.array(sorted(self._changed), np.int32)
            rows = np.column_stack([self._position[slots], self._table[slots]])
            self._on_device[mx.array(slots)] = mx.array(rows.astype(np.int32))
            self._changed.clear()

    def _settle(self) -> None:
        """Wait until nobody reads the pools, so that they can be written in place."""
        mx.eval(self.pools)
        mx.synchronize()

    def _take_block(self) -> int:
        """The lowest free block, so that the pool's end falls free and can be given back."""
        if self._taken >= self._most:
            raise RingsFull(f"all {self._most - 1} blocks of {self.block} positions are held")
        free = int(np.argmin(self._used))
        if free >= self._size:
            self._resize(min(2 * self._size, self._most))
        self._used[free] = True
        self._taken += 1
        return free

    def _resize(self, blocks: int) -> None:
        """Pools of ``blocks`` blocks, one layer after another so that only one stands twice."""
        rows = blocks * self.block
        for index, pool in enumerate(self.pools):
            if rows > pool.shape[0]:
                more = mx.zeros((rows - pool.shape[0], *pool.shape[1:]), pool.dtype)
                resized = mx.concatenate([pool, more])
            else:
                resized = mx.contiguous(pool[:rows])
            mx.eval(resized)
            mx.synchronize()  # on a GPU memory is free only once its last reader is through
            self.pools[index] = resized
            del pool
        self._size = blocks
        mx.clear_cache()


def _turn(keys: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Interleaved pairs of ``keys [..., head_dim]`` rotated in float32 by given angles."""
    x = keys.astype(mx.float32)
    even, odd = x[..., ::2], x[..., 1::2]
    turned = mx.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(keys.dtype)
