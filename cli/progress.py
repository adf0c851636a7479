"""Files at work, when a person is looking: a bar for each with speed and time left, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as Bar
from rich.text import Text

Told = Callable[[float, "float | None"], None]
Follow = Callable[[str], AbstractContextManager[Told]]


class _Speed(ProgressColumn):
    """Times real time: seconds of audio per second."""

    def render(self, bar: Bar) -> Text:
        """The figure, once there is one."""
        return Text(f"{bar.speed:.1f}x" if bar.speed else "")


@contextmanager
def progress(files: int) -> Iterator[Follow]:
    """Gives a function that follows one file, and is told the seconds done and the total."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        _Speed(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        whole = bars.add_task("all files", total=files, visible=files > 1, done=f"0/{files}")
        finished = 0

        @contextmanager
        def follow(name: str) -> Iterator[Told]:
            nonlocal finished
            bar = bars.add_task(name, total=None, done="")

            def told(done_s: float, total_s: float | None) -> None:
                bars.update(bar, completed=done_s, total=total_s, done=clock(done_s))

            try:
                yield told
            finally:
                finished += 1
                bars.remove_task(bar)
                bars.update(whole, completed=finished, done=f"{finished}/{files}")

        yield follow


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
