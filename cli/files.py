"""The options of ``serve`` about files: which models, how many of them, how long the audio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .console import fail

if TYPE_CHECKING:
    from ..runners.catalogue import Catalogue
    from ..runners.policy import LoadOptions

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
    model: str, also: list[str] | None, load: LoadOptions, *, offline: bool
) -> Catalogue:
    """The models for files; one line and exit code 1 if one cannot be had."""
    from ..checkpoints.errors import CheckpointError
    from ..runners.catalogue import make_catalogue

    try:
        return make_catalogue(model, also or (), load, offline=offline)
    except CheckpointError as error:
        fail(str(error))
