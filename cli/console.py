"""What commands say to people: one clear line per error, results on stdout, the rest on stderr."""

from __future__ import annotations

import logging
import sys
import threading
from typing import NoReturn

import typer

from .logs import JsonLines, Lines, Writer

log = logging.getLogger(__name__)

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
    """Log to stderr, one line per event; warnings and what a thread dies of are logged too."""
    handler = _stderr()
    handler.setFormatter(JsonLines() if as_json else Lines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(capture=True)
    threading.excepthook = _thread_died
    sys.unraisablehook = _unraisable
    # uvicorn tells every connection at info; a session's lines say what matters about it.
    logging.getLogger("uvicorn").setLevel(level.upper() if level == "debug" else "WARNING")


def _stderr() -> logging.Handler:
    try:
        return Writer(sys.stderr.fileno())
    except (AttributeError, OSError):  # it was closed, or is no file
        return logging.NullHandler()


def _thread_died(died: threading.ExceptHookArgs) -> None:
    if died.exc_value and not isinstance(died.exc_value, SystemExit):
        name = died.thread.name if died.thread else "that is gone"
        log.error("the thread %s died", name, exc_info=died.exc_value)


def _unraisable(raised: sys.UnraisableHookArgs) -> None:
    log.error("%s: %r", raised.err_msg or "ignored", raised.object, exc_info=raised.exc_value)
