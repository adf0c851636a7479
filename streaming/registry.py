"""Which engine serves which model. A new engine is one package and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..checkpoints.probe import probe
from ..checkpoints.resolve import resolve

if TYPE_CHECKING:
    from .engine import Engine
    from .options import EngineOptions

Load = Callable[["str", "EngineOptions"], "Engine"]

# Engines that carry their model, by the name that users give.
BUILT_IN = {"pocketsphinx": "voxlive.streaming.pocketsphinx"}
# Engines for checkpoints, by the family that the probe finds.
FAMILIES = {"voxtral_realtime": "voxlive.streaming.voxtral"}


def load_engine(model: str, options: EngineOptions) -> Engine:
    """Load the engine for ``model``: a built-in's name, an alias, a path or a hub repository.

    Blocks until the engine is warm. Raises EngineError, or CheckpointError from checkpoints.
    """
    package = BUILT_IN.get(model) or FAMILIES[probe(resolve(model, offline=options.offline)).family]
    load: Load = importlib.import_module(package).load
    return load(model, options)
