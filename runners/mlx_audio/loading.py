"""From a folder to a model of a family that is known beforehand, with every tensor in its place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..contract import Refusal, RunnerSpec
from .families import FAMILIES, NOT_FOR_FILES

if TYPE_CHECKING:
    from .family import Family, Model

_LONGEST_REASON = 600


def family_of(spec: RunnerSpec) -> Family:
    """The description of ``spec.family``; raises Refusal for one that transcribes no files."""
    if why := NOT_FOR_FILES.get(spec.family):
        raise Refusal(422, "unsupported_model", f"{spec.model}: {why}", "model")
    if family := FAMILIES.get(spec.family):
        return family
    known = ", ".join(sorted(FAMILIES))
    message = (
        f"{spec.model} is of the family {spec.family!r}, which mlx-audio does not run: {known}"
    )
    raise Refusal(422, "unsupported_model", message, "model")


def load_model(spec: RunnerSpec, family: Family) -> Model:
    """Load on the calling thread, which is the one that may use the model. Raises Refusal.

    The family is given and names of folders are kept out: mlx-audio would otherwise go by them,
    and load another family's class with random weights.
    """
    folder = _folder(spec)
    _refuse_code(folder, spec)
    use_device(spec)
    # Everything is in the folder: nothing may be fetched while a request waits.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from mlx_audio.stt import load

        family.before()
        model = load(folder, model_type=family.model_type, model_name_parts=[], strict=True)
        family.prepare(model, folder)
    except ImportError as error:
        raise Refusal(501, "missing_dependency", f"{spec.model}: {error}", "model") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        # What the loaders raise for configs and weights that do not fit: they have no own types.
        reason = str(error).strip()[:_LONGEST_REASON]
        message = f"{spec.model} cannot be loaded as {spec.family}: {reason}"
        raise Refusal(422, "unusable_model", message, "model") from error
    return model


def use_device(spec: RunnerSpec) -> None:
    """Make the calling process use the device that is asked for; raises Refusal without it."""
    import mlx.core as mx

    if spec.device == "cpu":
        mx.set_default_device(mx.cpu)
    elif spec.device == "gpu" and not mx.is_available(mx.gpu):
        raise Refusal(
            501,
            "missing_dependency",
            "MLX finds no GPU here: on a Mac it needs Apple silicon, elsewhere an NVIDIA GPU and "
            "the extra voxlive[cuda13]; or choose the CPU",
            "device",
        )


def _folder(spec: RunnerSpec) -> Path:
    if spec.folder is None:
        raise Refusal(404, "model_not_found", f"{spec.model} has no files", "model")
    if spec.quantize is not None or spec.delay_ms is not None:
        field = "quantize" if spec.quantize is not None else "delay_ms"
        message = f"{spec.model} runs as it was stored: leave out {field}"
        raise Refusal(422, "unsupported_option", message, field)
    return spec.folder


def _refuse_code(folder: Path, spec: RunnerSpec) -> None:
    """Some families' tokenizers are loaded with leave to run the checkpoint's Python files."""
    path = folder / "tokenizer_config.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("auto_map"):
        raise Refusal(
            422,
            "unusable_model",
            f"the tokenizer of {spec.model} is Python code of its own, which is not run here: "
            "choose a conversion without auto_map in tokenizer_config.json",
            "model",
        )
