from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest

from voxlive.layers.rings import Rings
from voxlive.layers.transformer import AttentionShape, GatherAttention

THETA = 10_000.0


@dataclass(frozen=True)
class AttentionCase:
    """A shape, and how long streams are fed in how large steps."""

    heads: int
    kv_heads: int
    dim: int
    window: int
    block: int
    chunk: int
    dtype: mx.Dtype = mx.float32
    length: int = 150

    @property
    def width(self):
        return (self.heads + 2 * self.kv_heads) * self.dim

    def rings(self, slots=3):
        return Rings(
            layers=1,
            kv_heads=self.kv_heads,
            head_dim=self.dim,
            rope_theta=THETA,
            window=self.window,
            chunk=self.chunk,
            slots=slots,
            block=self.block,
            dtype=self.dtype,
        )

    def attention(self, held):
        shape = AttentionShape(
            self.heads, self.kv_heads, self.dim, self.window, held.ring, held.block, THETA
        )
        return GatherAttention(shape)


CASES = [AttentionCase(6, 2, 8, 20, 4, chunk) for chunk in (1, 3, 12)]


def rotated(x, positions):
    """x [n, heads, dim] with pairs turned by position * theta^(-2i/dim), in float64."""
    dim = x.shape[-1]
    angle = positions[:, None, None] * THETA ** (-np.arange(0, dim, 2) / dim)
    even, odd = x[..., ::2], x[..., 1::2]
    turned = (
        even * np.cos(angle) - odd * np.sin(angle),
        even * np.sin(angle) + odd * np.cos(angle),
    )
    return np.stack(turned, axis=-1).reshape(x.shape)


def reference(case, qkv):
    """Context [n, heads * dim] of one whole stream, in float64."""
    heads, kv_heads = case.heads, case.kv_heads
    x = qkv.astype(np.float64).reshape(len(qkv), heads + 2 * kv_heads, case.dim)
    at = np.arange(len(qkv))
    q, k = rotated(x[:, :heads], at), rotated(x[:, heads : heads + kv_heads], at)
    k, v = (np.repeat(part, heads // kv_heads, axis=1) for part in (k, x[:, heads + kv_heads :]))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(case.dim)
    seen = (at <= at[:, None]) & (at > at[:, None] - case.window)
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, v).reshape(len(qkv), heads * case.dim)


def drawn(case):
    """Three streams, rounded to the case's dtype."""
    streams = np.random.default_rng(0).normal(size=(3, case.length, case.width))
    return mx.array(streams.astype(np.float32)).astype(case.dtype)


def attended(case, streams):
    """Each stream's context from steps in which rows of different age come and go."""
    held = case.rings()
    attend, done = case.attention(held), [[], [], []]
    at, turn = [0, 0, 0], 0
    while min(at) < case.length:
        rows = [s for s in range(3) if at[s] < case.length and (turn % (s + 1) == 0)][::-1]
        turn += 1
        if not rows:
            continue
        n = min(case.chunk, *(case.length - at[slot] for slot in rows))
        new = mx.stack([streams[slot, at[slot] : at[slot] + n] for slot in rows])
        padding = mx.zeros((1, n, case.width), case.dtype)
        view = held.view(rows, mx.array([*rows, 3]), n)
        plan = attend.plan(*view.read(), n)
        context, held.pools[0] = attend(mx.concatenate([new, padding]), held.pools[0], plan)
        mx.eval(context)
        held.advance(rows, n, view.moved(n))
        for slot, part in zip(rows, np.array(context.astype(mx.float32)), strict=False):
            done[slot].append(part)
            at[slot] += n
    return [np.concatenate(parts) for parts in done]


@pytest.mark.parametrize("case", CASES)
def test_rows_of_different_age_each_see_exactly_their_window(case):
    streams = drawn(case)
    with mx.stream(mx.cpu):  # float32 products on a GPU may be rounded to fewer bits
        contexts = attended(case, streams)
    for got, stream in zip(contexts, np.array(streams), strict=True):
        assert np.abs(got - reference(case, stream)).max() < 1e-5
