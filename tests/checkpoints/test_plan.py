import numpy as np
import pytest
from support.tiny_checkpoint import PLAIN, plan, tensors_of

from training.golden.weights import TINY, shapes
from voxlive.checkpoints.config import Section
from voxlive.checkpoints.plan import Quantisation, read_quantisation
from voxlive.errors import UnsupportedConfig, WeightsMismatch


def refusal(tmp_path, tensors, **how):
    with pytest.raises(WeightsMismatch) as refused:
        plan(tmp_path, tensors, **how)
    return refused.value.message


def read(quantisation, key="quantization"):
    return read_quantisation(Section({key: quantisation}, "config.json"))


def test_missing_unknown_and_misshaped_tensors_are_all_named(tmp_path):
    tensors = tensors_of("mlx-audio")
    del tensors["decoder.layers.2.attention.wk.weight"]
    del tensors["encoder.conv_layers_0_conv.conv.bias"]
    tensors["decoder.layers.4.attention.wk.weight"] = np.zeros((64, 128), np.float32)
    tensors["encoder.transformer_layers.0.attention.wk.bias"] = np.zeros(96, np.float32)
    tensors["decoder.norm.weight"] = np.zeros(64, np.float32)
    message = refusal(tmp_path, tensors)
    missing, unknown, wrong = message.split("; ")
    assert missing.endswith(
        "missing: decoder.layers.2.attention.wk.weight, encoder.conv_layers_0_conv.conv.bias"
    )
    assert unknown == (
        "unknown: decoder.layers.4.attention.wk.weight, "
        "encoder.transformer_layers.0.attention.wk.bias"
    )
    assert wrong == "wrong: decoder.norm.weight (is (64,), should be (128,))"


@pytest.mark.parametrize("layout", ["mlx-audio", "voxmlx", "mistral", "transformers"])
def test_tensors_of_a_fine_tunes_own_are_surplus_and_no_error(tmp_path, layout):
    own = {
        "ctc_head.weight": np.zeros((4, 4), np.float32),
        "decoder.speaker.embedding": np.zeros(4, np.float32),
    }
    made = plan(tmp_path, tensors_of(layout) | own)
    assert set(made.surplus) == own.keys()
    assert {step.target for step in made.steps} == shapes(TINY).keys()
    assert plan(tmp_path, tensors_of(layout)).surplus == ()


def test_a_long_list_is_cut(tmp_path):
    tensors = tensors_of("voxmlx")
    unmatched = {name: data for name, data in tensors.items() if "language_model" not in name}
    message = refusal(tmp_path, unmatched)
    assert len(message) < 1000
    assert "and 38 more" in message


@pytest.mark.parametrize("layout", ["mistral", "transformers"])
def test_mlx_kernels_under_torch_names_are_misshaped(tmp_path, layout):
    tensors = tensors_of(layout)
    name = next(name for name in tensors if "conv" in name and tensors[name].ndim == 3)
    tensors[name] = tensors[name].swapaxes(1, 2)
    assert f"{name} (is (64, 3, 128), should be (64, 128, 3))" in refusal(tmp_path, tensors)


@pytest.mark.parametrize(
    ("layout", "head"),
    [
        ("mistral", "output.weight"),
        ("transformers", "lm_head.weight"),
        ("transformers", "language_model.lm_head.weight"),
    ],
)
def test_a_second_embedding_must_be_the_same(tmp_path, layout, head):
    tensors = tensors_of(layout)
    embedding = next(data for data in tensors.values() if data.shape == (512, 128))
    made = plan(tmp_path, tensors | {head: embedding})
    assert {step.target for step in made.steps} == shapes(TINY).keys()
    other = embedding.copy()
    other[-1, -1] += 1
    assert f"wrong: {head} (differs from" in refusal(tmp_path, tensors | {head: other})
    assert f"wrong: {head} (differs from" in refusal(tmp_path, tensors | {head: other[:-1]})


def test_a_tensor_under_two_names_is_refused(tmp_path):
    tensors = tensors_of("transformers")
    twice = {"audio_tower.norm.weight": tensors["model.audio_tower.norm.weight"]}
    assert "twice under an old and a new name" in refusal(tmp_path, tensors | twice)


def test_layers_beyond_the_config_are_unknown(tmp_path):
    tensors = tensors_of("mistral")
    extra = {
        name.replace("layers.3.", "layers.4."): data
        for name, data in tensors.items()
        if name.startswith("layers.3.")
    }
    assert "unknown: layers.4.ada_rms_norm_t_cond.0.weight" in refusal(tmp_path, tensors | extra)


def test_quantisation_may_differ_by_module():
    declared = read({"group_size": 64, "bits": 4, "a.b": {"group_size": 32, "bits": 6}, "c": False})
    assert declared.of("a.b") == Quantisation(32, 6)
    assert declared.of("x") == Quantisation(64, 4)
    assert read({"group_size": 64, "bits": 4}, "quantization_config").of("x") == Quantisation(64, 4)
    assert PLAIN.of("x") is None


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"group_size": 64, "bits": 7}, "7 bits in groups of 64"),
        ({"group_size": 48, "bits": 4}, "4 bits in groups of 48"),
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, 'mode is "mxfp4"'),
        ({"group_size": 64}, "bits is missing"),
        ({"quant_method": "bitsandbytes"}, 'quant_method is "bitsandbytes"'),
        ({"group_size": 64, "bits": 4, "a": {"bits": 4}}, "quantization.a.group_size is missing"),
        ("4bit", "quantization must be an object"),
    ],
)
def test_unknown_quantisation_is_refused_by_its_key(declared, message):
    with pytest.raises(UnsupportedConfig) as refused:
        read(declared)
    assert message in refused.value.message
