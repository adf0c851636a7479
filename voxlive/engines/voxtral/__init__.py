"""The Voxtral Realtime engine, in MLX: the main engine. Imports MLX only when it is loaded."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import Engine, EngineOptions

OPS_PER_GRAPH = "15"
"""Operations that MLX sends to an NVIDIA GPU together: the first start while the rest is built."""


def set_graph_size() -> None:
    """Set it, unless the user did. MLX reads it once, so before its first operation."""
    if sys.platform == "linux":
        os.environ.setdefault("MLX_MAX_OPS_PER_BUFFER", OPS_PER_GRAPH)


def load(model: LocalModel, options: EngineOptions) -> Engine:
    """Load and warm a checkpoint. Blocks.

    Raises CheckpointError for what is wrong with the files, UnsupportedOption for what the model
    or this machine cannot do, EngineError when not even one session fits.
    """
    set_graph_size()
    from voxlive.engines.voxtral.loading import load_engine

    return load_engine(model, options)
