"""Options that several commands share, and the service that they ask for.

The options of ``serve`` about files: which models, how many of them, how long the audio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxlive.cli.console import MISUSED, fail

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import EngineOptions
    from voxlive.runners.catalogue import Catalogue
    from voxlive.runners.refusals import LoadOptions
    from voxlive.streaming.service import Service

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
    from voxlive.checkpoints.languages import UnknownLanguage, language_of

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


def open_model(name: str, *, offline: bool) -> LocalModel:
    """A model's files, wherever they are; one line and exit code 1 if they cannot be had."""
    from voxlive.checkpoints.resolve import resolve
    from voxlive.errors import CheckpointError

    try:
        return resolve(name, offline=offline)
    except CheckpointError as error:
        fail(str(error))


def open_service(model: LocalModel, options: EngineOptions, *, apart: bool = False) -> Service:
    """The engine, loaded and warm, with a voice detector; one line and exit code 1 if it fails.

    ``apart``: in a process of its own.
    """
    from voxlive.engines.registry import load_apart, load_engine
    from voxlive.errors import CheckpointError, EngineError, VadError
    from voxlive.streaming.service import Service
    from voxlive.vad.detector import VoiceDetector
    from voxlive.vad.silero import Silero

    load = load_apart if apart else load_engine
    try:
        return Service(load(model, options), VoiceDetector(Silero()))
    except (EngineError, CheckpointError, VadError) as error:
        fail(str(error))


FileModel = Annotated[
    str | None,
    typer.Option(help="The model for files that name none. Default: as for live sessions."),
]
AlsoModel = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        help="Another model for files, as NAME=PATH or NAME=pocketsphinx; may be given again.",
    ),
]
MaxFileMinutes = Annotated[
    float, typer.Option(min=0.01, help="How long the audio of one file may be.")
]
MaxResident = Annotated[
    int, typer.Option(min=1, help="Models for files that stay in memory at a time.")
]
ModelIdle = Annotated[
    float, typer.Option(min=1, help="Unload a model that had no file for so many seconds.")
]


def open_catalogue(
    model: LocalModel, also: list[str] | None, load: LoadOptions, *, offline: bool
) -> Catalogue:
    """The models for files; one line and exit code 1 if one cannot be had."""
    from voxlive.errors import CheckpointError
    from voxlive.runners.catalogue import make_catalogue

    try:
        return make_catalogue(model, also or (), load, offline=offline)
    except CheckpointError as error:
        fail(str(error))
