"""The runner for mlx-audio's speech models: files in stretches, one call of the model for each.

Runs in a process of its own; mlx-vlm's models go through it as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from voxlive.errors import RequestRefused
from voxlive.recognisers.contract import WARMING
from voxlive.recognisers.mlx_audio.families import find_family
from voxlive.recognisers.mlx_audio.family import CallOptions, language_name
from voxlive.recognisers.mlx_audio.model import FamilyModel, load_with_mlx_audio
from voxlive.runners.assembly import Recognised, stretches, transcribe
from voxlive.runners.refusals import cannot_use
from voxlive.runners.stretches import CutOptions
from voxlive.vad.detector import Silero

if TYPE_CHECKING:
    from pathlib import Path

    from voxlive.recognisers.contract import Recognition
    from voxlive.recognisers.mlx_audio.family import FamilyAdapter, FamilyRequest, Model
    from voxlive.runners.contract import Job, Runner, RunnerSpec, Transcript, Update
    from voxlive.runners.stretches import Stretch
    from voxlive.values import CodedWarning


def load(spec: RunnerSpec) -> Runner:
    """Load ``spec.local`` as ``spec.family``. Blocks.

    Raises RequestRefused for a family that cannot transcribe, files that do not make up this model,
    and options that it does not have.
    """
    return load_runner(spec, find_family(spec.model, spec.family))


def load_runner(
    spec: RunnerSpec,
    family: FamilyAdapter,
    load: Callable[[FamilyAdapter, Path], Model] = load_with_mlx_audio,
) -> FamilyRunner:
    """A runner for the model that ``load`` makes of the spec's folder. Raises RequestRefused."""
    if spec.quantize is not None or spec.delay_ms is not None:
        field = "quantize" if spec.quantize is not None else "delay_ms"
        message = f"{spec.model} runs as it was stored: leave this out"
        raise RequestRefused("unsupported_option", message, field)
    local = replace(spec.local, name=spec.model)
    return FamilyRunner(FamilyModel.load(local, family, spec.device, load))


def check_job(family: FamilyAdapter, model: Model, job: Job) -> tuple[CodedWarning, ...]:
    """Warnings for options that this loaded model ignores; raises RequestRefused for others."""
    if job.task == "translate" and (why := family.translation_refusal(model)):
        raise RequestRefused("unsupported_task", why, "task")
    language_name(family, model, job.language)
    unused = []
    if job.prompt and not family.prompt:
        unused.append(cannot_use("prompt", "this model takes no prompt"))
    if job.temperature and not family.temperature:
        unused.append(cannot_use("temperature", "this model does not sample"))
    if job.max_tokens is not None and not family.tokens:
        unused.append(cannot_use("max_tokens", "this model writes no tokens that could be counted"))
    if job.language and not family.languages.accepts_language(model):
        why = "this model finds out by itself which language is spoken"
        unused.append(cannot_use("language", why))
    return tuple(unused)


class FamilyRunner:
    """One model, one job at a time."""

    slots = 1

    def __init__(self, model: FamilyModel) -> None:
        family = model.family
        self._model = model
        self._cut = CutOptions(family.window_s, family.pause_s)
        self.stretch_s = family.window_s
        self._silero = Silero()

    def run(
        self, job: Job, on_update: Callable[[Update], None], cancelled: Callable[[], bool]
    ) -> Transcript:
        """Transcribe a file; see ``contract.Runner``."""
        model = self._model
        unused = check_job(model.family, model.model, job)
        calls = _ModelCalls(model, job)
        try:
            transcript = transcribe(
                job,
                lambda job: stretches(job, self._silero, self._cut, cancelled),
                calls.recognise,
                on_update,
                cancelled,
            )
        finally:
            model.free_memory()
        return replace(transcript, warnings=(*model.warnings, *unused, *transcript.warnings))

    def close(self) -> None:
        """Close the thread; it ends with the stretch at hand."""
        self._model.close()


class _ModelCalls:
    """The calls that one job makes, in order: a detected language may hold for the rest."""

    def __init__(self, model: FamilyModel, job: Job) -> None:
        self._model = model
        self._job = job
        self._options = CallOptions(
            job.task,
            job.prompt,
            (job.temperature,) if job.temperature else WARMING,
            job.words,
            instruction=job.instruction,
        )
        self._language = job.language
        self._tokens_left = job.max_tokens
        self._part = 0

    def recognise(self, stretch: Stretch) -> Recognised:
        family = self._model.family
        request = self._model.request(
            stretch.samples, self._language, self._options, self._tokens_left
        )
        if request.max_tokens == 0:
            return Recognised((), last=True)
        recognised = self._within_limit(self._model.recognise(request), request)
        if self._job.language and family.languages.parameters:
            recognised = replace(recognised, language=None)  # the job's own, not a detected one
        if family.languages.detect_once and not recognised.cut_short:
            self._language = self._language or recognised.language
        return self._labelled(recognised) if family.speakers else recognised

    def _within_limit(self, found: Recognition, request: FamilyRequest) -> Recognised:
        """Count tokens against the job's limit; a call that is made again does not count."""
        left = self._tokens_left
        last = found.cut_short and left is not None and request.max_tokens == left
        cut_short = found.cut_short and not last
        if left is not None and not cut_short:
            self._tokens_left = max(0, left - (found.tokens or 0))
        return Recognised(
            found.segments, found.language, found.prompt_tokens, found.tokens, cut_short, last
        )

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
