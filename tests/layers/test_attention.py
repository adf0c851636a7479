import mlx.core as mx
import numpy as np
import pytest

from voxlive.layers.attention import ATTENTIONS, AttentionShape
from voxlive.layers.rings import Rings

HEADS, KV_HEADS, DIM, WINDOW, CHUNK, BLOCK = 6, 2, 8, 20, 12, 4
THETA = 10_000.0


def rings(slots=3, window=WINDOW, chunk=CHUNK):
    return Rings(
        layers=1,
        kv_heads=KV_HEADS,
        head_dim=DIM,
        rope_theta=THETA,
        window=window,
        chunk=chunk,
        slots=slots,
        block=BLOCK,
        dtype=mx.float32,
    )


def attention(name, held, window=WINDOW):
    return ATTENTIONS[name](
        AttentionShape(HEADS, KV_HEADS, DIM, window, held.ring, held.block, THETA)
    )


def rotated(x, positions):
    """x [n, heads, dim] with pairs turned by position * theta^(-2i/dim), in float64."""
    angle = positions[:, None, None] * THETA ** (-np.arange(0, DIM, 2) / DIM)
    even, odd = x[..., ::2], x[..., 1::2]
    turned = (
        even * np.cos(angle) - odd * np.sin(angle),
        even * np.sin(angle) + odd * np.cos(angle),
    )
    return np.stack(turned, axis=-1).reshape(x.shape)


def reference(qkv, window=WINDOW):
    """Context [n, heads * dim] of one whole stream, position by position."""
    x = qkv.astype(np.float64).reshape(len(qkv), HEADS + 2 * KV_HEADS, DIM)
    positions = np.arange(len(qkv))
    q = rotated(x[:, :HEADS], positions)
    k = rotated(x[:, HEADS : HEADS + KV_HEADS], positions)
    v = x[:, HEADS + KV_HEADS :]
    out = np.zeros_like(q)
    for p in positions:
        seen = slice(max(0, p - window + 1), p + 1)
        for head in range(HEADS):
            scores = k[seen, head // 3] @ q[p, head] / np.sqrt(DIM)
            weight = np.exp(scores - scores.max())
            out[p, head] = weight / weight.sum() @ v[seen, head // 3]
    return out.reshape(len(qkv), HEADS * DIM)


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("chunk", [1, 3, 12])
def test_rows_of_different_age_each_see_exactly_their_window(name, chunk):
    streams = np.random.default_rng(0).normal(size=(3, 150, (HEADS + 2 * KV_HEADS) * DIM))
    streams = streams.astype(np.float32)
    held = rings()
    attend, done = attention(name, held), [[], [], []]
    at, turn = [0, 0, 0], 0
    while min(at) < 150:
        rows = [slot for slot in range(3) if at[slot] < 150 and (turn % (slot + 1) == 0)][::-1]
        turn += 1
        if not rows:
            continue
        n = min(chunk, *(150 - at[slot] for slot in rows))
        new = mx.array(np.stack([streams[slot, at[slot] : at[slot] + n] for slot in rows]))
        padding = mx.zeros((1, n, new.shape[-1]))
        view = held.view(rows, n, len(rows) + 1, all_blocks=attend.all_blocks)
        plan = attend.plan(view.start, view.write, view.blocks)
        context, held.pools[0] = attend(mx.concatenate([new, padding]), held.pools[0], plan)
        held.advance(rows, n)
        for slot, part in zip(rows, np.array(context), strict=False):
            done[slot].append(part)
            at[slot] += n
    for slot in range(3):
        error = np.abs(np.concatenate(done[slot]) - reference(streams[slot])).max()
        assert error < 1e-5
