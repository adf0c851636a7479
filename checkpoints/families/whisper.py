"""Whisper: what its sizes say about languages and translation."""

from __future__ import annotations

from ..languages import WHISPER
from .evidence import Evidence
from .family import Family, Shape, Traits
from .signs import architecture, every, keys, model_type

_MULTILINGUAL_TOKENS = 51_865
"""English-only models have one token less."""


def _traits(evidence: Evidence, family: Family) -> Traits:
    """English-only models translate nothing; shortened decoders (turbo, distil) unlearned it."""
    tokens = _first(evidence, "vocab_size", "n_vocab") or _MULTILINGUAL_TOKENS
    heard = _first(evidence, "encoder_layers", "n_audio_layer") or 0
    written = _first(evidence, "decoder_layers", "n_text_layer") or 0
    multilingual = tokens >= _MULTILINGUAL_TOKENS
    lost = {"translate"} if not multilingual or written < heard else set()
    languages = WHISPER if multilingual else ("en",)
    return Traits(family.features - lost, languages, family.sample_rate)


def _first(evidence: Evidence, *paths: str) -> int | None:
    values = (evidence.at(path) for path in paths)
    return next((value for value in values if isinstance(value, int)), None)


WHISPER_FAMILY = Family(
    name="whisper",
    title="Whisper",
    features=frozenset({"translate", "words", "prompt"}),
    tokenizers=(("tokenizer.json",), ("vocab.json", "merges.txt")),
    traits=_traits,
    shapes=(
        Shape("mlx", (keys("n_mels", "n_audio_state", "n_text_layer"),)),
        Shape(
            "transformers",
            (
                every(model_type("whisper"), keys("d_model")),
                architecture("WhisperForConditionalGeneration"),
            ),
        ),
    ),
)
