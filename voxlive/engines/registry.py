"""Which engine serves which model. A new engine is one package and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from voxlive.checkpoints.files import select_files
from voxlive.checkpoints.local_model import BUILT_IN, LocalModel
from voxlive.checkpoints.resolve import resolve
from voxlive.engines.contract import EngineOptions
from voxlive.engines.remote.host import ProcessEngine
from voxlive.errors import EngineError

if TYPE_CHECKING:
    from voxlive.engines.contract import Engine

Load = Callable[[LocalModel, EngineOptions], "Engine"]

ENGINES = {
    "pocketsphinx": "voxlive.engines.pocketsphinx",
    "voxtral_realtime": "voxlive.engines.voxtral",
    "whisper": "voxlive.engines.utterances",
}
"""By the model's family."""


def load_engine(
    model: str | LocalModel | None = None,
    options: EngineOptions | None = None,
    *,
    offline: bool = False,
) -> Engine:
    """Load the engine for a model, or for what its name stands for (see ``resolve``).

    Blocks until the engine is warm; ``shutdown`` ends it. ``offline`` forbids downloads. Raises
    EngineError, or CheckpointError from checkpoints.
    """
    if not isinstance(model, LocalModel):
        model = resolve(model, offline=offline)
    load: Load = importlib.import_module(_package(model)).load
    return load(model, options or EngineOptions())


def load_apart(model: LocalModel, options: EngineOptions) -> Engine:
    """The same in a process of its own, for a server; a built-in has processes anyway."""
    if model.folder is None:
        return load_engine(model, options)
    _package(model)
    return ProcessEngine.start(model, options)


def _package(model: LocalModel) -> str:
    """The engine for a model. Raises EngineError if none is live, CheckpointError."""
    package = ENGINES.get(model.family.name) if model.family else None
    if package is not None:
        return package
    if model.family is None:
        contents = model.read()
        select_files(contents.files, str(contents.folder), mistral=False)
    title = f"a {model.family.title} model" if model.family else "no speech model known here"
    families = [name for name in ENGINES if name not in BUILT_IN]
    raise EngineError(
        "not_live",
        f"{model.name} is {title}: live sessions need {', '.join(BUILT_IN)} or a checkpoint of "
        f"{', '.join(families)}; `voxlive models list` shows what there is",
    )
