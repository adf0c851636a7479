import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from support.tiny_checkpoint import write_tiny

from training.golden.layouts import LAYOUTS, source_tensors, write_json
from training.golden.weights import TINY, random_weights
from voxlive.checkpoints.contents import read_contents
from voxlive.checkpoints.local_model import read_checkpoint
from voxlive.engines.voxtral.loading import load_weights
from voxlive.errors import UnsupportedConfig, WeightsMismatch
from voxlive.layers.transformer import Dense

DRAWN = random_weights()
MATRICES = [
    name.removesuffix(".weight")
    for name, tensor in DRAWN.items()
    if tensor.ndim == 2 and ".ada." not in name
]


def load(folder, **how):
    return load_weights(read_checkpoint(read_contents(folder)).plan, **how)


def assert_same(weights, expected):
    for name, tensor in expected.items():
        found = weights.take(name)
        assert found.dtype == weights.dtype
        assert mx.array_equal(found, mx.array(tensor).astype(weights.dtype)), name


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_to_the_same_arrays(tmp_path, layout, shards):
    write_tiny(tmp_path, layout, shards=shards)
    weights = load(tmp_path)
    assert weights.dtype == mx.float32
    assert_same(weights, DRAWN)


@pytest.mark.parametrize(
    ("stored", "dtype"), [("BF16", mx.bfloat16), ("F16", mx.float16), ("F32", mx.float32)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_are_kept_or_converted(tmp_path, layout, stored, dtype):
    write_tiny(tmp_path, layout, dtype=stored)
    weights = load(tmp_path)
    assert weights.dtype == dtype
    assert_same(weights, DRAWN)
    rounded = {name: mx.array(tensor).astype(dtype) for name, tensor in DRAWN.items()}
    converted = load(tmp_path, dtype=mx.bfloat16)
    assert converted.dtype == mx.bfloat16
    assert_same(converted, rounded)


def quantised_tensors(layout, how):
    """A layout's tensors with the matrices of ``how`` (canonical: (group size, bits)) packed."""
    names = LAYOUTS[layout].names
    tensors = {
        name: mx.array(np.ascontiguousarray(tensor)).astype(mx.bfloat16)
        for name, tensor in source_tensors(layout, TINY, DRAWN).items()
    }
    for module, (group_size, bits) in how.items():
        source = names(f"{module}.weight").removesuffix(".weight")
        packed = mx.quantize(tensors[f"{source}.weight"], group_size, bits)
        for kind, part in zip(("weight", "scales", "biases"), packed, strict=True):
            tensors[f"{source}.{kind}"] = part
    return tensors


def write_quantised(folder, layout, how, said):
    write_tiny(folder, layout)
    style = LAYOUTS[layout]
    mx.save_safetensors(str(folder / style.weights_file), quantised_tensors(layout, how))
    document = json.loads((folder / style.config_file).read_text())
    write_json(folder / style.config_file, document | ({"quantization": said} if said else {}))
    return folder


def fitting(bits):
    """A group size for every matrix whose rows it divides, the largest first."""
    return {
        module: (next(size for size in (128, 64, 32) if columns % size == 0), bits)
        for module in MATRICES
        for columns in [DRAWN[f"{module}.weight"].shape[1]]
    }


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_quantised_matrices_stay_as_they_are(tmp_path, layout, bits):
    how = fitting(bits)
    weights = load(write_quantised(tmp_path, layout, how, None))
    assert {size for size, _ in how.values()} == {32, 64, 128}
    for module, (group_size, width) in how.items():
        loaded = weights.linear(module)
        assert (loaded.group_size, loaded.bits) == (group_size, width)
        unpacked = mx.dequantize(loaded.weight, loaded.scales, loaded.zeros, group_size, width)
        direct = mx.array(DRAWN[f"{module}.weight"]).astype(mx.bfloat16)
        expected = mx.dequantize(*mx.quantize(direct, group_size, width), group_size, width)
        assert mx.array_equal(unpacked, expected), module
        if f"{module}.bias" in DRAWN:
            assert mx.array_equal(
                loaded.bias, mx.array(DRAWN[f"{module}.bias"]).astype(mx.bfloat16)
            )
    assert mx.array_equal(
        weights.take("decoder.norm.weight"),
        mx.array(DRAWN["decoder.norm.weight"]).astype(mx.bfloat16),
    )


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_quantised_matrices_are_unpacked_to_the_values_that_products_read(tmp_path, bits):
    folder = write_quantised(tmp_path, "mlx-audio", fitting(bits), None)
    packed, unpacked = load(folder), load(folder, unpack=True)
    plan = read_checkpoint(read_contents(folder)).plan
    nbytes = sum(step.tensor.nbytes for step in plan.steps if step.target.endswith(".bias"))
    for module in MATRICES:
        want, found = packed.linear(module), unpacked.linear(module)
        assert isinstance(found, Dense)
        assert found.weight.dtype == mx.bfloat16
        assert mx.array_equal(found.weight, want.rows(mx.arange(len(want.weight)))), module
        nbytes += found.weight.nbytes
    rest = [name for name in DRAWN if not name.endswith(".bias") and name[:-7] not in MATRICES]
    assert plan.unpacked_nbytes == nbytes + sum(unpacked.take(name).nbytes for name in rest)


def test_settings_by_layer_are_checked_against_the_tensors(tmp_path):
    how = {"decoder.embed": (64, 8), "decoder.layers.0.gate": (32, 4)}
    said = {"group_size": 32, "bits": 4, "decoder.tok_embeddings": {"group_size": 64, "bits": 8}}
    weights = load(write_quantised(tmp_path, "mlx-audio", how, said))
    assert weights.linear("decoder.embed").bits == 8
    assert weights.linear("decoder.layers.0.gate").bits == 4
    assert mx.array_equal(
        weights.linear("decoder.layers.1.gate").weight,
        mx.array(DRAWN["decoder.layers.1.gate.weight"]).astype(mx.bfloat16),
    )
    lie = said | {"decoder.layers.0.feed_forward_w1": {"group_size": 32, "bits": 2}}
    with pytest.raises(WeightsMismatch, match=r"wrong: decoder\.layers\.0\.feed_forward_w1"):
        load(write_quantised(tmp_path, "mlx-audio", how, lie))


@pytest.mark.parametrize("part", ["weight", "scales", "biases"])
def test_a_quantised_matrix_needs_all_its_parts(tmp_path, part):
    tensors = quantised_tensors("mlx-audio", {"decoder.embed": (64, 4)})
    del tensors[f"decoder.tok_embeddings.{part}"]
    write_tiny(tmp_path)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    with pytest.raises(WeightsMismatch, match=r"decoder\.tok_embeddings"):
        load(tmp_path)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("layout", ["mlx-audio", "transformers"])
def test_quantising_on_loading_takes_all_large_matrices(tmp_path, layout, bits):
    write_tiny(tmp_path, layout, dtype="BF16")
    weights = load(tmp_path, quantize=bits)
    for module in MATRICES:
        loaded = weights.linear(module)
        direct = mx.array(DRAWN[f"{module}.weight"]).astype(mx.bfloat16)
        packed, scales, zeros = mx.quantize(direct, loaded.group_size, bits)
        assert loaded.bits == bits
        assert mx.array_equal(loaded.weight, packed), module
        assert mx.array_equal(loaded.scales, scales)
        assert mx.array_equal(loaded.zeros, zeros)
    others = {name: t for name, t in DRAWN.items() if name.rpartition(".")[0] not in MATRICES}
    assert any(".ada." in name for name in others)
    assert_same(weights, others)


def test_quantising_on_loading_leaves_alone_what_is_quantised(tmp_path):
    how = {"decoder.layers.0.gate": (32, 6)}
    weights = load(write_quantised(tmp_path, "mlx-audio", how, None), quantize=4)
    assert weights.linear("decoder.layers.0.gate").bits == 6
    assert weights.linear("decoder.layers.1.gate").bits == 4
    assert weights.linear("decoder.embed").bits == 4


def test_rows_that_make_no_groups_are_refused(tmp_path):
    write_tiny(tmp_path)
    plan = read_checkpoint(read_contents(tmp_path)).plan
    odd = replace(plan, matrices={"decoder.layers.0.q": 80})
    with pytest.raises(UnsupportedConfig, match=r"decoder\.layers\.0\.q has rows of 80"):
        load_weights(odd, quantize=4)
