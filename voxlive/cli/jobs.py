"""Many files through one model: as many at a time as it takes, each written when it is done.

On a terminal each file has a progress bar with speed and time left, and the end is a table of all;
elsewhere one line counts them.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.table import Table
from rich.text import Text

from voxlive.cli.console import print_error, told
from voxlive.cli.transcribe import InputFile
from voxlive.errors import VoxliveError
from voxlive.runners.archive import RayBatch, fetched
from voxlive.runners.batch import Batch
from voxlive.runners.contract import Job, JobProgress, RunnerSpec, Transcript, Update
from voxlive.runners.outputs.formats import FORMATS, OutputOptions
from voxlive.runners.refusals import Requirements
from voxlive.speakers.tracker import SpeakerOptions

_MOST_AT_ONCE = 8
_MOST_OVER_CLUSTER = 1000  # a cluster that grows by what waits has to see that
ReportProgress = Callable[[float, "float | None"], None]
TrackFile = Callable[[str], AbstractContextManager[ReportProgress]]


class _Speed(ProgressColumn):
    """Times real time: seconds of audio per second."""

    def render(self, bar: Bar) -> Text:
        """The figure, once there is one."""
        return Text(f"{bar.speed:.1f}x" if bar.speed else "")


@contextmanager
def progress(files: int, *, waiting: bool = True) -> Iterator[TrackFile]:
    """Yields a function that shows one file's progress, given in seconds done and total.

    ``waiting``: files are shown before they have any.
    """
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
        def track(name: str) -> Iterator[ReportProgress]:
            nonlocal finished
            bar = bars.add_task(name, total=None, done="", visible=waiting)

            def report(done_s: float, total_s: float | None) -> None:
                done = clock(done_s)
                bars.update(bar, completed=done_s, total=total_s, done=done, visible=True)

            try:
                yield report
            finally:
                finished += 1
                bars.remove_task(bar)
                bars.update(whole, completed=finished, done=f"{finished}/{files}")

        yield track


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


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """Print what became of the files on stderr, if there are several."""
    if len(outcomes) < 2:
        return
    counts = Counter(outcome.state for outcome in outcomes)
    line = ", ".join(f"{count} {state}" for state, count in counts.items())
    console = Console(stderr=True)
    if not console.is_terminal:
        print_error(line)
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


@dataclass(frozen=True, slots=True)
class OutputTarget:
    """In which formats, and where: ``folder`` None is ``stdout``."""

    formats: tuple[str, ...]
    folder: Path | None
    options: OutputOptions
    overwrite: bool = False
    stdout: TextIO = field(default_factory=lambda: sys.stdout)

    def is_done(self, file: InputFile) -> bool:
        """Whether all its results are there and newer than the file."""
        if self.folder is None or self.overwrite:
            return False
        written = [self._target(file, name, self.folder) for name in self.formats]
        changed_ns = file.changed_ns or file.path.stat().st_mtime_ns
        return all(file.exists() and file.stat().st_mtime_ns >= changed_ns for file in written)

    def write(self, file: InputFile, transcript: Transcript) -> None:
        """Every format; a file appears whole or not at all. Raises VoxliveError and OSError."""
        for name in self.formats:
            body = FORMATS[name].write(transcript, self.options)
            if self.folder is None:
                typer.echo(body.removesuffix("\n"), self.stdout)
                continue
            target = self._target(file, name, self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.{os.getpid()}")
            try:
                part.write_text(body, encoding="utf-8")
                part.replace(target)
            finally:
                with suppress(FileNotFoundError):
                    part.unlink()

    def _target(self, file: InputFile, name: str, folder: Path) -> Path:
        return file.target(folder, FORMATS[name].suffix)


@dataclass(frozen=True, slots=True)
class Hints:
    """Options that a model may ignore; the transcript has a warning then."""

    prompt: str | None = None
    temperature: float = 0.0
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TranscribePlan:
    """What is done with every file, here or ``over`` a cluster."""

    spec: RunnerSpec
    requirements: Requirements
    hints: Hints
    output: OutputTarget
    over: Callable[[], RayBatch] | None = None
    speakers: SpeakerOptions | None = None

    def job(self, path: Path) -> Job:
        """One file's."""
        timed = any(FORMATS[name].word_times for name in self.output.formats)
        return Job(
            path,
            self.requirements.task,
            self.requirements.language,
            self.hints.prompt,
            self.hints.temperature,
            self.hints.max_tokens,
            words=self.requirements.words or timed or self.speakers is not None,
            speakers=self.speakers,
        )


