import pickle
import sys
from collections import Counter
from pathlib import Path

import numpy as np
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
from voxlive.checkpoints.contents import read_contents
from voxlive.checkpoints.files import find_files
from voxlive.checkpoints.local_model import (
    probe_model_capabilities,
    read_checkpoint,
    read_model,
)
from voxlive.checkpoints.resolve import resolve
from voxlive.engines import load_engine
from voxlive.engines.contract import EngineOptions
from voxlive.engines.remote.host import ProcessEngine
from voxlive.errors import DamagedFile, IncompleteCheckpoint, WeightsMismatch, WrongTokenizer
from voxlive.runners.catalogue import make_catalogue


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_is_recognised_by_its_content(tmp_path, layout, shards):
    folder = write_tiny(tmp_path / "whisper-large", layout, shards=shards)
    contents = read_contents(folder)
    found = probe_model_capabilities(contents)
    assert (found.family.name, found.layout, found.bits) == ("voxtral_realtime", layout, None)
    assert "live" in found.features
    files = find_files(contents)
    assert (len(files.weights) > 1) == (shards == 2)
    checkpoint = read_checkpoint(contents)
    assert checkpoint.config == TINY
    assert checkpoint.tekken.streaming_pad == 32
    assert checkpoint.plan.nbytes == sum(tensor.nbytes for tensor in random_weights().values())


def test_config_and_tensors_may_come_from_different_converters(tmp_path):
    write_tiny(tmp_path, "mlx-audio")
    write_json(tmp_path / "config.json", transformers_config(TINY))
    assert read_checkpoint(read_contents(tmp_path)).config == TINY
    write_tiny(tmp_path / "b", "mistral")
    write_json(tmp_path / "b" / "config.json", mlx_audio_config(TINY))
    (tmp_path / "b" / "params.json").unlink()
    assert read_checkpoint(read_contents(tmp_path / "b")).config == TINY


def test_a_file_that_was_cut_off_is_named(tmp_path):
    write_tiny(tmp_path, shards=2)
    path = tmp_path / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=r"model-00002-of-00002\.safetensors is cut short"):
        read_checkpoint(read_contents(tmp_path))


def test_a_config_that_is_no_json_is_named(tmp_path):
    write_tiny(tmp_path)
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(DamagedFile, match=r"config\.json is not a JSON document"):
        read_checkpoint(read_contents(tmp_path))


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    write_tiny(tmp_path)
    norm = {"decoder.norm.weight": random_weights()["decoder.norm.weight"]}
    write_safetensors(tmp_path / "more.safetensors", norm)
    with pytest.raises(WeightsMismatch, match=r"decoder\.norm\.weight stands in .* and in"):
        read_checkpoint(read_contents(tmp_path))


def test_another_models_weights_are_refused(tmp_path):
    write_tiny(tmp_path)
    write_safetensors(
        tmp_path / "model.safetensors", {"a.b": random_weights()["encoder.norm.weight"]}
    )
    with pytest.raises(WeightsMismatch, match=r"no tensors of a Voxtral Realtime model: a\.b"):
        read_checkpoint(read_contents(tmp_path))


def test_weights_without_a_single_tensor_are_refused(tmp_path):
    write_tiny(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {})
    with pytest.raises(WeightsMismatch, match="none at all"):
        read_checkpoint(read_contents(tmp_path))


def test_another_models_tokenizer_is_refused(tmp_path):
    write_tiny(tmp_path)
    config = tekken_document()["config"] | {"default_vocab_size": 400}
    write_tekken(tmp_path, config=config)
    with pytest.raises(WrongTokenizer, match="400 tokens, the model 512"):
        read_checkpoint(read_contents(tmp_path))


def test_an_unusable_dtype_is_refused(tmp_path):
    write_tiny(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"dtype": "F32"', b'"dtype": "I32"', 1))
    with pytest.raises(WeightsMismatch, match="is I32, should be F32/BF16/F16"):
        read_checkpoint(read_contents(tmp_path))


class Opened:
    """Counts the files of a folder that this process opens; an audit hook cannot be taken away."""

    def __init__(self):
        self.folder: Path | None = None
        self.names = Counter()
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if event == "open" and self.folder and isinstance(arguments[0], str | Path):
            path = Path(arguments[0])
            if path.parent == self.folder:
                self.names[path.name] += 1


OPENED = Opened()


@pytest.fixture
def opened():
    OPENED.names.clear()
    yield OPENED
    OPENED.folder = None


def spoil(folder):
    """Whatever is read once more is no longer there to be read, but for what is loaded."""
    for path in folder.iterdir():
        if path.suffix == ".json" and path.name != "tekken.json":
            path.write_text("read twice")


def test_every_document_and_header_is_read_once_from_the_name_to_the_engine(tmp_path, opened):
    opened.folder = write_tiny(tmp_path, shards=2)
    model = resolve(str(tmp_path))
    catalogue = make_catalogue(model, [f"again={tmp_path}"])
    assert [catalogue.find(name).family for name in (None, "again")] == ["voxtral_realtime"] * 2
    assert all(card.inspection.health.healthy for card in catalogue.cards())
    read = read_checkpoint(model.read())
    assert read.config == TINY
    written = {path.name for path in tmp_path.iterdir()}
    assert {name: opened.names[name] for name in written} == dict.fromkeys(written, 1)
    spoil(tmp_path)
    engine = load_engine(model, EngineOptions(max_sessions=1, device="cpu"))
    engine.shutdown()


def test_an_engines_process_reads_nothing_again(tmp_path):
    model = read_model(write_tiny(tmp_path))
    spoil(tmp_path)
    engine = ProcessEngine.start(model, EngineOptions(max_sessions=1, device="cpu"))
    try:
        assert engine.check(60) is None
    finally:
        engine.shutdown()


def test_a_model_is_the_same_in_another_process(tmp_path):
    for model in (read_model(write_tiny(tmp_path / "m")), resolve("whisper-tiny.en")):
        there = pickle.loads(pickle.dumps(model))
        assert (there, hash(there)) == (model, hash(model))
        assert there.capabilities == model.capabilities
        assert there.family is model.family
        assert there.contents == model.contents


def test_an_unreadable_model_is_refused_when_it_is_loaded(tmp_path):
    write_tiny(tmp_path)
    (tmp_path / "config.json").write_text("<html>")
    model = resolve(str(tmp_path))
    assert [problem.remedy for problem in model.problems] == ["fetch it again"]
    with pytest.raises(DamagedFile, match=r"config\.json is not a JSON document"):
        load_engine(model, EngineOptions())


def test_weights_that_change_after_they_were_read_are_refused_and_no_crash(tmp_path):
    model = read_model(write_tiny(tmp_path))
    write_safetensors(tmp_path / "model.safetensors", {"other": np.zeros(2, np.float32)})
    with pytest.raises(WeightsMismatch, match="is not what it was"):
        load_engine(model, EngineOptions(max_sessions=1, device="cpu"))
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(DamagedFile, match="cannot be opened any more"):
        load_engine(model, EngineOptions(max_sessions=1, device="cpu"))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(IncompleteCheckpoint, match=r"model\.safetensors is there no more"):
        load_engine(model, EngineOptions(max_sessions=1, device="cpu"))
    (tmp_path / "tekken.json").unlink()
    with pytest.raises(IncompleteCheckpoint, match=r"tekken\.json is there no more"):
        load_engine(model, EngineOptions(max_sessions=1, device="cpu"))
