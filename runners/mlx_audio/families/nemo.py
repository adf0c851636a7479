"""NVIDIA's NeMo models: transducers and CTC, whose tokens have times, and Canary."""

from __future__ import annotations

from collections.abc import Mapping

from ....checkpoints.languages import by_code
from ...cutting import CutOptions
from .. import outputs
from ..family import Arguments, Ask, Family, Languages, Model, Tokens

# Full attention over a stretch: its cost grows with the square of this.
_MINUTES = CutOptions(longest_s=120)


def _prompts(model: Model) -> Mapping[str, str]:
    """A model that is prompted with the language has a key for each, some for a region's."""
    return by_code(sorted(model.prompt_dictionary))


def _canary_languages(model: Model) -> Mapping[str, str]:
    known = model._tokenizer.token2id
    return by_code(code for code in model.config.supported_languages if f"<|{code}|>" in known)


def _into_english(arguments: Arguments, ask: Ask) -> Arguments:
    return arguments | {"target_lang": "en"} if ask.job.task == "translate" else arguments


def _can(_model: Model) -> None:
    return None


PARAKEET = Family("parakeet", _MINUTES, outputs.aligned, words=True)
PHONON2 = Family("phonon2", _MINUTES, outputs.aligned, words=True)
NEMOTRON = Family(
    "nemotron_asr",
    _MINUTES,
    outputs.aligned,
    languages=Languages(_prompts, ("language",)),
    words=True,
)
CANARY = Family(
    "canary",
    CutOptions(longest_s=30),
    outputs.whole,
    languages=Languages(_canary_languages, ("source_lang", "target_lang"), needed=True),
    tokens=Tokens(most=1000),  # of the 1024 places of its decoder
    temperature="temperature",
    adapt=_into_english,
    no_translation=_can,
)
