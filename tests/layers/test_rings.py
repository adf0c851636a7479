from random import Random

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from voxlive.layers.rings import Rings
from voxlive.layers.transformer import padded, padded_size


def rings(slots=8, window=20, chunk=5, block=4, layers=2):
    return Rings(
        layers=layers,
        kv_heads=1,
        head_dim=4,
        rope_theta=100.0,
        window=window,
        chunk=chunk,
        slots=slots,
        block=block,
        dtype=mx.float32,
    )


def write(held, slot, values):
    """Put ``values`` where a step would put the next positions of ``slot``."""
    view = held.view([slot], mx.array([slot]), len(values))
    start, blocks = (np.array(part) for part in view.read())
    ring_slots = (start + np.arange(len(values))) % held.ring
    where = mx.array(blocks[0, ring_slots // held.block] * held.block + ring_slots % held.block)
    for pool in held.pools:
        pool[where] = mx.array(list(values))[:, None, None, None] * mx.ones((2, 1, 4))
    held.advance([slot], len(values), view.moved(len(values)))


def content(held, slot):
    """The values of a slot's ring in ring order, as far as it has blocks."""
    blocks = held._table[slot, : held._held[slot]]
    pool = np.array(held.pools[1]).reshape(-1, held.block, 2, 1, 4)
    return pool[blocks][:, :, 1, 0, 0].reshape(-1)


@examples(30)
@given(st.integers(0, 1 << 32))
def test_every_ring_keeps_its_last_positions_whatever_the_others_do(seed):
    """Random writes, leaves and resizes: no ring ever loses or gains what it did not write."""
    random, held = Random(seed), rings()
    model = {slot: [] for slot in range(8)}
    value = 1
    for _ in range(120):
        slot = random.randrange(8)
        if random.random() < 0.08:
            held.leave(slot)
            model[slot] = []
            continue
        n = random.randint(1, 5)
        write(held, slot, range(value, value + n))
        model[slot] += range(value, value + n)
        value += n
    for slot, values in model.items():
        ring = content(held, slot)
        # Positions may have moved down by whole rings; ring slots never move.
        for position in range(max(0, len(values) - held.ring), len(values)):
            assert ring[position % held.ring] == values[position]
    held_blocks = [b for slot in range(8) for b in held._table[slot, : held._held[slot]]]
    assert len(set(held_blocks)) == len(held_blocks)
    assert 0 not in held_blocks


def test_a_ring_has_room_for_window_and_chunk_in_whole_blocks():
    assert rings(window=20, chunk=5).ring == 24
    assert rings(window=20, chunk=6).ring == 28
    assert rings(window=20, chunk=1).ring == 20


def test_steps_and_leaves_do_not_copy_the_pools():
    """The next pool takes over the memory of the last: what others hold is not touched."""
    held = rings(slots=32, window=2000, layers=2, block=50, chunk=1000)
    for slot in range(32):
        for _ in range(2):
            write(held, slot, range(1000))
    mx.eval(held.pools)
    pool = held.pools[0].nbytes
    assert pool > 1 << 20
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for slot in range(0, 32, 7):
        write(held, slot, range(5))
        mx.eval(held.pools)
    held.leave(9)
    held.leave(10, scrub=True)
    held.reanchor(7, 0)
    mx.eval(held.pools)
    assert mx.get_peak_memory() - before < pool / 4


def test_growing_keeps_only_one_layer_twice():
    held = rings(slots=64, window=4000, layers=16, block=200)
    for slot in range(15):
        write(held, slot, range(5))
    mx.eval(held.pools)
    layer = held.pools[0].nbytes
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    write(held, 20, range(5))
    mx.eval(held.pools)
    grown = mx.get_active_memory() - before
    assert grown >= 15 * layer
    assert mx.get_peak_memory() - before < grown + 3 * layer


def test_clear_starts_over_whatever_has_become_of_the_pools():
    held = rings()
    write(held, 3, range(1, 6))
    small = held.nbytes
    for slot in range(8):
        for _ in range(6):
            write(held, slot, range(5))
    held.pools = []
    held.clear()
    assert held.nbytes == small
    assert [held.position(slot) for slot in range(8)] == [0] * 8
    write(held, 3, range(1, 6))
    assert content(held, 3).tolist() == [1, 2, 3, 4, 5, 0, 0, 0]


def test_a_step_longer_than_the_chunk_is_refused():
    with pytest.raises(ValueError, match="1 to 5 positions"):
        rings().view([0], mx.array([0]), 6)


def test_positions_move_by_whole_rings_alone():
    held = rings()
    write(held, 0, range(5))
    with pytest.raises(ValueError, match="cannot move"):
        held.reanchor(0, 4)
    with pytest.raises(ValueError, match="cannot move"):
        held.reanchor(0, held.ring)


def test_tables_are_as_wide_as_the_oldest_row_needs():
    held = rings(window=100, chunk=5, block=4)
    for _ in range(5):
        write(held, 3, range(5))
    for rows, shape in (([1], (1, 1)), ([1, 3], (2, 8))):
        start, blocks = held.view(rows, mx.array(rows), 1).read()
        assert blocks.shape == shape
        assert start.tolist() == [held.position(slot) for slot in rows]


@examples(30)
@given(st.integers(0, 1 << 32))
def test_the_device_knows_what_the_host_knows(seed):
    """After any steps of any rows, with fillers, and whatever else moves a row."""
    random, held = Random(seed), rings()
    for _ in range(60):
        slot = random.randrange(8)
        match random.random():
            case draw if draw < 0.1:
                held.leave(slot)
            case draw if draw < 0.15 and held.position(slot) >= held.ring:
                held.reanchor(slot, held.ring)
            case draw if draw < 0.17:
                held.clear()
            case _:
                rows, n = random.sample(range(8), random.randint(1, 4)), random.randint(1, 5)
                fill = [held.slots] * random.randint(0, 3)
                view = held.view(rows, mx.array(rows + fill), n)
                start, blocks = (part.tolist() for part in view.read())
                assert start == [held.position(row) for row in rows] + [0] * len(fill)
                assert blocks == [
                    *held._table[rows, : view.width].tolist(), *[[0] * view.width] * len(fill)
                ]  # fmt: skip
                held.advance(rows, n, view.moved(n))


def test_batches_are_filled_up_to_few_sizes():
    sizes = {padded_size(rows) for rows in range(1, 257)}
    assert len(sizes) == 14
    assert all(rows <= padded_size(rows) < 2 * rows + 1 for rows in range(1, 257))
    assert padded([4, 2, 7], 9, fixed=True).tolist() == [4, 2, 7, 9]
    assert padded([4, 2, 7], 9, fixed=False).tolist() == [4, 2, 7]
