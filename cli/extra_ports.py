"""Options for protocols that have a port of their own."""

from __future__ import annotations

from typing import Annotated

import typer

WhisperLivePort = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, help="Also serve WhisperLive's clients, on this port (theirs is 9090)."
    ),
]
