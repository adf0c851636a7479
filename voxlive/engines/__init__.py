"""Live recognition: which engine serves which model. A new one is one package and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TypeGuard

from voxlive.checkpoints.files import select_files
from voxlive.checkpoints.local_model import LocalModel
from voxlive.checkpoints.resolve import resolve
from voxlive.engines.contract import EngineOptions
from voxlive.engines.pool import EnginePool
from voxlive.engines.remote.host import ProcessEngine
from voxlive.errors import EngineError
from voxlive.recognisers import library_of

if TYPE_CHECKING:
    from voxlive.engines.contract import Engine

Load = Callable[[LocalModel, EngineOptions], "Engine"]

ENGINES = {
    "voxtral_realtime": "voxlive.engines.voxtral",
}
"""By the model's family. Every other family that a recogniser serves goes to ``UTTERANCES``."""
UTTERANCES = "voxlive.engines.utterances"
SCHEMES = {"replay": "voxlive.engines.replay"}
"""Engines without a checkpoint, by what stands before the colon in a model's name. They load what
that names by themselves, fast, and need no process of their own."""


def names_engine(model: str | LocalModel | None) -> TypeGuard[str]:
    """Whether this names an engine without a checkpoint."""
    return isinstance(model, str) and model.partition(":")[0] in SCHEMES and ":" in model


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
    if names_engine(model):
        module = importlib.import_module(SCHEMES[model.partition(":")[0]])
        engine: Engine = module.load(model, options or EngineOptions())
        return engine
    if not isinstance(model, LocalModel):
        model = resolve(model, offline=offline)
    load: Load = importlib.import_module(_package(model)).load
    return load(model, options or EngineOptions())


def load_apart(
    model: str | LocalModel, options: EngineOptions, out: Collection[str] = ()
) -> Engine:
    """The same in a process of its own, for a server, where it has a checkpoint.

    One for each of several devices, of which those that are ``out`` are loaded later.
    """
    if isinstance(model, str):
        return load_engine(model, options)
    _package(model)
    if options.devices:
        return EnginePool.start(model, options, out)
    return ProcessEngine.start(model, options)


def _package(model: LocalModel) -> str:
    """The engine for a model. Raises EngineError if none is live, CheckpointError."""
    family = model.family
    if family is None:
        contents = model.read()
        select_files(contents.files, str(contents.folder), mistral=False)
        why = "no speech model known here"
    elif family.name in ENGINES:
        return ENGINES[family.name]
    elif family.not_live or library_of(model) is None:
        kind = f"a {family.title} model"
        why = f"{kind}: {family.not_live or model.capabilities.refused or 'it serves files only'}"
    else:
        return UTTERANCES
    raise EngineError(
        "not_live",
        f"{model.name} is {why}. Live sessions need Voxtral Realtime, or Whisper, Parakeet, "
        "Qwen3-ASR and the like; `voxlive models list` shows what there is",
    )
