"""Voxtral Realtime as a runner: our own engine, several files as one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voxlive.checkpoints.errors import CheckpointError
from voxlive.engines.contract import EngineError, EngineOptions, UnsupportedOption
from voxlive.engines.voxtral import load as load_engine
from voxlive.runners.contract import Refusal
from voxlive.runners.live import LiveRunner

if TYPE_CHECKING:
    from voxlive.runners.contract import RunnerSpec

FILES = 4
"""Files that are one batch: a step for four takes little longer than for one."""


def load(spec: RunnerSpec) -> LiveRunner:
    """See the contract."""
    model = str(spec.folder or spec.model)
    options = EngineOptions(FILES, spec.device, spec.delay_ms, spec.quantize, offline=True)
    try:
        return LiveRunner(load_engine(model, options))
    except UnsupportedOption as error:
        raise Refusal(422, error.code, error.message, "model") from error
    except EngineError as error:
        status = 507 if error.code == "no_memory" else 500
        raise Refusal(status, "model_load_failed", error.message, "model") from error
    except CheckpointError as error:
        raise Refusal(500, "model_load_failed", str(error), "model") from error
