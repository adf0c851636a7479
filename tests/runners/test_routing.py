"""From the files of a checkpoint to its backend, and what prevents loading it."""

import json
import shutil
import sys
import zipfile
from dataclasses import replace
from subprocess import run

import pytest
from support.model_shapes import (
    HF,
    SHAPES,
    Saved,
    mlx_whisper,
    write_shape,
    write_tensors,
)

from voxlive.checkpoints.contents import read_contents
from voxlive.checkpoints.families import FAMILIES
from voxlive.checkpoints.local_model import probe_model_capabilities, read_model
from voxlive.engines import load_engine
from voxlive.engines.contract import EngineOptions
from voxlive.errors import DamagedFile, EngineError, IncompleteCheckpoint, RequestRefused
from voxlive.recognisers.mlx_audio.families import FAMILIES as RUN
from voxlive.recognisers.mlx_audio.families import NOT_FOR_FILES
from voxlive.runners.catalogue import inspect_model
from voxlive.runners.refusals import Allowed, select_backend_policy
from voxlive.runners.routing import Package, detect_audio_backend, find_installed

VLM = Package("0.7.10", frozenset({"gemma3n", "gemma4", "qwen3_omni_moe"}))
EVERYTHING = replace(find_installed(), mlx_vlm=VLM, modules=frozenset({"torch", "mistral_common"}))
CASES = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.id)


def decide(folder, requirements=None, installed=EVERYTHING, load=None):
    found = inspect_model(read_model(folder), installed)
    return select_backend_policy(
        "some/model", found.model, found.routing, found.health, requirements, load
    )


def _unhealthy(folder, *says):
    found = inspect_model(read_model(folder), EVERYTHING)
    assert not found.health.healthy
    outcome = decide(folder)
    assert isinstance(outcome, RequestRefused)
    assert (outcome.status, outcome.code) == (503, "model_unhealthy")
    for one in says:
        assert one in outcome.message


@CASES
def test_real_configs_are_recognised_routed_and_checked(tmp_path, shape):
    folder = write_shape(tmp_path / "model", shape)
    found = probe_model_capabilities(read_contents(folder))
    routed = detect_audio_backend(found)
    assert (found.family.name if found.family else None) == shape.family
    assert routed.backend == shape.backend
    assert routed.tie_break is None
    assert shape.layout in (None, found.layout)
    assert shape.features is None or found.features == set(shape.features)
    assert bool(found.signals) == (shape.family is not None)
    outcome = decide(folder)
    if shape.code is None:
        assert isinstance(outcome, Allowed), outcome
        assert (outcome.spec.backend, outcome.spec.family) == (shape.backend, shape.family)
        assert outcome.spec.local.folder == folder
        assert outcome.spec.needed_bytes > found.weights_bytes
    else:
        assert isinstance(outcome, RequestRefused)
        assert outcome.code == shape.code


@pytest.mark.parametrize("shape", [one for one in SHAPES if one.family], ids=lambda shape: shape.id)
@pytest.mark.parametrize("name", ["canary-vs-whisper", "glm-whisper-mms-moonshine", "0a1b2c3d" * 5])
def test_a_folders_name_changes_nothing_for_a_known_family(tmp_path, shape, name):
    found = probe_model_capabilities(read_contents(write_shape(tmp_path / name, shape)))
    assert found.family.name == shape.family
    assert detect_audio_backend(found).backend == shape.backend


def test_there_are_many_shapes_and_every_family_has_one():
    assert len(SHAPES) >= 40
    assert {shape.family for shape in SHAPES} >= FAMILIES.keys() - {
        "mega_asr", "ming_v3_asr", "higgs_audio_3", "phonon2",
    }  # fmt: skip


def test_a_snapshots_name_is_its_repositorys(tmp_path):
    home = tmp_path / "models--openai--whisper-tiny" / "snapshots" / ("0123abcd" * 5)
    found = probe_model_capabilities(read_contents(write_shape(home, SHAPES[0])))
    assert found.name == "openai/whisper-tiny"
    assert found.family.name == "whisper"


