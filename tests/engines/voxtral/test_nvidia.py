"""Kernels and steps on an NVIDIA GPU, beside the same steps in plain MLX and beside float64."""

import math
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from training.golden.audio import synthetic_audio
from training.golden.weights import TINY, random_weights
from voxlive.decoders.decoder import NOT_FINITE, TextDecoder
from voxlive.encoders.encoder import AudioEncoder
from voxlive.engines.voxtral.model import CHUNK, VoxtralModel, plan_rounds
from voxlive.engines.voxtral.nvidia import takes
from voxlive.layers import cuda_layers, rings
from voxlive.layers.cuda import Gpu
from voxlive.layers.cuda_layers import (
    HALVES,
    BatchRows,
    CudaRings,
    Matrix,
    Operations,
    Scale,
    owned,
)
from voxlive.layers.rings import Rings
from voxlive.layers.transformer import (
    AttentionShape,
    Dense,
    GatherAttention,
    Quantised,
    StackShape,
    Weights,
    gelu,
)

pytestmark = pytest.mark.skipif(not mx.cuda.is_available(), reason="needs an NVIDIA GPU")

EPS = 1e-5
SMALL = replace(
    TINY,
    encoder=replace(TINY.encoder, dim=128, layers=2, heads=3, head_dim=64, ffn_dim=192, window=70),
    decoder=replace(
        TINY.decoder, dim=192, layers=3, heads=4, kv_heads=2, head_dim=64, ffn_dim=320, window=90
    ),
)
"""Every size that the kernels need, and rings of few blocks."""
HALF = [mx.bfloat16, mx.float16]


@pytest.fixture(scope="module")
def gpus(tmp_path_factory):
    kept = tmp_path_factory.mktemp("kernels")
    return {dtype: Gpu(kept, name) for dtype, name in HALVES.items()}


def exact(array):
    return np.array(array.astype(mx.float32)).astype(np.float64)


def got(gpu, memory, *shape):
    """16-bit floats as float64."""
    bits = gpu.get(memory, np.uint16, shape)
    if gpu.half == "f16":
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


class Placed:
    """Arrays on the device, for as long as it is there."""

    def __init__(self, gpu):
        self._gpu, self._held = gpu, []

    def __call__(self, array):
        self._held.append(owned(self._gpu, array))
        return self._held[-1].pointer


