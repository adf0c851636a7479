"""Live recognition over any recogniser of whole utterances, such as Whisper.

Nothing is loaded before ``load``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import Engine, EngineOptions


def load(model: LocalModel, options: EngineOptions) -> Engine:
    """Load a checkpoint and measure how many sessions it serves here. Blocks.

    Raises UnsupportedOption for what such a model does not have, EngineError for files or a machine
    that it does not work with.
    """
    from voxlive.engines.utterances.loading import load_engine

    return load_engine(model, options)
