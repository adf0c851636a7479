from collections import deque
from random import Random

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxlive.encoders.queue import EmbeddingQueue


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32))
def test_first_in_first_out_for_every_row(seed):
    random = Random(seed)
    queue = EmbeddingQueue(slots=3, capacity=5, dim=2, dtype=mx.float32)
    model, count = [deque() for _ in range(3)], 0
    for _ in range(40):
        rows = random.sample(range(3), random.randint(1, 3))
        n = random.randint(1, 3)
        if random.random() < 0.5:
            values = [[count + 10 * r + i for i in range(n)] for r in range(len(rows))]
            count += 100
            if any(len(model[slot]) + n > 5 for slot in rows):
                with pytest.raises(OverflowError):
                    queue.push(rows, mx.array(values)[..., None] * mx.ones(2))
                continue
            queue.push(rows, mx.array(values)[..., None] * mx.ones(2))
            for slot, row in zip(rows, values, strict=True):
                model[slot].extend(row)
        elif any(len(model[slot]) < n for slot in rows):
            with pytest.raises(IndexError):
                queue.take(rows, n)
        else:
            want = [[model[slot].popleft() for _ in range(n)] for slot in rows]
            assert np.array_equal(np.array(queue.take(rows, n))[..., 0], want)
        assert [queue.waiting(slot) for slot in range(3)] == [len(m) for m in model]
        assert [queue.room(slot) for slot in range(3)] == [5 - len(m) for m in model]


def test_clear_drops_one_row_alone():
    queue = EmbeddingQueue(slots=2, capacity=4, dim=1, dtype=mx.float32)
    queue.push([0, 1], mx.ones((2, 3, 1)))
    queue.clear(0)
    assert (queue.waiting(0), queue.waiting(1)) == (0, 3)
