"""Voxtral Realtime as a runner: our own engine, several files as one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voxlive.engines.contract import EngineOptions
from voxlive.engines.voxtral import load as load_engine
from voxlive.errors import CheckpointError, EngineError, RequestRefused, UnsupportedOption
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
        raise RequestRefused(error.code, error.message, "model") from error
    except (EngineError, CheckpointError) as error:
        # For want of memory it is 507.
        raise RequestRefused(
            "model_load_failed", error.message, "model", status=error.status
        ) from error
