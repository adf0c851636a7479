"""Which engine serves which model. A new engine is one package and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from voxlive.checkpoints.probe import probe_model_capabilities
from voxlive.checkpoints.resolve import checkpoint_files, resolve
from voxlive.engines.contract import EngineOptions
from voxlive.engines.remote.host import ProcessEngine
from voxlive.errors import EngineError

if TYPE_CHECKING:
    from voxlive.engines.contract import Engine

Load = Callable[["str", "EngineOptions"], "Engine"]

# Engines that carry their model, by the name that users give.
BUILT_IN = {"pocketsphinx": "voxlive.engines.pocketsphinx"}
# Engines for checkpoints, by the family that the probe finds.
FAMILIES = {"voxtral_realtime": "voxlive.engines.voxtral"}


def load_engine(model: str, options: EngineOptions | None = None) -> Engine:
    """Load the engine for ``model``: a built-in's name, an alias, a path or a hub repository.

    Blocks until the engine is warm; ``shutdown`` ends it. Raises EngineError, or CheckpointError
    from checkpoints.
    """
    options = options or EngineOptions()
    package = BUILT_IN.get(model) or _package(resolve(model, offline=options.offline))
    load: Load = importlib.import_module(package).load
    return load(model, options)


def load_apart(model: str, options: EngineOptions) -> Engine:
    """The same in a process of its own, for a server; a built-in has processes anyway."""
    if model in BUILT_IN:
        return load_engine(model, options)
    _package(resolve(model, offline=options.offline))
    return ProcessEngine.start(model, options)


def _package(folder: Path) -> str:
    """The engine for a checkpoint. Raises EngineError if none is live, CheckpointError."""
    found = probe_model_capabilities(folder)
    if found.family is None:
        checkpoint_files(folder)
    package = FAMILIES.get(found.family.name) if found.family else None
    if package is None:
        title = f"a {found.family.title} model" if found.family else "no speech model known here"
        raise EngineError(
            "not_live",
            f"{found.name} is {title}: live sessions need {', '.join(BUILT_IN)} or a checkpoint of "
            f"{', '.join(FAMILIES)}; `voxlive models list` shows what there is",
        )
    return package