async def run(plan: TranscribePlan, inputs: Sequence[InputFile]) -> bool:
    """Transcribe all files that are not done, in order on stdout; False if one failed."""
    if not plan.over:
        return await _run(Batch(), plan, inputs)
    with redirect_stdout(sys.stderr):  # where Ray prints what happens in the cluster
        try:
            batch = plan.over()
        except VoxliveError as refusal:
            print_error(told(refusal))
            return False
        return await _run(batch, plan, inputs)


async def _run(batch: Batch | RayBatch, plan: TranscribePlan, inputs: Sequence[InputFile]) -> bool:
    limit = asyncio.Semaphore(_MOST_OVER_CLUSTER if plan.over else _MOST_AT_ONCE)
    try:
        with progress(len(inputs), waiting=plan.over is None) as track:
            tasks = [
                asyncio.create_task(_transcribe(batch, plan, file, track, limit)) for file in inputs
            ]
            outcomes = [
                _finish(plan, file, *await task) for file, task in zip(inputs, tasks, strict=True)
            ]
    finally:
        await batch.aclose()
    print_summary(outcomes)
    return all(outcome.state != "failed" for outcome in outcomes)


async def _transcribe(
    batch: Batch | RayBatch,
    plan: TranscribePlan,
    file: InputFile,
    track: TrackFile,
    limit: asyncio.Semaphore,
) -> tuple[Transcript | VoxliveError | None, float]:
    """The transcript and the seconds that it took; None: it is there already."""
    async with limit:
        if plan.output.is_done(file):
            return None, 0.0
        began = time.monotonic()
        with track(file.name or file.path.name) as report:

            def on_update(update: Update) -> None:
                if isinstance(update, JobProgress):
                    report(update.done_s, update.total_s)

            try:
                transcript = await _recognise(batch, plan, file, on_update)
            except VoxliveError as refusal:
                return refusal, 0.0
        if plan.output.folder is not None:
            written = _written(plan, file, transcript)
            if isinstance(written, Transcript):  # of an archive there are many
                written = replace(written, text="", segments=())
            return written, time.monotonic() - began
        return transcript, time.monotonic() - began


async def _recognise(
    batch: Batch | RayBatch,
    plan: TranscribePlan,
    file: InputFile,
    on_update: Callable[[Update], None],
) -> Transcript:
    """Raises VoxliveError."""
    job = plan.job(file.path.absolute())
    if isinstance(batch, RayBatch):
        return await batch.transcribe(job, file.url, on_update)
    if not file.url:
        return await batch.transcribe(plan.spec, job, on_update)
    with ExitStack() as keep:
        job = await asyncio.to_thread(keep.enter_context, fetched(job, file.url))
        return await batch.transcribe(plan.spec, job, on_update)


def _written(
    plan: TranscribePlan, file: InputFile, transcript: Transcript
) -> Transcript | VoxliveError:
    """Write it at once, so that a run that is ended has lost nothing."""
    try:
        plan.output.write(file, transcript)
    except VoxliveError as refusal:
        return refusal
    except OSError as error:
        return VoxliveError("cannot_write", f"{error.filename}: {error.strerror}")
    return transcript


def _finish(
    plan: TranscribePlan,
    file: InputFile,
    transcript: Transcript | VoxliveError | None,
    took_s: float,
) -> Outcome:
    if transcript is None:
        return Outcome(file.path, "skipped")
    if isinstance(transcript, Transcript) and plan.output.folder is None:
        transcript = _written(plan, file, transcript)
    if isinstance(transcript, VoxliveError):
        print_error(f"{file.title}: {told(transcript)}")
        return Outcome(file.path, "failed")
    for warning in transcript.warnings:
        print_error(f"{file.title}: warning: {warning.message}")
    return Outcome(file.path, "done", transcript.duration, took_s)