def drawn(rows, inputs, outputs, dtype, bias, per_scale=1):
    random = np.random.default_rng(1)

    def normal(*shape, scale=1.0, shift=0.0):
        values = shift + scale * random.normal(size=shape)
        return mx.array(values.astype(np.float32)).astype(dtype)

    return SimpleNamespace(
        x=normal(rows, inputs),
        more=normal(rows, inputs),
        norm=normal(inputs, shift=1.0, scale=0.2),
        scales=normal(5, inputs, shift=1.0, scale=0.2),
        scale_of=mx.array([i % 5 for i in range(-(-rows // per_scale))], mx.int32),
        per_scale=per_scale,
        linear=Dense(
            normal(outputs, inputs, scale=inputs**-0.5), normal(outputs) if bias else None
        ),
        residual=normal(rows, outputs),
    )


def normed64(a, scaled, x=None):
    x = exact(a.x) if x is None else x
    h = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS) * exact(a.norm)
    return h * exact(scale_rows(a)) if scaled else h


def scale_rows(a):
    return mx.repeat(a.scales[a.scale_of], a.per_scale, axis=0)[: a.x.shape[0]]


def product64(a, x):
    y = x @ exact(a.linear.weight).T
    return y if a.linear.bias is None else y + exact(a.linear.bias)


def product(a, h):
    return a.linear(h)


def normed(a, scaled):
    h = mx.fast.rms_norm(a.x, a.norm, EPS)
    return h * scale_rows(a) if scaled else h


def gate64(y):
    gate, up = np.split(y, 2, axis=-1)
    return gate / (1 + np.exp(-gate)) * up


def gate(y):
    one, up = mx.split(y, 2, axis=-1)
    return one * mx.sigmoid(one) * up


def gelu64(y):
    return y * (0.5 + 0.5 * np.vectorize(math.erf)(y / math.sqrt(2)))


KINDS = {
    "normed": (
        {"norm": 1},
        lambda a: product(a, normed(a, 0)),
        lambda a: product64(a, normed64(a, 0)),
    ),
    "gated": (
        {"norm": 1, "gated": 1},
        lambda a: gate(product(a, normed(a, 0))),
        lambda a: gate64(product64(a, normed64(a, 0))),
    ),
    "scaled": (
        {"norm": 1, "gated": 1, "scale": 1},
        lambda a: gate(product(a, normed(a, 1))),
        lambda a: gate64(product64(a, normed64(a, 1))),
    ),
    "added": (
        {"residual": 1},
        lambda a: a.residual + product(a, a.x),
        lambda a: exact(a.residual) + product64(a, exact(a.x)),
    ),
    "gelu": (
        {"gelu": 1},
        lambda a: gelu(product(a, a.x)),
        lambda a: gelu64(product64(a, exact(a.x))),
    ),
}  # fmt: skip


def projected(gpu, a, how, linear=None):
    ops, at = Operations(gpu), Placed(gpu)
    m = Matrix.of(ops, linear or a.linear)
    rows, outputs = a.x.shape[0], m.outputs // (2 if how.get("gated") else 1)
    y = gpu.memory(rows, outputs, itemsize=2)
    scale = Scale(at(a.scales), at(a.scale_of), a.per_scale) if how.get("scale") else None
    ops.project(
        at(a.x), m, y.pointer, rows, eps=EPS,
        norm=at(a.norm) if how.get("norm") else 0, scale=scale,
        gated=bool(how.get("gated")), gelu=bool(how.get("gelu")),
        residual=at(a.residual) if how.get("residual") else 0,
    )  # fmt: skip
    return got(gpu, y, rows, outputs)


def as_exact(new, plain, want):
    error, usual = np.abs(new - want), np.abs(plain - want)
    assert np.isfinite(new).all()
    assert error.max() <= 2 * usual.max()
    assert error.mean() <= 1.2 * usual.mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "bias", "per_scale"),
    [
        (1, 3072, 6144, False, 1),
        (4, 1280, 640, True, 1),
        (5, 64, 32, False, 1),
        (12, 832, 96, True, 4),
        (16, 1280, 640, False, 2),
        (31, 4096, 3072, False, 1),
    ],
)
def test_a_product_of_few_rows_is_as_exact_as_plain_operations(
    gpus, kind, dtype, rows, inputs, outputs, bias, per_scale
):
    how, plain, want = KINDS[kind]
    bias = bias and not how.get("gated")
    a = drawn(rows, inputs, outputs, dtype, bias, per_scale)
    as_exact(projected(gpus[dtype], a, how), exact(plain(a)), want(a))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 9, 30])
@pytest.mark.parametrize("dtype", HALF)
def test_packed_weights_are_the_values_that_they_stand_for(gpus, bits, rows, dtype):
    a = drawn(rows, 1280, 640, dtype, bias=True)
    parts = mx.quantize(a.linear.weight, 64, bits)
    packed = Quantised(*parts, a.linear.bias, 64, bits)
    a.linear = packed.unpacked()
    new = projected(gpus[dtype], a, {"norm": 1}, packed)
    as_exact(new, exact(product(a, normed(a, 0))), product64(a, normed64(a, 0)))
    gpu = gpus[dtype]
    at = Placed(gpu)
    ops, y = Operations(gpu), gpu.memory(rows, 640, itemsize=2)
    ops.scratch.reserve("unpacked", 1280 * 640)
    ops.product(at(a.x), Matrix.of(ops, packed), y.pointer, rows)
    whole = got(gpu, ops.scratch._memory["unpacked"], 640, 1280)
    words, scales, zeros = (
        np.array(part.astype(kind))
        for part, kind in zip(parts, (mx.uint32, mx.float32, mx.float32), strict=True)
    )
    values = (words[:, :, None] >> np.arange(0, 32, bits)) & ((1 << bits) - 1)
    want = values.reshape(640, -1, 64) * scales[:, :, None] + zeros[:, :, None]
    both = Matrix.of(Operations(gpu, unpacks=True), packed)
    assert np.array_equal(got(gpu, both.held[-1], 640, 1280), whole)
    rounding = 2.0 ** (-8 if dtype == mx.bfloat16 else -11) * np.abs(want)
    assert (np.abs(whole - want.reshape(640, 1280)) <= rounding.reshape(640, 1280) + 1e-7).all()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize(("rows", "dim"), [(64, 3072), (260, 1280), (33, 1032)])
