from __future__ import annotations

from collections import deque
from random import Random

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.tiny_voxtral import encode, mel_tokens, tiny_encoder

from training.golden.weights import TINY
from voxlive.encoders.encoder import EmbeddingQueue

TOKENS = 96
MELS = [mel_tokens(TOKENS, seed) for seed in range(4)]
ENCODER = tiny_encoder(slots=4)


def close(got, want):
    """Within 1e-5 of the largest value: sums run in another order in another batch."""
    return np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.fixture(scope="module")
def alone():
    """Each clip by itself, token by token."""
    encoder = tiny_encoder()
    results = []
    for mel in MELS:
        encoder.join(0)
        results.append(encode(encoder, 0, mel))
    return results


@examples(8)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=12))
def test_every_chunking_gives_the_same_embeddings(alone, sizes):
    ENCODER.join(2)
    assert close(encode(ENCODER, 2, MELS[0], sizes), alone[0])


@examples(8)
@given(st.integers(0, 1 << 32))
def test_batched_equals_alone(alone, seed):
    """Rows of different age, joining and leaving at random, in steps of random length."""
    random = Random(seed)
    clip, done = {}, {}
    heard = [0] * len(MELS)
    while min(heard) < TOKENS:
        for slot in range(4):
            if slot not in clip and random.random() < 0.5:
                free = [c for c in range(len(MELS)) if c not in clip.values() and not heard[c]]
                if free:
                    clip[slot] = random.choice(free)
                    done[clip[slot]] = []
                    ENCODER.join(slot)
        n = random.choice([1, 1, 2, 4, 8])
        rows = [s for s in clip if heard[clip[s]] + n <= TOKENS and random.random() < 0.8]
        random.shuffle(rows)
        if rows:
            mel = [MELS[clip[s]][heard[clip[s]] * 8 : (heard[clip[s]] + n) * 8] for s in rows]
            out = np.array(ENCODER.step(rows, np.stack(mel)))
            for slot, part in zip(rows, out, strict=True):
                done[clip[slot]].append(part)
                heard[clip[slot]] += n
        for slot in [s for s in clip if heard[clip[s]] == TOKENS]:
            ENCODER.leave(slot)
            del clip[slot]
    for index, want in enumerate(alone):
        assert close(np.concatenate(done[index]), want)


def test_a_reused_slot_gives_the_same_bits_as_a_new_one():
    fresh = encode(tiny_encoder(slots=2), 0, MELS[1], (4,))
    used = tiny_encoder(slots=2)
    encode(used, 1, MELS[0], (8,))
    encode(used, 0, MELS[2], (8,))
    used.leave(0)
    used.join(0)
    assert np.array_equal(encode(used, 0, MELS[1], (4,)), fresh)


def test_frames_see_the_window_and_no_further():
    """With one layer an embedding is a function of the window before it alone."""
    mel = np.random.default_rng(0).normal(size=(2, 30 * 8, 128)).astype(np.float32)
    mel[1, 12 * 8 :] = mel[0, 12 * 8 :]
    shallow = tiny_encoder(slots=2)
    shallow._stack._layers = shallow._stack._layers[:1]
    shallow.rings.pools = shallow.rings.pools[:1]
    for slot in (0, 1):
        shallow.join(slot)
    parts = [np.array(shallow.step([0, 1], mel[:, at : at + 16])) for at in range(0, 240, 16)]
    first, second = np.concatenate(parts, axis=1)
    differs = np.abs(first - second).max(axis=-1) > 1e-6
    # Through the convolutions' reach encoder frame 49 is the last that differs. A window of 32
    # frames shows it to frames up to 80, the first of token 20.
    assert differs[:21].all()
    assert not differs[21:].any()


def test_positions_stay_bounded_and_moving_them_changes_nothing():
    mel = mel_tokens(400, 1)
    moving, still = tiny_encoder(), tiny_encoder()
    still.rings.limit = 1 << 30
    got, want = encode(moving, 0, mel, (8,)), encode(still, 0, mel, (8,))
    assert still.rings.position(0) == 1600
    assert moving.rings.position(0) <= moving.rings.limit == 256
    assert close(got, want)


def test_memory_grows_with_age_to_the_window_and_is_given_back():
    encoder = tiny_encoder(slots=8)
    empty = encoder.rings.nbytes
    held = []
    encoder.join(3)
    for at in range(0, len(MELS[0]), 8):
        encoder.step([3], MELS[0][None, at : at + 8])
        held.append(encoder.rings.slot_nbytes(3))
    assert held == sorted(held)
    assert held[0] == encoder.rings.block_nbytes
    assert held[-1] == held[20] == encoder.rings.full_nbytes
    for slot in range(8):
        encoder.join(slot)
        encode(encoder, slot, MELS[1][: 40 * 8], (8,))
    assert encoder.rings.nbytes > 2 * empty
    for slot in range(8):
        encoder.leave(slot)
        assert encoder.rings.slot_nbytes(slot) == 0
    assert encoder.rings.nbytes == empty


def test_half_precision_stays_half_precision():
    encoder = tiny_encoder(dtype=mx.bfloat16)
    encoder.join(0)
    out = encoder.step([0], MELS[0][None, :16])
    assert out.dtype == mx.bfloat16
    assert {a.dtype for a in [*encoder.rings.pools, *encoder._tails]} == {mx.bfloat16}


def test_a_row_gone_wrong_leaves_nothing_to_the_next():
    encoder = tiny_encoder(slots=1)
    want = encode(encoder, 0, MELS[0][: 8 * 8])
    encoder.step([0], np.full((1, 64, 128), np.nan, np.float32))
    encoder.leave(0, scrub=True)
    encoder.join(0)
    assert np.array_equal(encode(encoder, 0, MELS[0][: 8 * 8]), want)


@pytest.mark.parametrize("frames", [0, 4, 9, 72])
def test_a_step_takes_whole_tokens_within_its_chunk(frames):
    with pytest.raises(ValueError, match="whole tokens of 8"):
        ENCODER.step([0], np.zeros((1, frames, 128), np.float32))


# Where there is no GPU a C++ compiler takes half a minute for it, and nothing else is compiled.
@pytest.mark.endurance
def test_a_compiled_step_is_the_same():
    mx.enable_compile()
    mel = MELS[0][: 12 * 8]
    plain, compiled = tiny_encoder(slots=2), tiny_encoder(slots=2, compiled=True)
    assert close(encode(compiled, 0, mel, (4,)), encode(plain, 0, mel, (4,)))
    assert TINY.encoder.layers == len(compiled.rings.pools)


@examples(40)
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
