"""The runner for models that hear among other things, by mlx-vlm (``voxlive[multimodal]``).

They are asked in words for what was said, 30 seconds at a time: more than that they were not made
for, and mlx-vlm would leave the rest out without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxlive.checkpoints.languages import NAMES
from voxlive.errors import RequestRefused
from voxlive.runners.contract import Runner, RunnerSpec
from voxlive.runners.cutting import CutOptions
from voxlive.runners.mlx_audio import outputs
from voxlive.runners.mlx_audio.family import (
    Arguments,
    FamilyAdapter,
    FamilyRequest,
    Languages,
    Model,
    Output,
    Tokens,
)
from voxlive.runners.mlx_audio.runner import load_runner

_TRANSCRIBE = "Transcribe the speech in this audio word for word. Answer with the transcript alone."
_TRANSLATE = "Translate the speech in this audio into English. Answer with the translation alone."
_WISHES = {"transcribe": _TRANSCRIBE, "translate": _TRANSLATE}


@dataclass(frozen=True, slots=True)
class _Loaded:
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


def _load(folder: Path) -> _Loaded:
    try:
        from mlx_vlm import load as load_multimodal
    except ImportError as error:
        raise RequestRefused(
            "missing_dependency",
            "this model needs mlx-vlm: install it with pip install 'voxlive[multimodal]'",
            "model",
        ) from error
    return _Loaded(*load_multimodal(str(folder), strict=True))


def _languages(_model: Model) -> Mapping[str, str]:
    return {code: name.title() for code, name in NAMES.items()}


def _wish(arguments: Arguments, ask: FamilyRequest) -> Arguments:
    """What to do, then what is known of the speech, then what may be heard in it."""
    told = [ask.job.instruction or _WISHES[ask.job.task]]
    if language := arguments.pop("language", None):
        told.append(f"The speech is in {language}.")
    if prompt := arguments.pop("prompt", None):
        told.append(f"It may have to do with this: {prompt}")
    return arguments | {"wish": "\n".join(told)}


def _numpy(ask: FamilyRequest) -> Any:
    return ask.samples


def _call(loaded: _Loaded, audio: Any, arguments: Arguments) -> Output:
    from mlx_vlm import generate
    from mlx_vlm.prompt_utils import apply_chat_template

    model, processor = loaded.model, loaded.processor
    wish = apply_chat_template(processor, model.config, arguments.pop("wish"), num_audios=1)
    return generate(model, processor, wish, audio=[audio], verbose=False, **arguments)


def _can(_model: Model) -> None:
    return None


def _hears(model_type: str) -> FamilyAdapter:
    return FamilyAdapter(
        model_type,
        CutOptions(longest_s=30),
        outputs.whole,
        languages=Languages(_languages, ("language",)),
        tokens=Tokens(),
        prompt="prompt",
        temperature="temperature",
        adapt=_wish,
        no_translation=_can,
        audio=_numpy,
        call=_call,
    )


FAMILIES = {name: _hears(name) for name in ("gemma3n", "gemma4", "qwen3_omni_moe")}
"""By the name that the probe gives them."""