def test_a_sum_and_its_norm_are_as_exact(gpus, dtype, scaled, more, rows, dim):
    gpu = gpus[dtype]
    a = drawn(rows, dim, 64, dtype, bias=False)
    total = exact(a.x) + exact(a.more) if more else exact(a.x)
    summed = a.x + a.more if more else a.x
    h = mx.fast.rms_norm(summed, a.norm, EPS)
    plain = exact(h * scale_rows(a) if scaled else h)
    ops, y, at = Operations(gpu), gpu.memory(rows, dim, itemsize=2), Placed(gpu)
    ops.sum_norm(
        at(a.x), at(a.more) if more else 0, 0, at(a.norm), y.pointer, rows=rows,
        dim=dim, eps=EPS,
        scale=Scale(at(a.scales), at(a.scale_of), 1) if scaled else None,
    )  # fmt: skip
    as_exact(got(gpu, y, rows, dim), plain, normed64(a, scaled, total))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim"), [(4, 4, 64), (8, 2, 128), (6, 2, 64), (5, 1, 128)]
)
@pytest.mark.parametrize(
    ("window", "chunk", "length", "warps", "bias"),
    [
        (20, 1, 150, 4, False),
        (20, 12, 150, 2, True),
        (70, 37, 250, 1, True),
        (600, 8, 1500, 4, False),
        (600, 8, 1500, 1, False),
    ],
)
def test_attention_is_as_exact_as_plain_operations(
    gpus, monkeypatch, dtype, heads, kv_heads, dim, window, chunk, length, warps, bias
):
    """Rows of different age that come and go; beside the same steps in plain MLX and float64."""
    monkeypatch.setattr(cuda_layers, "_ATTENTION_WARPS", ((0, warps),))
    gpu, width = gpus[dtype], (heads + 2 * kv_heads) * dim
    streams = np.random.default_rng(0).normal(size=(3, length, width)).astype(np.float32)
    raw = mx.array(streams).astype(dtype)
    more = mx.array(np.random.default_rng(4).normal(size=width).astype(np.float32)).astype(dtype)
    streams = raw + more if bias else raw
    held_bias = Placed(gpu)
    shift = held_bias(more) if bias else 0
    stack = StackShape(1, heads, kv_heads, dim, window, 10_000.0, EPS)
    ops = Operations(gpu)
    held = CudaRings(ops, stack, chunk=chunk, slots=3, dtype=dtype)
    plainly = Rings(
        layers=1, kv_heads=kv_heads, head_dim=dim, rope_theta=10_000.0, window=window,
        chunk=chunk, slots=3, block=32, dtype=dtype,
    )  # fmt: skip
    plain = GatherAttention(AttentionShape(heads, kv_heads, dim, window, held.ring, 32, 10_000.0))
    most = 4 * chunk
    for name, count in (("angles", most * dim), ("tickets", most * 64), ("parts", 1 << 22)):
        ops.scratch.reserve(name, count, 4)
    turn = gpu.memory(dim // 2, itemsize=4)
    gpu.put(turn, (10_000.0 ** -(np.arange(0, dim, 2) / dim)).astype(np.float32))
    context = gpu.memory(most, heads * dim, itemsize=2)
    done, usual, at, turns = [[], [], []], [[], [], []], [0, 0, 0], 0
    while min(at) < length:
        rows = [s for s in range(3) if at[s] < length and turns % (s + 1) == 0][::-1]
        turns += 1
        if not rows:
            continue
        n, batch = min(chunk, *(length - at[s] for s in rows)), 4
        new = mx.zeros((batch, n, width), dtype)
        plain_new = mx.zeros((batch, n, width), dtype)
        new[: len(rows)] = mx.stack([raw[s, at[s] : at[s] + n] for s in rows])
        plain_new[: len(rows)] = mx.stack([streams[s, at[s] : at[s] + n] for s in rows])
        at_new = Placed(gpu)
        starts, blocks = np.zeros(batch, np.int32), np.zeros((batch, held.per_ring), np.int32)
        starts[: len(rows)], blocks[: len(rows)] = held.rows(rows, n)
        memory = [gpu.memory(part.size, itemsize=4) for part in (starts, blocks)]
        for one, part in zip(memory, (starts, blocks), strict=True):
            gpu.put(one, part)
        batched = BatchRows(batch, n, memory[0].pointer, memory[1].pointer)
        ops.rotary(dim, turn.pointer, batched)
        ops.attend(
            stack, held.ring, at_new(new), held.pools[0].pointer, batched, context.pointer, shift
        )
        result = got(gpu, context, batch, n, heads * dim)
        held.count(rows, n)
        view = plainly.view(rows, mx.array([*rows, *[3] * (batch - len(rows))]), n)
        other, plainly.pools[0] = plain(plain_new, plainly.pools[0], plain.plan(*view.read(), n))
        plainly.advance(rows, n, view.moved(n))
        for index, slot in enumerate(rows):
            done[slot].append(result[index])
            usual[slot].append(exact(other[index]))
            at[slot] += n
    for slot in range(3):
        want = attended64(exact(streams[slot]), heads, kv_heads, dim, window)
        as_exact(np.concatenate(done[slot]), np.concatenate(usual[slot]), want)


def attended64(qkv, heads, kv_heads, dim, window):
    x = qkv.reshape(len(qkv), heads + 2 * kv_heads, dim)
    at = np.arange(len(qkv))
    angle = at[:, None, None] * 10_000.0 ** (-np.arange(0, dim, 2) / dim)

    def rotated(y):
        even, odd = y[..., ::2], y[..., 1::2]
        turned = (
            even * np.cos(angle) - odd * np.sin(angle),
            even * np.sin(angle) + odd * np.cos(angle),
        )
        return np.stack(turned, axis=-1).reshape(y.shape)

    q, k = rotated(x[:, :heads]), rotated(x[:, heads : heads + kv_heads])
    k, v = (np.repeat(part, heads // kv_heads, axis=1) for part in (k, x[:, heads + kv_heads :]))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(dim)
    seen = (at <= at[:, None]) & (at > at[:, None] - window)
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, v).reshape(len(qkv), heads * dim)


def weights_of(dtype, kept=None):
    """``kept`` is what the numbers are rounded to first."""
    tensors = {name: mx.array(value) for name, value in random_weights(SMALL).items()}
    if kept:
        tensors = {name: value.astype(kept) for name, value in tensors.items()}
    return Weights(tensors, {}, dtype)


def model_of(gpus, dtype, slots=5):
    return VoxtralModel(SMALL, weights_of(dtype), slots=slots, bos=1, pad=32, gpu=gpus[dtype])


def mel_of(model, tokens, seed):
    audio = synthetic_audio(model.front_end.span(tokens), seed)
    return model.front_end(audio[None].astype(np.float32))


def cell(gpu, model, slot, column):
    """An embedding, as float64."""
    dim, queue = SMALL.decoder.dim, model._queue
    table = got(gpu, queue.table, len(queue._pushed) * queue.capacity + 1, dim)
    return table[slot * queue.capacity + column % queue.capacity]


@pytest.mark.parametrize("dtype", HALF)
def test_encoded_audio_is_as_exact_as_plain_operations(gpus, dtype):
    """Three streams that join one after another, in steps of every size, past four rings."""
    gpu, model = gpus[dtype], model_of(gpus, dtype)
    assert takes(SMALL, dtype)
    tokens = 160
    mels = [mel_of(model, tokens, seed) for seed in range(3)]
    new = [[], [], []]
    at, random = [0, 0, 0], np.random.default_rng(3)
    for slot in range(3):
        model.encoder.join(slot)
    while min(at) < tokens:
        rows = [s for s in range(3) if at[s] < tokens and random.random() < 0.7]
        n = int(random.choice([1, 1, 1, 2, 4, 8]))
        rows = [s for s in rows if at[s] + n <= tokens]
        if not rows:
            continue
        frames = model.front_end.frames
        mel = np.concatenate([mels[s][:, frames * at[s] : frames * (at[s] + n)] for s in rows])
        model.encode(rows, mel)
        for s in rows:
            new[s] += [cell(gpu, model, s, at[s] + i) for i in range(n)]
            model._queue.take([s], n)
            at[s] += n
    assert model.encoder.rings.position(0) <= model.encoder.rings.limit < 4 * tokens
    with mx.stream(mx.cpu):
        plain, want = (
            AudioEncoder(SMALL, weights_of(kind, dtype), slots=3, compiled=False)
            for kind in (dtype, mx.float32)
        )
        for slot in range(3):
            encoded = []
            for encoder in (plain, want):
                parts = [
                    exact(encoder.step([slot], mels[slot][:, 8 * i : 8 * i + 64]))[0]
                    for i in range(0, tokens, 8)
                ]
                encoded.append(np.concatenate(parts))
            as_exact(np.stack(new[slot]), *encoded)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("batch", [1, 3, 20])
def test_logits_are_as_exact_as_plain_operations(gpus, dtype, batch):
    """Of prompts and of the positions behind them, with the tokens of float32 before each."""
    gpu, model = gpus[dtype], model_of(gpus, dtype, slots=batch + 1)
    decoder, rows, vocab = model.decoder, list(range(batch)), SMALL.decoder.vocab_size
    delays = [1 + s % 3 for s in rows]
    random = np.random.default_rng(7)
    with mx.stream(mx.cpu):
        plain, want = (
            TextDecoder(SMALL, weights_of(kind, dtype), slots=batch, bos=1, pad=32, compiled=False)
            for kind in (dtype, mx.float32)
        )
    for slot in rows:
        for one in (decoder, plain, want):
            one.join(slot, delays[slot])
    errors = []
    for position in range(240):
        for slot in rows if position == 0 else (None,):
            group = rows if slot is None else [slot]
            n = 1 if slot is None else decoder.prompt_length(slot)
            audio = random.normal(size=(len(group), n, SMALL.decoder.dim)).astype(np.float32)
            audio = mx.array(audio).astype(dtype)
            bits = np.array(audio.view(mx.uint16)).reshape(-1, SMALL.decoder.dim)
            cells = np.array([[1 + s * 50 + i for i in range(n)] for s in group], np.int32)
            table = gpu.get(
                model._queue.table, np.uint16,
                ((batch + 1) * model._queue.capacity + 1, SMALL.decoder.dim),
            )  # fmt: skip
            table[cells.reshape(-1)] = bits
            gpu.put(model._queue.table, table)
            with mx.stream(mx.cpu):
                if slot is None:
                    last = [np.array(one._last) for one in (plain, want)]
                    tokens = mx.array(last[1][rows][:, None])
                else:
                    ids = np.full((1, n), 32, np.int32)
                    ids[0, 0] = 1
                    tokens = mx.array(ids)
                other, wanted = (
                    exact(one.logits(group, tokens, audio.astype(one.dtype))[:, -1])
                    for one in (plain, want)
                )
                best = wanted.argmax(axis=-1)
                want._last[mx.array(group)] = mx.array(best.astype(np.int32))
            if slot is None:
                chosen = np.array(decoder.step(rows, cells[:, 0]))
            else:
                chosen = np.array(decoder.prefill(group, cells))
            logits = gpu.get(
                decoder._ops.scratch._memory["logits"], np.float32, (len(group), vocab)
            )
            assert chosen.tolist() == logits.argmax(axis=-1).tolist()
            errors.append((np.abs(logits - wanted), np.abs(other - wanted)))
            put_last(gpu, decoder, group, best)
    new, usual = (np.concatenate([pair[i] for pair in errors]) for i in (0, 1))
    assert np.isfinite(new).all()
    assert new.max() <= 2 * usual.max()
    assert new.mean() <= 1.2 * usual.mean()
    assert decoder.rings.position(0) <= decoder.rings.limit


def put_last(gpu, decoder, rows, tokens):
    last = gpu.get(decoder._last, np.int32, (len(decoder._delay),))
    last[rows] = tokens
    gpu.put(decoder._last, last)


def test_the_first_of_equal_logits_is_chosen_and_a_penalty_is_the_pads(gpus):
    gpu = gpus[mx.bfloat16]
    model = model_of(gpus, mx.bfloat16)
    decoder, vocab = model.decoder, SMALL.decoder.vocab_size
    logits = np.zeros((4, vocab), np.float32)
    logits[0, [7, 300, 511]] = 2.0
    logits[1, 32], logits[1, 40] = 3.0, 2.5
    logits[2, 9] = np.nan
    logits[3, 5] = -np.inf
    memory = gpu.memory(logits.size, itemsize=4)
    gpu.put(memory, logits)
    decoder._ops.scratch.reserve("logits", logits.size, 4)
    decoder._ops.scratch._memory["logits"] = memory
    decoder._ops.linear = lambda *_, **__: None
    slots, penalties = gpu.memory(4, itemsize=4), gpu.memory(4, itemsize=4)
    gpu.put(slots, np.arange(4, dtype=np.int32))
    gpu.put(penalties, np.array([0, 1, 0, 0], np.float32))
    decoder._greedy(0, 4, 0, slots.pointer, penalties.pointer)
    tokens = gpu.get(decoder._ops.scratch._memory["tokens"], np.int32, (4,))
    assert tokens.tolist() == [7, 40, NOT_FINITE, NOT_FINITE]
    assert gpu.get(decoder._last, np.int32, (4,)).tolist() == [7, 40, 0, 0]


def run(model, audio, slots):
    """Tokens of each slot's stream, encoded and decoded together."""
    tokens = {slot: [] for slot in slots}
    for slot in slots:
        model.join(slot, 2)
    frames = model.front_end.frames
    for at in range(audio.shape[1] // frames):
        mel = np.repeat(audio[:, frames * at : frames * (at + 1)], len(slots), axis=0)
        model.encode(slots, mel)
        for rows, new in model.decode({}):
            for slot, token in zip(rows, new, strict=True):
                tokens[slot].append(token)
    return tokens


def test_a_stream_says_the_same_wherever_it_lies_and_whoever_was_there(gpus):
    """In batches of one size: sums are rounded otherwise in others."""
    model = model_of(gpus, mx.bfloat16, slots=9)
    audio = mel_of(model, 120, 5)
    alone = run(model, audio, [3])[3]
    assert len(set(alone)) > 3
    run(model, mel_of(model, 30, 6), [3])
    model.leave(3)
    assert run(model, audio, [0])[0] == alone
    together = run(model, audio, [6, 1, 4])
    assert together[6] == together[1] == together[4]


def test_any_number_of_prompts_run_in_one_round(gpus):
    """More batches of prompts than steps' inputs are held for: each has its own tokens."""
    model, slots = model_of(gpus, mx.bfloat16, slots=97), list(range(96))
    audio = mel_of(model, 60, 5)
    one = run(model, audio, slots[:8])
    for slot in slots[:8]:
        model.leave(slot)
    many = run(model, audio, slots)
    assert [many[slot][0] for slot in slots] == [one[0][0]] * 96
    assert {len(tokens) for tokens in many.values()} == {len(one[0])}


def test_a_row_that_is_not_finite_says_so_and_leaves_nothing(gpus):
    gpu, model = gpus[mx.bfloat16], model_of(gpus, mx.bfloat16)
    clean = run(model, mel_of(model, 60, 5), [0])[0]
    model.leave(0)
    broken = mel_of(model, 60, 5).copy()
    broken[0, 300:] = np.nan
    tokens = run(model, broken, [0])[0]
    assert tokens[-1] == NOT_FINITE
    model.leave(0)
    for held in (model.encoder.rings, model.decoder.rings):
        for pool in held.pools:
            bits = gpu.get(pool, np.uint16, (pool.nbytes // 2,))
            whole = (bits.astype(np.uint32) << 16).view(np.float32)
            blocks = whole.reshape(held._size, -1)[1:]
            assert not blocks.any()
    assert run(model, mel_of(model, 60, 5), [0])[0] == clean


def test_pools_grow_shrink_and_are_recorded_again(gpus):
    model = model_of(gpus, mx.bfloat16, slots=6)
    audio = mel_of(model, 60, 9)
    slots = [0, 1, 2, 3, 4]
    before = run(model, audio, slots)
    for held in (model.encoder.rings, model.decoder.rings):
        held._resize(2 * held._size)
    assert run(model, audio, slots) == before
    for slot in slots:
        model.leave(slot)
    for held in (model.encoder.rings, model.decoder.rings):
        assert held._size == held._least
    assert run(model, audio, slots) == before


class BacklogRow:
    def __init__(self, slot, ready):
        self.slot, self.ready = slot, ready


def serve(served, rounds=60, most=6):
    """Rounds of random rows with random backlogs, joining and in ruts, past their windows."""
    random = Random(1)
    streams = set()
    for _ in range(rounds):
        for slot in range(most):
            if random.random() < 0.02 or slot not in streams:
                served.join(slot, random.choice([SMALL.delay_tokens, 1, 12]))
                streams.add(slot)
        rows = random.sample(range(most), random.randint(1, most))
        ready = [BacklogRow(slot, random.choice([1, 1, 2, 5, 20])) for slot in rows]
        for tokens, group in plan_rounds(ready, CHUNK):
            served.encode([row.slot for row in group], served.silence(len(group), tokens))
        for _ in served.decode({rows[0]: 2.0} if random.random() < 0.1 else {}):
            pass


@pytest.mark.parametrize("reserve", [float("inf"), 0])
def test_service_compiles_and_records_nothing_new(gpus, reserve, monkeypatch):
    """Except, without a reserve, where pools grow: that is what the reserve is for."""
    monkeypatch.setattr(rings, "_FIRST_BLOCKS", 2)
    gpu, served = gpus[mx.bfloat16], model_of(gpus, mx.bfloat16, slots=7)
    served.bound(6, 1 << 40, reserve=reserve)
    for rows in (1, 2, 4, 6):
        served.compile_steps(rows)
    recorded = served.encoder._recorded, served.decoder._recorded
    before = [set(one._graphs) for one in recorded], set(gpu._functions), served.nbytes
    generations = [one._generation for one in recorded]
    serve(served)
    assert max(map(served.decoder.rings.position, range(6))) > SMALL.decoder.window
    assert set(gpu._functions) == before[1]
    assert ([one._generation for one in recorded] == generations) is (reserve > 0)
    assert (served.nbytes == before[2]) is (reserve > 0)
    if reserve:
        assert [set(one._graphs) for one in recorded] == before[0]
