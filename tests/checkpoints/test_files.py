import json

import pytest

from voxlive.checkpoints.contents import read_contents
from voxlive.checkpoints.files import find_files, select_files
from voxlive.errors import IncompleteCheckpoint

MISTRAL = ["params.json", "consolidated.safetensors", "tekken.json"]
HF = ["config.json", "model.safetensors", "processor_config.json", "tekken.json"]
SHARDS = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
REST = ["README.md", ".gitattributes", "LICENSE.txt", "original/model.safetensors", "a.gguf"]
SMALL = ["generation_config.json", "vocab.json", "merges.txt", "tokenizer.model", "am.mvn"]
SMALL += ["Qwen3-0.6B/tokenizer.json", "Qwen3-0.6B/vocab.json"]
FOREIGN = ["onnx/tokenizer.json", "model.onnx", "pytorch_model.bin", "flax_model.msgpack"]


def needed(names, mistral=True):
    return set(select_files(names, "x", mistral=mistral))


def test_of_two_layouts_side_by_side_one_is_selected():
    assert needed([*HF, *MISTRAL, *REST]) == set(MISTRAL)
    assert needed([*HF, *MISTRAL, *REST], mistral=False) == {*HF, "params.json"}
    assert needed([*HF, *REST]) == set(HF)
    assert needed([*MISTRAL, *REST], mistral=False) == set(MISTRAL)


def test_files_of_tokenizers_and_extractors_are_selected():
    names = ["config.json", "model.safetensors", *SMALL]
    assert needed([*names, *REST, *FOREIGN]) == set(names)


def test_a_numpy_archive_is_selected_without_safetensors():
    assert needed(["config.json", "weights.npz", *REST]) == {"config.json", "weights.npz"}
    names = ["config.json", "weights.npz", "model.safetensors"]
    assert needed(names) == {"config.json", "model.safetensors"}


def test_consolidated_weights_may_stand_beside_config_json():
    names = ["config.json", "consolidated.safetensors", "tekken.json"]
    assert needed(names) == needed(names, mistral=False) == set(names)


def test_shards_are_selected_with_their_index():
    index = "model.safetensors.index.json"
    names = ["config.json", "tekken.json", index, *SHARDS]
    assert needed([*names, *REST]) == set(names)
    both = [*names, *MISTRAL, "consolidated.safetensors.index.json"]
    assert needed(both) == {*MISTRAL, "consolidated.safetensors.index.json"}


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["params.json", "tekken.json"], "no *.safetensors"),
        (["consolidated.safetensors", "tekken.json"], "no config.json or params.json"),
        ([], "no config.json or params.json and no *.safetensors"),
        (["config.json", "tekken.json", *SHARDS[:2]], f"no {SHARDS[2]}"),
        (["config.json", "tekken.json", SHARDS[1]], f"no {SHARDS[0]} and no {SHARDS[2]}"),
    ],
)
def test_missing_files_are_named(names, missing):
    with pytest.raises(IncompleteCheckpoint) as refused:
        select_files(names, "some/where", mistral=True)
    assert refused.value.message == f"some/where has {missing}"


def fill(folder, names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x" * 10)
    return folder


def test_find_files_in_a_folder(tmp_path):
    files = find_files(read_contents(fill(tmp_path, [*HF, *MISTRAL])))
    assert files.config.name == "params.json"
    assert [path.name for path in files.weights] == ["consolidated.safetensors"]
    assert files.tekken == tmp_path / "tekken.json"
    assert files.extractor is None
    files = find_files(read_contents(fill(tmp_path / "hf", [*HF, "preprocessor_config.json"])))
    assert files.extractor.name == "preprocessor_config.json"


def test_weight_files_are_those_of_the_index(tmp_path):
    fill(tmp_path, ["config.json", "tekken.json", *SHARDS, "old.safetensors"])
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip("abc", SHARDS, strict=True))}))
    assert [path.name for path in find_files(read_contents(tmp_path)).weights] == SHARDS
    index.write_text(json.dumps({"weight_map": {"a": "elsewhere.safetensors"}}))
    with pytest.raises(IncompleteCheckpoint, match=r"no elsewhere\.safetensors"):
        find_files(read_contents(tmp_path))


def test_a_voxtral_without_its_tokenizer_is_refused(tmp_path):
    with pytest.raises(IncompleteCheckpoint, match=r"no tekken\.json"):
        find_files(read_contents(fill(tmp_path, MISTRAL[:2])))
