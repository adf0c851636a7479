"""Many files through one model: as many at a time as it takes, each written when it is done."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import typer

from ..runners.batch import Batch
from ..runners.contract import Job, Progress, Refusal, RunnerSpec, Transcript
from ..runners.formats import FORMATS, Wanted
from ..runners.policy import Asked
from .console import complain
from .inputs import Input
from .progress import Follow, progress
from .summary import Outcome, show

_AT_A_TIME = 8


@dataclass(frozen=True, slots=True)
class Writing:
    """In which formats, and where: ``folder`` None is stdout."""

    formats: tuple[str, ...]
    folder: Path | None
    wanted: Wanted
    overwrite: bool = False

    def is_done(self, one: Input) -> bool:
        """Whether all its results are there and newer than the file."""
        if self.folder is None or self.overwrite:
            return False
        written = [self._target(one, name, self.folder) for name in self.formats]
        heard = one.path.stat().st_mtime_ns
        return all(file.exists() and file.stat().st_mtime_ns >= heard for file in written)

    def write(self, one: Input, said: Transcript) -> None:
        """Every format; a file appears whole or not at all. Raises Refusal and OSError."""
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
class Plan:
    """What is done with every file."""

    spec: RunnerSpec
    asked: Asked
    hints: Hints
    writing: Writing

    def job(self, path: Path) -> Job:
        """One file's."""
        timed = any(FORMATS[name].word_times for name in self.writing.formats)
        return Job(
            path,
            self.asked.task,
            self.asked.language,
            self.hints.prompt,
            self.hints.temperature,
            self.hints.max_tokens,
            words=self.asked.words or timed,
        )


async def run(plan: Plan, inputs: Sequence[Input]) -> bool:
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
    batch: Batch, plan: Plan, one: Input, follow: Follow, places: asyncio.Semaphore
) -> tuple[Transcript | Refusal | None, float]:
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
                        if isinstance(update, Progress)
                        else None
                    ),
                )
            except Refusal as refusal:
                return refusal, 0.0
        if plan.writing.folder is not None:
            return _kept(plan, one, said), time.monotonic() - began
        return said, time.monotonic() - began


def _kept(plan: Plan, one: Input, said: Transcript) -> Transcript | Refusal:
    """Write it at once, so that a run that is ended has lost nothing."""
    try:
        plan.writing.write(one, said)
    except Refusal as refusal:
        return refusal
    except OSError as error:
        return Refusal(500, "cannot_write", f"{error.filename}: {error.strerror}")
    return said


def _finish(plan: Plan, one: Input, said: Transcript | Refusal | None, took_s: float) -> Outcome:
    if said is None:
        return Outcome(one.path, "skipped")
    if isinstance(said, Transcript) and plan.writing.folder is None:
        said = _kept(plan, one, said)
    if isinstance(said, Refusal):
        complain(f"{one.title}: {said.message}")
        return Outcome(one.path, "failed")
    for warning in said.warnings:
        complain(f"{one.title}: warning: {warning.message}")
    return Outcome(one.path, "done", said.duration, took_s)
