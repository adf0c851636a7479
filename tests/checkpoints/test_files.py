import json

import pytest

from voxlive.checkpoints.errors import IncompleteCheckpoint
from voxlive.checkpoints.files import find_files, wanted

MISTRAL = ["params.json", "consolidated.safetensors", "tekken.json"]
HF = ["config.json", "model.safetensors", "processor_config.json", "tekken.json"]
SHARDS = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
REST = ["README.md", ".gitattributes", "generation_config.json", "original/model.safetensors"]


def test_of_two_layouts_side_by_side_only_mistrals_is_wanted():
    assert set(wanted([*HF, *MISTRAL, *REST], "x")) == set(MISTRAL)
    assert set(wanted([*HF, *REST], "x")) == set(HF)


def test_consolidated_weights_may_stand_beside_config_json():
    names = ["config.json", "consolidated.safetensors", "tekken.json"]
    assert set(wanted(names, "x")) == set(names)


def test_shards_are_wanted_with_their_index_alone():
    index = "model.safetensors.index.json"
    names = ["config.json", "tekken.json", index, *SHARDS]
    assert set(wanted([*names, *REST], "x")) == set(names)
    both = [*names, *MISTRAL, "consolidated.safetensors.index.json"]
    assert set(wanted(both, "x")) == {*MISTRAL, "consolidated.safetensors.index.json"}


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["params.json", "tekken.json"], "no *.safetensors"),
        (["params.json", "consolidated.safetensors"], "no tekken.json"),
        (["consolidated.safetensors", "tekken.json"], "no config.json or params.json"),
        ([], "no config.json or params.json and no *.safetensors and no tekken.json"),
        (["config.json", "tekken.json", *SHARDS[:2]], f"no {SHARDS[2]}"),
        (["config.json", "tekken.json", SHARDS[1]], f"no {SHARDS[0]} and no {SHARDS[2]}"),
    ],
)
def test_what_is_missing_is_named(names, missing):
    with pytest.raises(IncompleteCheckpoint) as refused:
        wanted(names, "some/where")
    assert refused.value.message == f"some/where has {missing}"


def fill(folder, names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x" * 10)
    return folder


def test_a_folder_gives_its_files(tmp_path):
    files = find_files(fill(tmp_path, [*HF, *MISTRAL]))
    assert files.config.name == "params.json"
    assert [path.name for path in files.weights] == ["consolidated.safetensors"]
    assert files.tekken == tmp_path / "tekken.json"
    assert files.extractor is None
    files = find_files(fill(tmp_path / "hf", [*HF, "preprocessor_config.json"]))
    assert files.extractor.name == "preprocessor_config.json"


def test_an_index_says_which_weights_belong(tmp_path):
    fill(tmp_path, ["config.json", "tekken.json", *SHARDS, "old.safetensors"])
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip("abc", SHARDS, strict=True))}))
    assert [path.name for path in find_files(tmp_path).weights] == SHARDS
    index.write_text(json.dumps({"weight_map": {"a": "elsewhere.safetensors"}}))
    with pytest.raises(IncompleteCheckpoint, match=r"no elsewhere\.safetensors"):
        find_files(tmp_path)
