"""What commands say to people: one clear line per error, results on stdout, the rest on stderr."""

from __future__ import annotations

import logging
from typing import NoReturn

import typer

from .logs import JsonLines, Lines

FAILED = 1
MISUSED = 2


def complain(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"voxlive: {message}", err=True)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """One line on stderr, and the exit code."""
    complain(message)
    raise typer.Exit(code)


def start_logging(level: str, *, as_json: bool = False) -> None:
    """Log to stderr, one line per event."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else Lines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(as_json)
    # uvicorn tells every connection at info; a session's lines say what matters about it.
    logging.getLogger("uvicorn").setLevel(level.upper() if level == "debug" else "WARNING")