def test_a_misleading_name_is_a_warning(tmp_path):
    found = probe_model_capabilities(
        read_contents(write_shape(tmp_path / "parakeet-best", SHAPES[0]))
    )
    assert found.warnings == ("its name mentions parakeet, but its files are those of Whisper",)


def test_a_name_breaks_a_tie(tmp_path):
    """A conversion whose config has lost its type is loaded as what its name says, strictly."""
    shape = Saved("x", {"audio_config": {"d": 1}}, None, None, files=HF)
    known = write_shape(tmp_path / "my-moonshine", shape)
    routed = detect_audio_backend(probe_model_capabilities(read_contents(known)))
    assert (routed.backend, routed.rule, routed.family.name) == ("mlx_audio", "name", "moonshine")
    assert "mentions Moonshine" in routed.tie_break
    outcome = decide(known)
    assert isinstance(outcome, Allowed)
    assert outcome.spec.family == "moonshine"
    assert routed.tie_break in outcome.notes
    both = write_shape(tmp_path / "moonshine-canary", shape)
    assert detect_audio_backend(probe_model_capabilities(read_contents(both))).rule == "audio alone"


def test_a_populated_vision_config_comes_before_a_name(tmp_path):
    config = {"audio_config": {"d": 1}, "vision_config": {"d": 1}, "model_type": "new"}
    folder = write_shape(tmp_path / "whisper-eyes", Saved("x", config, None, None))
    assert (
        detect_audio_backend(probe_model_capabilities(read_contents(folder))).backend == "mlx_vlm"
    )
    config["vision_config"] = {}
    folder = write_shape(tmp_path / "whisper-eyes", Saved("x", config, None, None))
    assert (
        detect_audio_backend(probe_model_capabilities(read_contents(folder))).backend == "mlx_audio"
    )


@pytest.mark.parametrize(
    ("document", "says"),
    [("<html>", "not a JSON document"), ("[1]", "no JSON object"), ("{" * 5000, "not a JSON")],
)
def test_a_malformed_config_is_a_damaged_model(tmp_path, document, says):
    folder = write_shape(tmp_path / "m", Saved("x", None, None, None, files=HF))
    (folder / "config.json").write_text(document)
    with pytest.raises(DamagedFile, match=says):
        probe_model_capabilities(read_contents(folder))
    outcome = decide(folder)
    assert isinstance(outcome, RequestRefused)
    assert says in outcome.message


def test_a_huge_config_is_not_read(tmp_path):
    folder = write_shape(tmp_path / "m", SHAPES[0])
    with (folder / "config.json").open("r+b") as file:
        file.truncate(40 << 20)
    with pytest.raises(DamagedFile, match="larger than 32 MiB"):
        probe_model_capabilities(read_contents(folder))


@pytest.mark.parametrize("value", [[], 7, "x", {"model_type": [1]}, None])
def test_values_of_a_wrong_kind_recognise_no_family(tmp_path, value):
    config = dict.fromkeys(("model_type", "architectures", "target", "thinker_config"), value)
    config |= dict.fromkeys(("quantization", "audio_config", "vocab_size", "prompt"), value)
    found = probe_model_capabilities(
        read_contents(write_shape(tmp_path / "m", Saved("x", config, None, None)))
    )
    assert found.family is None


