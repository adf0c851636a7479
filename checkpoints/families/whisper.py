"""Whisper: what its sizes say about languages and translation."""

from __future__ import annotations

from .evidence import Evidence
from .family import Family, Shape, Traits
from .signs import architecture, every, keys, model_type

LANGUAGES = (
    "af", "am", "ar", "as", "az", "ba", "be", "bg", "bn", "bo", "br", "bs", "ca", "cs", "cy", "da",
    "de", "el", "en", "es", "et", "eu", "fa", "fi", "fo", "fr", "gl", "gu", "ha", "haw", "he", "hi",
    "hr", "ht", "hu", "hy", "id", "is", "it", "ja", "jv", "ka", "kk", "km", "kn", "ko", "la", "lb",
    "ln", "lo", "lt", "lv", "mg", "mi", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn",
    "no", "oc", "pa", "pl", "ps", "pt", "ro", "ru", "sa", "sd", "si", "sk", "sl", "sn", "so", "sq",
    "sr", "su", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl", "tr", "tt", "uk", "ur", "uz", "vi",
    "yi", "yo", "yue", "zh",
)  # fmt: skip
"""What a multilingual Whisper knows."""
_MULTILINGUAL_TOKENS = 51_865
"""English-only models have one token less."""


def _traits(evidence: Evidence, family: Family) -> Traits:
    """English-only models translate nothing; shortened decoders (turbo, distil) unlearned it."""
    tokens = _first(evidence, "vocab_size", "n_vocab") or _MULTILINGUAL_TOKENS
    heard = _first(evidence, "encoder_layers", "n_audio_layer") or 0
    written = _first(evidence, "decoder_layers", "n_text_layer") or 0
    multilingual = tokens >= _MULTILINGUAL_TOKENS
    lost = {"translate"} if not multilingual or written < heard else set()
    languages = LANGUAGES if multilingual else ("en",)
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
