from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from voxlive.layers.linear import (
    CudaProjections,
    Dense,
    Hidden,
    PlainProjections,
    Quantised,
    Side,
    Weights,
    best_projections,
    fuse,
)

X = mx.array(np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32))


def weights(quantised=None, bias=()):
    """Layers a, b and c of 16, 32 and 8 outputs over 64 inputs."""
    random, tensors, settings = np.random.default_rng(1), {}, {}
    for name, out in (("a", 16), ("b", 32), ("c", 8)):
        weight = mx.array(random.normal(size=(out, 64)).astype(np.float32))
        if name in (quantised or {}):
            group, bits = settings[name] = quantised[name]
            parts = mx.quantize(weight, group_size=group, bits=bits)
            for part, array in zip(("weight", "scales", "biases"), parts, strict=True):
                tensors[f"{name}.{part}"] = array
        else:
            tensors[f"{name}.weight"] = weight
        if name in bias:
            tensors[f"{name}.bias"] = mx.array(random.normal(size=out).astype(np.float32))
    return Weights(tensors, settings, mx.float32)


CASES = {
    "dense": {},
    "quantised": dict.fromkeys("abc", (32, 4)),
    "groups": {"a": (32, 4), "b": (64, 4), "c": (32, 4)},
    "bits": {"a": (64, 4), "b": (64, 8), "c": (64, 3)},
    "partly": {"b": (64, 4)},
}


@pytest.mark.parametrize("bias", ["", "ac", "abc"])
@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("dense", Dense),
        ("quantised", Quantised),
        ("groups", Side),
        ("bits", Side),
        ("partly", Side),
    ],
)
def test_a_fused_layer_gives_what_its_parts_give(case, kind, bias):
    parts = weights(CASES[case], bias)
    apart = np.concatenate([np.array(parts.linear(name)(X)) for name in "abc"], axis=1)
    fused = weights(CASES[case], bias).fused("a", "b", "c")
    assert isinstance(fused, kind)
    assert np.abs(np.array(fused(X)) - apart).max() < 1e-5


@pytest.mark.parametrize("case", ["dense", "quantised"])
def test_rows_are_the_weight_that_the_product_uses(case):
    layer = weights(CASES[case]).linear("b")
    rows = layer.rows(mx.array([[5, 0], [31, 5]]))
    assert rows.shape == (2, 2, 64)
    assert np.abs(np.array(layer(rows[0, :1])[0, 5] - (rows[0, 0] ** 2).sum())).max() < 1e-3


def test_eight_bits_come_close_to_the_dense_layer():
    dense, quantised = (weights(CASES[case]).linear("b")(X) for case in ("dense", "bits"))
    assert 0 < np.abs(np.array(dense - quantised)).max() < 0.3


def test_tensors_are_handed_out_once_and_cast():
    source = weights()
    source.dtype = mx.bfloat16
    assert source.take("a.weight").dtype == mx.bfloat16
    with pytest.raises(KeyError, match=r"a\.weight"):
        source.take("a.weight")


def test_a_quantised_layer_keeps_its_packed_weight_and_casts_the_rest():
    source = weights(CASES["quantised"], "b")
    source.dtype = mx.bfloat16
    layer = source.linear("b")
    assert [array.dtype for array in layer.arrays] == [mx.uint32] + [mx.bfloat16] * 3
    assert layer(X.astype(mx.bfloat16)).dtype == mx.bfloat16
    assert layer.rows(mx.array([1])).dtype == mx.bfloat16


def test_parts_without_bias_join_without_one():
    assert fuse([weights().linear("a"), weights().linear("b")]).bias is None


def test_fusing_never_holds_a_model_twice():
    """Originals go as their fused copies come: the peak is one layer above the weights."""
    random = np.random.default_rng(2)
    names = [f"{layer}.{part}" for layer in range(12) for part in ("q", "k", "v")]
    tensors = {
        f"{name}.weight": mx.array(random.normal(size=(128, 256)).astype(np.float32))
        for name in names
    }
    mx.eval(list(tensors.values()))
    total = sum(array.nbytes for array in tensors.values())
    source = Weights(tensors, {}, mx.float32)
    del tensors
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    fused = [source.fused(f"{i}.q", f"{i}.k", f"{i}.v") for i in range(12)]
    assert mx.get_peak_memory() - before < 0.2 * total
    assert sum(layer.arrays[0].nbytes for layer in fused) == total


EPS = 1e-5
needs_cuda = pytest.mark.skipif(not mx.cuda.is_available(), reason="needs an NVIDIA GPU")


def drawn(batch, n, inputs, outputs, dtype, bias=True):
    """Arrays of one layer, rounded to ``dtype``, with a large last column of x."""
    random = np.random.default_rng(batch * n + inputs)

    def draw(*shape, scale=1.0):
        return mx.array((scale * random.normal(size=shape)).astype(np.float32)).astype(dtype)

    x = draw(batch, n, inputs)
    x[..., -1] = 30.0
    weight = draw(outputs, inputs, scale=inputs**-0.5)
    return SimpleNamespace(
        x=x,
        norm=1 + draw(inputs, scale=0.2),
        scale=1 + draw(batch, 1, inputs, scale=0.2),
        linear=Dense(weight, draw(outputs) if bias else None),
        residual=draw(batch, n, outputs),
    )


