"""NVIDIA's models: Parakeet, Canary, Nemotron."""

from __future__ import annotations

from voxlive.checkpoints.families.family import (
    Evidence,
    ModelFamily,
    Shape,
    Traits,
    absent,
    all_of,
    file,
    keys,
    model_type,
    target,
)
from voxlive.checkpoints.languages import codes_of

_CLASSES = ("EncDecRNNTBPEModel", "EncDecHybridRNNTCTCBPEModel", "EncDecCTCModelBPE")
_EUROPE = (
    "bg", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hr", "hu", "it", "lt", "lv",
    "mt", "nl", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "uk",
)  # fmt: skip


def _prompted(evidence: Evidence, family: ModelFamily) -> Traits:
    listed = evidence.at("prompt.prompt_dictionary")
    languages = codes_of(listed) if isinstance(listed, dict) else ()
    return Traits(family.features, languages or None, family.sample_rate)


PARAKEET = ModelFamily(
    name="parakeet",
    title="Parakeet",
    features=frozenset({"words"}),
    shapes=(
        Shape("redux", (all_of(keys("ternary_modules"), model_type("parakeet_tdt")),)),
        Shape(
            "transformers",
            (model_type("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt"),),
            refused="mlx-audio loads Parakeet in NVIDIA's NeMo form alone: take a converted "
            "checkpoint, such as mlx-community/parakeet-tdt-0.6b-v3",
        ),
        Shape(
            "nemo",
            (
                all_of(target(*_CLASSES), absent("model_type")),
                all_of(target(*_CLASSES), model_type("parakeet")),
            ),
        ),
    ),
)

CANARY = ModelFamily(
    name="canary",
    title="Canary",
    features=frozenset({"translate"}),
    languages=_EUROPE,
    tokenizers=(("tokenizer.model",), ("tokens.txt",), ("config.json:tokenizer.model_base64",)),
    shapes=(
        Shape("mlx", (all_of(model_type("canary"), keys("encoder")),)),
        Shape("nemo", (all_of(keys("preprocessor", "encoder", "transf_decoder")),)),
        Shape("nemo", (target("EncDecMultiTaskModel"),)),
    ),
)

NEMOTRON = ModelFamily(
    name="nemotron_asr",
    title="Nemotron ASR",
    features=frozenset({"words"}),
    traits=_prompted,
    shapes=(
        Shape("mlx", (model_type("nemotron_asr"), target("EncDecRNNTBPEModelWithPrompt"))),
        Shape(
            "transformers",
            (all_of(model_type("nemotron_asr_streaming"), file("tokenizer.json")),),
        ),
        Shape(
            "transformers",
            (model_type("nemotron_asr_streaming", "nemotron3_5_asr"),),
            refused="mlx-audio needs its tokenizer.json and processor_config.json, or a checkpoint "
            "converted for it",
        ),
    ),
)
