"""The runner for mlx-audio's speech-to-text models. Runs in a process of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxlive.runners.contract import Runner, RunnerSpec


def load(spec: RunnerSpec) -> Runner:
    """Load ``spec.local`` as ``spec.family``. Blocks.

    Raises RequestRefused for a family that cannot transcribe, files that do not make up this model,
    and options that it does not have.
    """
    from voxlive.runners.mlx_audio.runner import family_of, load_model, load_runner

    family = family_of(spec)
    return load_runner(spec, family, partial(load_model, family))
