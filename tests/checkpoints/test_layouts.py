"""Layouts are recognised by the names of their tensors, older spellings included."""

import numpy as np
import pytest

from training.golden.layouts import source_tensors, write_safetensors
from training.golden.weights import TINY, random_weights, shapes
from voxlive.checkpoints.config import Section
from voxlive.checkpoints.layouts import LAYOUTS, recognise_layout
from voxlive.checkpoints.plan import make_plan, read_quantisation
from voxlive.checkpoints.safetensors import read_header
from voxlive.errors import WeightsMismatch

PLAIN = read_quantisation(Section({}, "config.json"))


def tensors_of(layout):
    return dict(source_tensors(layout, TINY, random_weights()))


def plan(tmp_path, tensors, dtype="F32", declared=PLAIN):
    write_safetensors(tmp_path / "model.safetensors", tensors, dtype)
    header = read_header(tmp_path / "model.safetensors")
    return make_plan(TINY, recognise_layout(header), header, declared)


@pytest.mark.parametrize("layout", [layout.name for layout in LAYOUTS])
def test_every_layout_is_recognised_and_complete(tmp_path, layout):
    tensors = tensors_of(layout)
    assert recognise_layout(tensors).name == layout
    made = plan(tmp_path, tensors, dtype="BF16")
    assert {step.target for step in made.steps} == shapes(TINY).keys()
    assert made.dtype == "BF16"
    assert made.nbytes == 2 * sum(map(np.size, tensors.values()))
    assert made.quantised == {}


@pytest.mark.parametrize(
    ("layout", "old", "new"),
    [
        ("mistral", "mm_streams_embeddings.embedding_module.", "mm_whisper_embeddings."),
        ("transformers", "model.", ""),
        ("transformers", "model.language_model.", "language_model.model."),
    ],
)
def test_older_spellings_of_a_layout(tmp_path, layout, old, new):
    renamed = {name.replace(old, new, 1): data for name, data in tensors_of(layout).items()}
    made = plan(tmp_path, renamed)
    assert {step.target for step in made.steps} == shapes(TINY).keys()


def test_tensors_of_another_model_are_refused():
    with pytest.raises(WeightsMismatch, match=r"no tensors of a Voxtral.*decoder\.positional"):
        recognise_layout(["decoder.positional_embedding", "encoder.blocks.0.attn.key.weight"])