def test_half_downloaded_shards_are_named(tmp_path):
    folder = write_shape(tmp_path / "m", SHAPES[0])
    (folder / "model.safetensors").unlink()
    for n in (1, 3):
        write_tensors(folder / f"model-0000{n}-of-00003.safetensors", {f"a{n}": [1]})
    _unhealthy(folder, "no model-00002-of-00003.safetensors", "voxlive models pull")
    write_tensors(folder / "model-00002-of-00003.safetensors", {"a2": [1]})
    assert inspect_model(read_model(folder), EVERYTHING).health.healthy
    index = {"weight_map": {"a": "model-00001-of-00003.safetensors", "b": "other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _unhealthy(folder, "no other.safetensors")


def test_an_incomplete_download_differs_from_a_lost_file(tmp_path):
    home = tmp_path / "models--openai--whisper-tiny"
    folder = write_shape(home / "snapshots" / "abc", SHAPES[0])
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.symlink_to(home / "blobs" / "0123")
    _unhealthy(folder, "model.safetensors", "lead nowhere")
    weights.unlink()
    (home / "blobs").mkdir()
    (home / "blobs" / "0123.incomplete").touch()
    _unhealthy(folder, "stopped half way")


def test_a_cut_header_is_found_without_reading_weights(tmp_path):
    folder = write_shape(tmp_path / "m", SHAPES[0])
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    _unhealthy(folder, "is cut short")
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    _unhealthy(folder, "Git LFS pointer")


def test_weights_in_other_formats_are_not_weights(tmp_path):
    folder = write_shape(tmp_path / "m", SHAPES[0])
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    _unhealthy(folder, "only as pytorch_model.bin", "safetensors")
    (folder / "pytorch_model.bin").unlink()
    _unhealthy(folder, "has no *.safetensors")


def test_a_numpy_archive_alone_is_fine_and_a_cut_one_is_not(tmp_path):
    folder = write_shape(
        tmp_path / "m", Saved("x", mlx_whisper(), "whisper", "mlx_audio", files=HF)
    )
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "weights.npz", "w") as archive:
        archive.writestr("encoder.conv1.weight.npy", b"x" * 100)
    assert isinstance(decide(folder), Allowed)
    whole = (folder / "weights.npz").read_bytes()
    (folder / "weights.npz").write_bytes(whole[:-30])
    _unhealthy(folder, "weights.npz is cut short")


def test_an_empty_folder_and_a_removed_one(tmp_path):
    assert decide(tmp_path).code == "model_unhealthy"
    folder = write_shape(tmp_path / "m", SHAPES[0])
    assert isinstance(decide(folder), Allowed)
    shutil.rmtree(folder)
    assert isinstance(decide(folder), RequestRefused)


@pytest.mark.parametrize("family", RUN)
def test_probe_and_runners_agree_on_features(family):
    probed, runs = FAMILIES[family], RUN[family]
    assert ("words" in probed.features) == runs.words
    assert ("speakers" in probed.features) == runs.speakers
    assert ("prompt" in probed.features) == bool(runs.prompt)
    assert probed.sample_rate == runs.rate


def test_every_family_is_run_or_refused():
    runnable = {
        name
        for name, family in FAMILIES.items()
        if family.kind in ("speech", "voxtral")
        and any(shape.refused is None for shape in family.shapes)
    }
    assert runnable - {"voxtral_realtime"} == RUN.keys()
    assert FAMILIES.keys() - runnable - {"gemma3n", "gemma4", "qwen3_omni_moe"} <= set(
        NOT_FOR_FILES
    )


def test_nothing_of_a_models_code_is_imported(tmp_path):
    folder = write_shape(tmp_path / "m", SHAPES[0])
    program = (
        "import sys; from pathlib import Path\n"
        "from voxlive.checkpoints.local_model import read_model\n"
        "from voxlive.runners.catalogue import Catalogue, CatalogueEntry\n"
        "Catalogue(CatalogueEntry('m', read_model(Path(sys.argv[1])))).find()\n"
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('mlx', 'mlx_audio', 'mlx_vlm', 'transformers', 'torch')])"
    )
    done = run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_live_sessions_refuse_a_model_that_is_for_files_alone(tmp_path):
    folder = write_shape(tmp_path / "canary", SHAPES[0])
    for name, why in (
        ("vibevoice", "VibeVoice-ASR model: it writes who speaks when"),
        ("gemma-3n", "Gemma 3n model: it is instructed in words"),
        ("qwen3-aligner", "puts times to a text"),
        ("glm-asr-hf", "take a converted checkpoint"),
        ("llama", "no speech model known here"),
    ):
        other = write_shape(tmp_path / name, next(one for one in SHAPES if one.id == name))
        with pytest.raises(EngineError, match=why) as refused:
            load_engine(read_model(other), EngineOptions())
        assert refused.value.code == "not_live"
        assert "Live sessions need Voxtral Realtime, or Whisper" in refused.value.message
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    with pytest.raises(IncompleteCheckpoint, match=r"no config\.json or params\.json"):
        load_engine(read_model(folder), EngineOptions())
