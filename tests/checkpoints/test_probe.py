import pytest
from support.tiny_checkpoint import tekken_document, write_tekken, write_tiny

from training.golden.layouts import (
    LAYOUTS,
    mlx_audio_config,
    transformers_config,
    write_json,
    write_safetensors,
)
from training.golden.weights import TINY, random_weights
from voxlive.checkpoints.files import find_files
from voxlive.checkpoints.probe import probe_model_capabilities, read_checkpoint
from voxlive.errors import DamagedFile, WeightsMismatch, WrongTokenizer


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_is_told_by_its_content(tmp_path, layout, shards):
    folder = write_tiny(tmp_path / "whisper-large", layout, shards=shards)
    found = probe_model_capabilities(folder)
    assert (found.family.name, found.layout, found.bits) == ("voxtral_realtime", layout, None)
    assert "live" in found.features
    files = find_files(folder)
    assert (len(files.weights) > 1) == (shards == 2)
    checkpoint = read_checkpoint(files)
    assert checkpoint.config == TINY
    assert checkpoint.tekken.streaming_pad == 32
    assert checkpoint.plan.nbytes == sum(tensor.nbytes for tensor in random_weights().values())


def test_config_and_tensors_may_come_from_different_converters(tmp_path):
    write_tiny(tmp_path, "mlx-audio")
    write_json(tmp_path / "config.json", transformers_config(TINY))
    assert read_checkpoint(find_files(tmp_path)).config == TINY
    write_tiny(tmp_path / "b", "mistral")
    write_json(tmp_path / "b" / "config.json", mlx_audio_config(TINY))
    (tmp_path / "b" / "params.json").unlink()
    assert read_checkpoint(find_files(tmp_path / "b")).config == TINY


def test_a_file_that_was_cut_off_is_named(tmp_path):
    write_tiny(tmp_path, shards=2)
    path = tmp_path / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=r"model-00002-of-00002\.safetensors is cut short"):
        read_checkpoint(find_files(tmp_path))


def test_a_config_that_is_no_json_is_named(tmp_path):
    write_tiny(tmp_path)
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(DamagedFile, match=r"config\.json is not a JSON document"):
        read_checkpoint(find_files(tmp_path))


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    write_tiny(tmp_path)
    norm = {"decoder.norm.weight": random_weights()["decoder.norm.weight"]}
    write_safetensors(tmp_path / "more.safetensors", norm)
    with pytest.raises(WeightsMismatch, match=r"decoder\.norm\.weight stands in .* and in"):
        read_checkpoint(find_files(tmp_path))


def test_another_models_weights_are_refused(tmp_path):
    write_tiny(tmp_path)
    write_safetensors(
        tmp_path / "model.safetensors", {"a.b": random_weights()["encoder.norm.weight"]}
    )
    with pytest.raises(WeightsMismatch, match=r"no tensors of a Voxtral Realtime model: a\.b"):
        read_checkpoint(find_files(tmp_path))


def test_weights_without_a_single_tensor_are_refused(tmp_path):
    write_tiny(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {})
    with pytest.raises(WeightsMismatch, match="none at all"):
        read_checkpoint(find_files(tmp_path))


def test_another_models_tokenizer_is_refused(tmp_path):
    write_tiny(tmp_path)
    config = tekken_document()["config"] | {"default_vocab_size": 400}
    write_tekken(tmp_path, config=config)
    with pytest.raises(WrongTokenizer, match="400 tokens, the model 512"):
        read_checkpoint(find_files(tmp_path))


def test_an_unusable_dtype_is_refused(tmp_path):
    write_tiny(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"dtype": "F32"', b'"dtype": "I32"', 1))
    with pytest.raises(WeightsMismatch, match="is I32, should be F32/BF16/F16"):
        read_checkpoint(find_files(tmp_path))
