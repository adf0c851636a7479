"""Loads a model of a family of mlx-audio's, strictly, and runs files through it in stretches.

One thread owns the model.
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
from voxlive.runners.contract import Job, RunnerSpec, Transcript, Update
from voxlive.runners.cutting import Stretch
from voxlive.runners.mlx_audio.families import FAMILIES, NOT_FOR_FILES
from voxlive.runners.mlx_audio.family import FamilyRequest, check_job, language_name
from voxlive.runners.mlx_models import (
    MlxThread,
    free_memory,
    ignoring_surplus_tensors,
    load_checked,
    surplus_warnings,
)
from voxlive.vad.detector import Silero
from voxlive.values import SAMPLE_RATE, CodedWarning

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

    family.before_load()
    model = load(folder, model_type=family.model_type, model_name_parts=[], strict=True)
    family.after_load(model, folder)
    return model


_LEAST = SAMPLE_RATE  # a model's first layers need some audio: less is followed by silence


def load_runner(
    spec: RunnerSpec, family: FamilyAdapter, load: Callable[[Path], Model]
) -> FamilyRunner:
    """A runner for the model that ``load`` makes of the spec's folder. Raises RequestRefused."""
    with ExitStack() as undo:
        thread = MlxThread(spec.backend)
        undo.callback(thread.close)
        with ignoring_surplus_tensors() as ignored:
            model = thread.run(load_checked, spec, load)
        runner = FamilyRunner(family, model, thread, surplus_warnings(ignored))
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
        warnings: tuple[CodedWarning, ...] = (),
    ) -> None:
        self._warnings = warnings
        self.stretch_s = family.cut.longest_s
        self._family = family
        self._model = model
        self._thread = thread
        self._silero = Silero()

    def run(
        self, job: Job, on_update: Callable[[Update], None], cancelled: Callable[[], bool]
    ) -> Transcript:
        """Transcribe a file; see ``contract.Runner``."""
        unused = check_job(self._family, self._model, job)
        calls = _ModelCalls(self._family, self._model, job)
        try:
            transcript = transcribe(
                job,
                lambda job: stretches(job, self._silero, self._family.cut, cancelled),
                lambda stretch: self._thread.run(calls.recognise, stretch),
                on_update,
                cancelled,
            )
        finally:
            self._thread.run(free_memory)
        return replace(transcript, warnings=(*self._warnings, *unused, *transcript.warnings))

    def close(self) -> None:
        """Close the thread; it ends with the stretch at hand."""
        self._thread.close()


class _ModelCalls:
    """The calls that one job makes, in order: a detected language may hold for the rest."""

    def __init__(self, family: FamilyAdapter, model: Model, job: Job) -> None:
        self._family = family
        self._model = model
        self._job = job
        self._language = job.language
        self._tokens_left = job.max_tokens
        self._part = 0

    def recognise(self, stretch: Stretch) -> Recognised:
        family = self._family
        request = self._request(stretch)
        if request.max_tokens == 0:
            return Recognised((), last=True)
        output = family.call(self._model, family.audio(request), family.arguments(request))
        recognised = self._within_limit(family.parse_output(output, request), request)
        if self._job.language and family.languages.parameters:
            recognised = replace(recognised, language=None)  # the job's own, not a detected one
        if family.languages.detect_once and not recognised.cut_short:
            self._language = self._language or recognised.language
        return self._labelled(recognised) if family.speakers else recognised

    def _within_limit(self, recognised: Recognised, request: FamilyRequest) -> Recognised:
        """Count tokens against the job's limit; a call that is made again does not count."""
        if self._tokens_left is None:
            return recognised
        if recognised.cut_short and request.max_tokens == self._tokens_left:
            recognised = replace(recognised, cut_short=False, last=True)
        if not recognised.cut_short:
            self._tokens_left = max(0, self._tokens_left - (recognised.completion_tokens or 0))
        return recognised

    def _request(self, stretch: Stretch) -> FamilyRequest:
        family, job = self._family, self._job
        samples = stretch.samples
        seconds = len(samples) / SAMPLE_RATE
        if len(samples) < _LEAST:
            samples = np.pad(samples, (0, _LEAST - len(samples)))
        if family.rate != SAMPLE_RATE:
            samples = soxr.resample(samples, SAMPLE_RATE, family.rate)
        limit = family.tokens.limit(seconds, self._tokens_left) if family.tokens else None
        name = language_name(family, self._model, self._language)
        return FamilyRequest(job, samples, seconds, self._language, name, limit)

    def _labelled(self, recognised: Recognised) -> Recognised:
        """Who is called 0 in one stretch need not be the 0 of another."""
        self._part += 1
        if self._part == 1:
            return recognised
        segments = (
            replace(segment, speaker=segment.speaker and f"{self._part}:{segment.speaker}")
            for segment in recognised.segments
        )
        return replace(recognised, segments=tuple(segments))
