"""From a folder to a model of a family that is known beforehand, with every tensor in its place.

A family's loaded model as a runner: one thread owns it, files go through it in stretches.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import soxr

from voxlive.errors import RequestRefused
from voxlive.runners.assembly import Recognised, stretches, transcribe
from voxlive.runners.contract import Job, JobWarning, RunnerSpec, Transcript, Update
from voxlive.runners.cutting import Stretch
from voxlive.runners.mlx_audio.families import FAMILIES, NOT_FOR_FILES
from voxlive.runners.mlx_audio.family import FamilyRequest, check, spoken
from voxlive.runners.mlx_models import MlxThread, free_memory, loaded, surplus, surplus_left_out
from voxlive.vad.silero import Silero
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from pathlib import Path

    from voxlive.runners.mlx_audio.family import FamilyAdapter, Model


def family_of(spec: RunnerSpec) -> FamilyAdapter:
    """The description of ``spec.family``; RequestRefused for one that transcribes no files."""
    if why := NOT_FOR_FILES.get(spec.family):
        raise RequestRefused("unsupported_model", f"{spec.model}: {why}", "model")
    if family := FAMILIES.get(spec.family):
        return family
    known = ", ".join(sorted(FAMILIES))
    message = f"{spec.model} is a {spec.family!r}, and mlx-audio runs no such files: use {known}"
    raise RequestRefused("unsupported_model", message, "model")


def load_model(family: FamilyAdapter, folder: Path) -> Model:
    """Load on the calling thread. Raises whatever mlx-audio does for files that do not fit.

    The family is given and names of folders are kept out: mlx-audio would otherwise go by them,
    and load another family's class with random weights.
    """
    from mlx_audio.stt import load

    family.before()
    model = load(folder, model_type=family.model_type, model_name_parts=[], strict=True)
    family.prepare(model, folder)
    return model


_LEAST = SAMPLE_RATE  # a model's first layers need some audio: less is followed by silence


def load_runner(
    spec: RunnerSpec, family: FamilyAdapter, load: Callable[[Path], Model]
) -> FamilyRunner:
    """A runner for the model that ``load`` makes of the spec's folder. Raises RequestRefused."""
    with ExitStack() as undo:
        thread = MlxThread(spec.backend)
        undo.callback(thread.close)
        with surplus_left_out() as left_out:
            model = thread.run(loaded, spec, load)
        runner = FamilyRunner(family, model, thread, surplus(left_out))
        undo.pop_all()
    return runner


class FamilyRunner:
    """One model, one job at a time."""

    slots = 1

    def __init__(
        self,
        family: FamilyAdapter,
        model: Model,
        thread: MlxThread,
        warnings: tuple[JobWarning, ...] = (),
    ) -> None:
        self._warnings = warnings
        self.stretch_s = family.cut.longest_s
        self._family = family
        self._model = model
        self._thread = thread
        self._silero = Silero()

    def run(
        self, job: Job, told: Callable[[Update], None], cancelled: Callable[[], bool]
    ) -> Transcript:
        """Transcribe a file; see ``contract.Runner``."""
        unused = check(self._family, self._model, job)
        calls = _Calls(self._family, self._model, job)
        try:
            said = transcribe(
                job,
                lambda job: stretches(job, self._silero, self._family.cut, cancelled),
                lambda stretch: self._thread.run(calls.hear, stretch),
                told,
                cancelled,
            )
        finally:
            self._thread.run(free_memory)
        return replace(said, warnings=(*self._warnings, *unused, *said.warnings))

    def close(self) -> None:
        """Let the thread go; it ends with the stretch at hand."""
        self._thread.close()


class _Calls:
    """The calls that one job makes, in order: a language once found may hold for the rest."""

    def __init__(self, family: FamilyAdapter, model: Model, job: Job) -> None:
        self._family = family
        self._model = model
        self._job = job
        self._language = job.language
        self._left = job.max_tokens
        self._part = 0

    def hear(self, stretch: Stretch) -> Recognised:
        family = self._family
        ask = self._ask(stretch)
        if ask.max_tokens == 0:
            return Recognised((), last=True)
        output = family.call(self._model, family.audio(ask), family.arguments(ask))
        heard = self._within_limit(family.heard(output, ask), ask)
        if self._job.language and family.languages.parameters:
            heard = replace(heard, language=None)  # it was told, and says it back
        if family.languages.kept and not heard.cut_short:
            self._language = self._language or heard.language
        return self._labelled(heard) if family.speakers else heard

    def _within_limit(self, heard: Recognised, ask: FamilyRequest) -> Recognised:
        """Count what was written against the job's limit; a try that is made again is not."""
        if self._left is None:
            return heard
        if heard.cut_short and ask.max_tokens == self._left:
            heard = replace(heard, cut_short=False, last=True)
        if not heard.cut_short:
            self._left = max(0, self._left - (heard.completion_tokens or 0))
        return heard

    def _ask(self, stretch: Stretch) -> FamilyRequest:
        family, job = self._family, self._job
        samples = stretch.samples
        seconds = len(samples) / SAMPLE_RATE
        if len(samples) < _LEAST:
            samples = np.pad(samples, (0, _LEAST - len(samples)))
        if family.rate != SAMPLE_RATE:
            samples = soxr.resample(samples, SAMPLE_RATE, family.rate)
        limit = family.tokens.limit(seconds, self._left) if family.tokens else None
        called = spoken(family, self._model, self._language)
        return FamilyRequest(job, samples, seconds, self._language, called, limit)

    def _labelled(self, heard: Recognised) -> Recognised:
        """Who is called 0 in one stretch need not be the 0 of another."""
        self._part += 1
        if self._part == 1:
            return heard
        segments = (
            replace(segment, speaker=segment.speaker and f"{self._part}:{segment.speaker}")
            for segment in heard.segments
        )
        return replace(heard, segments=tuple(segments))
