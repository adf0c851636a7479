"""Files at work, when a person is looking: a bar for each with speed and time left, on stderr.

What became of many files: a table for a person, one line for a log.

Many files through one model: as many at a time as it takes, each written when it is done.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.table import Table
from rich.text import Text

from voxlive.cli.console import complain
from voxlive.cli.transcribe import Input
from voxlive.errors import VoxliveError
from voxlive.runners.batch import Batch
from voxlive.runners.contract import Job, JobProgress, RunnerSpec, Transcript
from voxlive.runners.outputs.formats import FORMATS, OutputOptions
from voxlive.runners.refusals import Requirements

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


_AT_A_TIME = 8


@dataclass(frozen=True, slots=True)
class Writing:
    """In which formats, and where: ``folder`` None is stdout."""

    formats: tuple[str, ...]
    folder: Path | None
    wanted: OutputOptions
    overwrite: bool = False

    def is_done(self, one: Input) -> bool:
        """Whether all its results are there and newer than the file."""
        if self.folder is None or self.overwrite:
            return False
        written = [self._target(one, name, self.folder) for name in self.formats]
        heard = one.path.stat().st_mtime_ns
        return all(file.exists() and file.stat().st_mtime_ns >= heard for file in written)

    def write(self, one: Input, said: Transcript) -> None:
        """Every format; a file appears whole or not at all. Raises VoxliveError and OSError."""
        for name in self.formats:
            body = FORMATS[name].write(said, self.wanted)
            if self.folder is None:
                typer.echo(body.removesuffix("\n"))
                continue
            target = self._target(one, name, self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.{os.getpid()}")
            try:
                part.write_text(body, encoding="utf-8")
                part.replace(target)
            finally:
                with suppress(FileNotFoundError):
                    part.unlink()

    def _target(self, one: Input, name: str, folder: Path) -> Path:
        return one.target(folder, FORMATS[name].suffix)


@dataclass(frozen=True, slots=True)
class Hints:
    """How the model is to go about it; a model that cannot use one of them says so."""

    prompt: str | None = None
    temperature: float = 0.0
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TranscribePlan:
    """What is done with every file."""

    spec: RunnerSpec
    requirements: Requirements
    hints: Hints
    writing: Writing

    def job(self, path: Path) -> Job:
        """One file's."""
        timed = any(FORMATS[name].word_times for name in self.writing.formats)
        return Job(
            path,
            self.requirements.task,
            self.requirements.language,
            self.hints.prompt,
            self.hints.temperature,
            self.hints.max_tokens,
            words=self.requirements.words or timed,
        )


async def run(plan: TranscribePlan, inputs: Sequence[Input]) -> bool:
    """Do all that is not done; False if a file failed. What is said on stdout keeps the order."""
    batch, places = Batch(), asyncio.Semaphore(_AT_A_TIME)
    try:
        with progress(len(inputs)) as follow:
            works = [asyncio.create_task(_hear(batch, plan, one, follow, places)) for one in inputs]
            outcomes = [
                _finish(plan, one, *await work) for one, work in zip(inputs, works, strict=True)
            ]
    finally:
        await batch.aclose()
    show(outcomes)
    return all(outcome.state != "failed" for outcome in outcomes)


async def _hear(
    batch: Batch, plan: TranscribePlan, one: Input, follow: Follow, places: asyncio.Semaphore
) -> tuple[Transcript | VoxliveError | None, float]:
    """The transcript and the seconds that it took; None: it is there already."""
    async with places:
        if plan.writing.is_done(one):
            return None, 0.0
        began = time.monotonic()
        with follow(one.name or one.path.name) as told:
            try:
                said = await batch.transcribe(
                    plan.spec,
                    plan.job(one.path),
                    lambda update: (
                        told(update.done_s, update.total_s)
                        if isinstance(update, JobProgress)
                        else None
                    ),
                )
            except VoxliveError as refusal:
                return refusal, 0.0
        if plan.writing.folder is not None:
            return _kept(plan, one, said), time.monotonic() - began
        return said, time.monotonic() - began


def _kept(plan: TranscribePlan, one: Input, said: Transcript) -> Transcript | VoxliveError:
    """Write it at once, so that a run that is ended has lost nothing."""
    try:
        plan.writing.write(one, said)
    except VoxliveError as refusal:
        return refusal
    except OSError as error:
        return VoxliveError("cannot_write", f"{error.filename}: {error.strerror}")
    return said


def _finish(
    plan: TranscribePlan, one: Input, said: Transcript | VoxliveError | None, took_s: float
) -> Outcome:
    if said is None:
        return Outcome(one.path, "skipped")
    if isinstance(said, Transcript) and plan.writing.folder is None:
        said = _kept(plan, one, said)
    if isinstance(said, VoxliveError):
        complain(f"{one.title}: {said.message}")
        return Outcome(one.path, "failed")
    for warning in said.warnings:
        complain(f"{one.title}: warning: {warning.message}")
    return Outcome(one.path, "done", said.duration, took_s)
