"""Whisper: windows of 30 s, so that a stretch is one window and no seam lies inside it.

Each stretch is read on its own: text carried over from window to window is what makes Whisper
repeat itself for minutes. The language that the first one is found to be in holds for the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from voxlive.checkpoints.languages import by_code
from voxlive.runners.cutting import CutOptions
from voxlive.runners.mlx_audio import outputs
from voxlive.runners.mlx_audio.family import (
    Arguments,
    FamilyAdapter,
    FamilyRequest,
    Languages,
    Model,
    Tokens,
)

# OpenAI's temperature 0: warmer where the text repeats itself or is improbable.
_LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_WINDOW_TOKENS = 224  # half its context; the other half is for the prompt


def _language_names(model: Model) -> Mapping[str, str]:
    from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES

    if not model.is_multilingual:
        return {"en": "en"}
    return by_code(list(LANGUAGES)[: model.num_languages])


def _translation_refusal(model: Model) -> str | None:
    """The turbo and distilled models, with fewer decoder layers, were not taught to translate."""
    if not model.is_multilingual:
        return "this Whisper knows only English: choose a multilingual one, such as large-v3"
    if model.dims.n_text_layer < model.dims.n_audio_layer:
        return "a turbo or distilled Whisper does not translate: choose one such as large-v3"
    return None


def _prepare(model: Model, _folder: Path) -> None:
    processor = model._processor
    if processor is None or "<|0.00|>" not in processor.tokenizer.get_vocab():
        raise ValueError(
            "the tokenizer's files are missing (vocab.json, merges.txt or tokenizer.json, and"
            " preprocessor_config.json): take them from the same size of openai's repositories"
        )


def _adapt(arguments: Arguments, request: FamilyRequest) -> Arguments:
    job = request.job
    arguments |= {"task": job.task, "word_timestamps": job.words}
    if not job.temperature:
        arguments["temperature"] = _LADDER
    return arguments


WHISPER = FamilyAdapter(
    "whisper",
    CutOptions(longest_s=30),
    outputs.whisper,
    languages=Languages(_language_names, ("language",), detect_once=True),
    tokens=Tokens("sample_len", per_second=0, least=_WINDOW_TOKENS, most=_WINDOW_TOKENS),
    prompt="initial_prompt",
    temperature="temperature",
    fixed={"verbose": None, "condition_on_previous_text": False},
    adapt=_adapt,
    after_load=_prepare,
    translation_refusal=_translation_refusal,
    words=True,
)
