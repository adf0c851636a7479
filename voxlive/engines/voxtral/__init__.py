"""The Voxtral Realtime engine, in MLX: the main engine. Imports MLX only when it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import Engine, EngineOptions


def load(model: LocalModel, options: EngineOptions) -> Engine:
    """Load and warm a checkpoint. Blocks.

    Raises CheckpointError for what is wrong with the files, UnsupportedOption for what the model
    or this machine cannot do, EngineError when not even one session fits.
    """
    from voxlive.engines.voxtral.loading import load_engine

    return load_engine(model, options)
