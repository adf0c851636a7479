"""Layouts are recognised by the names of their tensors, older spellings included."""

import numpy as np
import pytest
from support.tiny_checkpoint import plan, tensors_of

from training.golden.weights import TINY, shapes
from voxlive.checkpoints.families.voxtral import LAYOUTS, recognise_layout
from voxlive.errors import WeightsMismatch


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
