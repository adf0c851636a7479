"""What became of many files: a table for a person, one line for a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .console import complain
from .progress import clock


@dataclass(frozen=True, slots=True)
class Outcome:
    """One file's: ``state`` is done, skipped or failed; the seconds are of one that is done."""

    file: Path
    state: str
    audio_s: float | None = None
    took_s: float | None = None


def show(outcomes: Sequence[Outcome]) -> None:
    """Say it on stderr, if there is more than one file."""
    if len(outcomes) < 2:
        return
    counts = Counter(outcome.state for outcome in outcomes)
    line = ", ".join(f"{count} {state}" for state, count in counts.items())
    console = Console(stderr=True)
    if not console.is_terminal:
        complain(line)
        return
    table = Table(caption=line, caption_justify="left")
    for name in ("file", "", "audio", "took", "speed"):
        table.add_column(name, justify="left" if name in ("file", "") else "right", overflow="fold")
    for outcome in outcomes:
        table.add_row(str(outcome.file), outcome.state, *_figures(outcome))
    console.print(table)


def _figures(outcome: Outcome) -> tuple[str, str, str]:
    if outcome.audio_s is None or outcome.took_s is None:
        return "", "", ""
    speed = outcome.audio_s / outcome.took_s if outcome.took_s else 0
    return clock(outcome.audio_s), clock(outcome.took_s), f"{speed:.1f}x"
