"""From a folder to a model of a family that is known beforehand, with every tensor in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..contract import Refusal, RunnerSpec
from .families import FAMILIES, NOT_FOR_FILES

if TYPE_CHECKING:
    from pathlib import Path

    from .family import Family, Model


def family_of(spec: RunnerSpec) -> Family:
    """The description of ``spec.family``; raises Refusal for one that transcribes no files."""
    if why := NOT_FOR_FILES.get(spec.family):
        raise Refusal(422, "unsupported_model", f"{spec.model}: {why}", "model")
    if family := FAMILIES.get(spec.family):
        return family
    known = ", ".join(sorted(FAMILIES))
    message = f"{spec.model} is a {spec.family!r}, and mlx-audio runs no such files: use {known}"
    raise Refusal(422, "unsupported_model", message, "model")


def load_model(family: Family, folder: Path) -> Model:
    """Load on the calling thread. Raises whatever mlx-audio does for files that do not fit.

    The family is given and names of folders are kept out: mlx-audio would otherwise go by them,
    and load another family's class with random weights.
    """
    from mlx_audio.stt import load

    family.before()
    model = load(folder, model_type=family.model_type, model_name_parts=[], strict=True)
    family.prepare(model, folder)
    return model
