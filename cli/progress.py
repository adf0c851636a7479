"""A progress bar on stderr for files, when a person is looking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import av
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Told = Callable[[float], None]
Follow = Callable[[Path], AbstractContextManager[Told]]


@contextmanager
def progress() -> Iterator[Follow]:
    """Gives a function that follows one file at a time; it is told the seconds done so far."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} s"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:

        @contextmanager
        def follow(file: Path) -> Iterator[Told]:
            task = bar.add_task(file.name, total=_duration(file))
            try:
                yield lambda done: bar.update(task, completed=done)
            finally:
                bar.remove_task(task)

        yield follow


def _duration(file: Path) -> float | None:
    """What the container says, in seconds; None where it says nothing or is none."""
    try:
        with av.open(str(file)) as container:
            return container.duration / av.time_base if container.duration else None
    except (OSError, av.FFmpegError):
        return None
