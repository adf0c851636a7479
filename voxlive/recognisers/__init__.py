"""An utterance, or a file, to its words; which module serves which library.

A new one is a module with a ``load``, and a line here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from voxlive.checkpoints.families.speech import CTRANSLATE2
from voxlive.errors import RequestRefused

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.recognisers.contract import LoadingOptions, LoadRecogniser, Recogniser

RECOGNISERS = {
    "faster_whisper": "voxlive.recognisers.faster_whisper",
    "mlx_audio": "voxlive.recognisers.mlx_audio",
}


def library_of(local: LocalModel) -> str | None:
    """The library that serves a checkpoint, by its layout and family; None if none of them does."""
    found = local.capabilities
    if found.layout == CTRANSLATE2:
        return "faster_whisper"
    served = found.family is not None and found.family.kind in ("speech", "voxtral")
    return "mlx_audio" if served and found.refused is None and found.transcribes else None


def load_recogniser(library: str, local: LocalModel, options: LoadingOptions) -> Recogniser:
    """A model, loaded by one of the libraries. Imports what it needs; blocks.

    Raises RequestRefused as the adapter does, and for a library that is not known here.
    """
    if library not in RECOGNISERS:
        known = ", ".join(sorted(RECOGNISERS))
        message = f"{local.name}: there is no recogniser for {library!r}: use {known}"
        raise RequestRefused("unsupported_model", message, "model")
    load: LoadRecogniser = importlib.import_module(RECOGNISERS[library]).load
    return load(local, options)
