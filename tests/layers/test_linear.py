import mlx.core as mx
import numpy as np
import pytest

from voxlive.layers.transformer import (
    Dense,
    Quantised,
    Side,
    Weights,
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
