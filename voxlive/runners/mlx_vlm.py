"""The runner for multimodal models with audio input, by mlx-vlm (``voxlive[multimodal]``).

They are instructed in words, for 30 seconds of audio at a time: they are not made for more, and
mlx-vlm would leave out the rest silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxlive.errors import RequestRefused
from voxlive.recognisers.mlx_audio import outputs
from voxlive.recognisers.mlx_audio.family import (
    Arguments,
    FamilyAdapter,
    FamilyRequest,
    Languages,
    Model,
    Output,
    Tokens,
    language_titles,
    numpy_audio,
    translates,
)
from voxlive.runners.contract import Runner, RunnerSpec
from voxlive.runners.mlx_audio import load_runner

_TRANSCRIBE = "Transcribe the speech in this audio word for word. Answer with the transcript alone."
_TRANSLATE = "Translate the speech in this audio into English. Answer with the translation alone."
_INSTRUCTIONS = {"transcribe": _TRANSCRIBE, "translate": _TRANSLATE}


@dataclass(frozen=True, slots=True)
class _MultimodalModel:
    """What mlx-vlm loads."""

    model: Any
    processor: Any


def load(spec: RunnerSpec) -> Runner:
    """Load ``spec.local``. Blocks; raises RequestRefused as mlx-audio's runner."""
    family = FAMILIES.get(spec.family)
    if family is None:
        message = f"{spec.model} is a {spec.family!r}: mlx-vlm serves {', '.join(FAMILIES)} here"
        raise RequestRefused("unsupported_model", message, "model")
    return load_runner(spec, family, _load)


def _load(_family: FamilyAdapter, folder: Path) -> _MultimodalModel:
    try:
        from mlx_vlm import load as load_multimodal
    except ImportError as error:
        raise RequestRefused(
            "missing_dependency",
            "this model needs mlx-vlm: install it with pip install 'voxlive[multimodal]'",
            "model",
        ) from error
    return _MultimodalModel(*load_multimodal(str(folder), strict=True))


def _languages(_model: Model) -> Mapping[str, str]:
    return language_titles()


def _with_instruction(arguments: Arguments, request: FamilyRequest) -> Arguments:
    """The instruction, then the language of the speech, then the prompt."""
    lines = [request.options.instruction or _INSTRUCTIONS[request.options.task]]
    if language := arguments.pop("language", None):
        lines.append(f"The speech is in {language}.")
    if prompt := arguments.pop("prompt", None):
        lines.append(f"It may have to do with this: {prompt}")
    return arguments | {"instruction": "\n".join(lines)}


def _call(loaded: _MultimodalModel, audio: Any, arguments: Arguments) -> Output:
    from mlx_vlm import generate
    from mlx_vlm.prompt_utils import apply_chat_template

    model, processor = loaded.model, loaded.processor
    prompt = apply_chat_template(
        processor, model.config, arguments.pop("instruction"), num_audios=1
    )
    return generate(model, processor, prompt, audio=[audio], verbose=False, **arguments)


def _adapter(model_type: str) -> FamilyAdapter:
    return FamilyAdapter(
        model_type,
        30.0,
        outputs.whole,
        languages=Languages(_languages, ("language",)),
        tokens=Tokens(),
        prompt="prompt",
        temperature="temperature",
        adapt=_with_instruction,
        translation_refusal=translates,
        audio=numpy_audio,
        call=_call,
    )


FAMILIES = {name: _adapter(name) for name in ("gemma3n", "gemma4", "qwen3_omni_moe")}
"""By the name of their family in ``checkpoints.families``."""
