"""The built-in engine as a runner: US English, on the CPU, with words and their probabilities.

Each slot is a worker process of its own, since PocketSphinx holds Python's lock while it decodes;
a file occupies one core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voxlive.engines.contract import EngineOptions
from voxlive.engines.pocketsphinx import load as load_engine
from voxlive.engines.pocketsphinx.engine import cores
from voxlive.errors import EngineError, RequestRefused
from voxlive.runners.live import LiveRunner

if TYPE_CHECKING:
    from voxlive.runners.contract import RunnerSpec

MOST_FILES = 8
"""At a time, whatever the cores: a worker has 165 MB."""


def load(spec: RunnerSpec) -> LiveRunner:
    """See the contract. One core is left for everything else."""
    slots = min(max(cores() - 1, 1), MOST_FILES)
    options = EngineOptions(slots, spec.device, spec.delay_ms, spec.quantize)
    try:
        return LiveRunner(load_engine(spec.model, options))
    except EngineError as error:
        raise RequestRefused("model_load_failed", error.message, "model") from error
