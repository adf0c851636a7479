"""Qwen3-ASR and what is made of it: told the language by its English name, a prompt as context."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ....checkpoints.languages import NAMES, by_code
from ...cutting import CutOptions
from .. import outputs
from ..family import Family, Languages, Model, Tokens


def _names(model: Model) -> Mapping[str, str]:
    listed = by_code(model.config.support_languages or ())
    return listed or {code: name.title() for code, name in NAMES.items()}


def _prepare(model: Model, _folder: Path) -> None:
    """A text without its language stays without: mlx-audio would say that it is English."""
    asr = next((own for name in ("_asr", "_model") if (own := vars(model).get(name))), model)
    asr = vars(asr).get("_model", asr)
    object.__setattr__(asr, "extract_language", _extract_language)


def _extract_language(text: str) -> tuple[str | None, str]:
    """``language English<asr_text>Hello`` as the language's name and the text."""
    head, mark, said = text.partition("<asr_text>")
    if mark and head.startswith("language "):
        return head.removeprefix("language ").strip(), said
    return None, text


QWEN3_ASR = Family(
    "qwen3_asr",
    CutOptions(longest_s=120),
    outputs.whole,
    languages=Languages(_names, ("language",)),
    tokens=Tokens(),
    prompt="system_prompt",
    temperature="temperature",
    prepare=_prepare,
)
