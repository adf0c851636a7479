from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from voxlive.layers.linear import Dense
from voxlive.layers.projection import CudaProjections, PlainProjections, best_projections

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
        lambda p, a: p.normed(a.x, a.norm, a.linear),
        lambda a: product(a, normed(a)),
    ),
    "gated": (
        lambda p, a: p.gated(a.x, a.norm, None, a.linear),
        lambda a: gated(a, scaled=False),
    ),
    "scaled": (
        lambda p, a: p.gated(a.x, a.norm, a.scale, a.linear),
        lambda a: gated(a, scaled=True),
    ),
    "added": (
        lambda p, a: p.added(a.x, a.linear, a.residual),
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


def test_the_default_takes_every_layer():
    a = drawn(2, 3, 8, 6, mx.float32)
    for run, _ in KINDS.values():
        mx.eval(run(best_projections(EPS), a))
