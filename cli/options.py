"""Options that several commands share, and the service that they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .console import MISUSED, fail

if TYPE_CHECKING:
    from ..streaming.options import EngineOptions
    from ..streaming.service import Service

Model = Annotated[
    str,
    typer.Option(help="A built-in engine, a model's short name, a local path or a hub repository."),
]
Device = Annotated[
    Literal["gpu", "cpu"] | None,
    typer.Option(help="Where the model runs. Default: the best there is."),
]
DelayMs = Annotated[
    int | None,
    typer.Option(min=1, help="The model's own delay, for models that have one: more is better."),
]
Quantize = Annotated[
    Literal["4", "8"] | None, typer.Option(help="Shrink the weights to so many bits on loading.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Never download anything.")]


def _language(said: str | None) -> str | None:
    from ..checkpoints.languages import UnknownLanguage, language_of

    try:
        return language_of(said)
    except UnknownLanguage as error:
        fail(f"--language: {error}", MISUSED)


Language = Annotated[
    str | None,
    typer.Option(
        callback=_language,
        help="What is spoken: a code, a locale or an English name. Default: the model finds out.",
    ),
]


def open_service(model: str, options: EngineOptions, *, apart: bool = False) -> Service:
    """The engine, loaded and warm, with a voice detector; one line and exit code 1 if it fails.

    ``apart``: in a process of its own.
    """
    from ..checkpoints.errors import CheckpointError
    from ..streaming.engine import EngineError
    from ..streaming.registry import load_apart, load_engine
    from ..streaming.service import Service
    from ..vad.detector import VoiceDetector
    from ..vad.silero import Silero, VadError

    load = load_apart if apart else load_engine
    try:
        return Service(load(model, options), VoiceDetector(Silero()))
    except (EngineError, CheckpointError, VadError) as error:
        fail(str(error))