def exact(array):
    return np.array(array.astype(mx.float32), np.float64)


def normed(a):
    x = exact(a.x)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS) * exact(a.norm)


def product(a, x):
    y = x @ exact(a.linear.weight).T
    return y if a.linear.bias is None else y + exact(a.linear.bias)


def gated(a, scaled):
    h = normed(a) * exact(a.scale) if scaled else normed(a)
    gate, up = np.split(product(a, h), 2, axis=-1)
    return gate / (1 + np.exp(-gate)) * up


KINDS = {
    "normed": (
        lambda p, a: p.normed(Hidden(a.x), a.norm, a.linear)[0],
        lambda a: product(a, normed(a)),
    ),
    "gated": (
        lambda p, a: p.gated(Hidden(a.x), a.norm, None, a.linear)[0],
        lambda a: gated(a, scaled=False),
    ),
    "scaled": (
        lambda p, a: p.gated(Hidden(a.x), a.norm, a.scale, a.linear)[0],
        lambda a: gated(a, scaled=True),
    ),
    "added": (
        lambda p, a: p.added(a.x, a.linear, a.residual).total,
        lambda a: exact(a.residual) + product(a, exact(a.x)),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_plain_operations_are_the_formula(kind, bias):
    run, want = KINDS[kind]
    a = drawn(2, 3, 64, 32, mx.float32, bias)
    with mx.stream(mx.cpu):
        got = np.array(run(PlainProjections(EPS), a))
    assert np.abs(got - want(a)).max() < 2e-5


@needs_cuda
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize(
    ("batch", "n", "inputs", "outputs", "bias"),
    [(1, 1, 3072, 6144, False), (1, 4, 1280, 640, True), (5, 1, 64, 32, False), (3, 4, 832, 96, 1)],
)
def test_a_kernel_is_as_exact_as_plain_operations(kind, dtype, batch, n, inputs, outputs, bias):
    run, want = KINDS[kind]
    a = drawn(batch, n, inputs, outputs, dtype, bool(bias) and kind not in ("gated", "scaled"))
    got, usual = (
        np.abs(exact(run(p(EPS), a)) - want(a)) for p in (CudaProjections, PlainProjections)
    )
    assert np.isfinite(got).all()
    assert got.max() <= 2 * usual.max()
    assert got.mean() <= 1.2 * usual.mean()


@needs_cuda
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_kernel_does_not_take_runs_plainly(kind):
    run, _ = KINDS[kind]
    many = drawn(5, 4, 64, 32, mx.bfloat16, bias=False)
    single = drawn(2, 3, 64, 32, mx.float32)
    for a in (many, single):
        got, plain = run(CudaProjections(EPS), a), run(PlainProjections(EPS), a)
        assert mx.array_equal(got, plain)


def last(a, scale=1.0):
    total = exact(a.x) + exact(a.more)
    by = np.sqrt((total**2).mean(axis=-1, keepdims=True) + EPS)
    return total / by * exact(a.norm) * scale


def with_more(*shape, dtype):
    a = drawn(*shape, dtype, bias=False)
    a.more = mx.array(np.random.default_rng(3).normal(size=a.x.shape)).astype(dtype)
    return a


def test_what_is_still_to_be_added_is_added_before_a_norm():
    a = with_more(2, 3, 64, 32, dtype=mx.float32)
    with mx.stream(mx.cpu):
        plain, hidden = PlainProjections(EPS), Hidden(a.x, a.more)
        got, total = plain.normed(hidden, a.norm, a.linear)
        assert np.abs(np.array(got) - product(a, last(a))).max() < 2e-5
        assert mx.array_equal(total, a.x + a.more)
        assert np.abs(np.array(plain.last(hidden, a.norm)) - last(a)).max() < 2e-5
        got, total = plain.gated(hidden, a.norm, a.scale, a.linear)
        gate, up = np.split(product(a, last(a, exact(a.scale))), 2, axis=-1)
        assert np.abs(np.array(got) - gate / (1 + np.exp(-gate)) * up).max() < 2e-5
        assert mx.array_equal(total, a.x + a.more)


@needs_cuda
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize(("batch", "n", "inputs"), [(64, 1, 3072), (65, 4, 1280), (33, 1, 1032)])
def test_a_sum_and_its_norm_in_one_kernel_are_as_exact(scaled, dtype, batch, n, inputs):
    a = with_more(batch, n, inputs, 64, dtype=dtype)
    scale = a.scale if scaled else None
    (got, total), (usual, plain) = (
        p(EPS)._norm(Hidden(a.x, a.more), a.norm, scale)
        for p in (CudaProjections, PlainProjections)
    )
    assert mx.array_equal(total, plain)
    want = last(a, exact(scale) if scaled else 1.0)
    got, usual = np.abs(exact(got) - want), np.abs(exact(usual) - want)
    assert np.isfinite(got).all()
    assert got.max() <= 2 * usual.max()
    assert got.mean() <= 1.2 * usual.mean()


def test_the_default_takes_every_layer():
    a = drawn(2, 3, 8, 6, mx.float32)
    for run, _ in KINDS.values():
        mx.eval(run(best_projections(EPS), a))
