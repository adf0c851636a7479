"""Any of mlx-audio's families as a recogniser: Whisper, Parakeet, Qwen3-ASR and the others.

MLX's lazy arrays belong to the thread that made them, so that a model makes one pass at a time,
on its own thread. Words have the model's times where it has any; else the times of a segment are
spread over its words by their characters, and ``RecogniserInfo.timed_words`` says so.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from operator import add
from typing import TYPE_CHECKING, TypeVar

import mlx.core as mx

from voxlive.errors import RequestRefused
from voxlive.recognisers.contract import (
    PADDED,
    REPETITIVE,
    PassOptions,
    RecogniserInfo,
    Recognition,
    Task,
    in_windows,
)
from voxlive.recognisers.mlx_audio.families import find_family
from voxlive.recognisers.mlx_audio.family import CallOptions, language_name
from voxlive.recognisers.mlx_audio.model import FamilyModel, check_gpu_memory
from voxlive.recognisers.mlx_audio.outputs import spread_words
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.recognisers.contract import LoadingOptions
    from voxlive.values import Samples, Segment


_N = TypeVar("_N", int, float)


def load(local: LocalModel, options: LoadingOptions) -> MlxAudioRecogniser:
    """Load a checkpoint as its family. Blocks. ``threads`` and ``parallel`` are MLX's own matter.

    Raises RequestRefused for a family that transcribes nothing, for files that do not make up such
    a model, and for what is missing on this machine.
    """
    found = local.family
    adapter = find_family(local.name, found.name if found else str(local.capabilities.model_type))
    if found:
        needed = local.capabilities.weights_bytes + found.room
        check_gpu_memory(local.name, needed, options.device)
    return MlxAudioRecogniser(FamilyModel.load(local, adapter, options.device), local)


class MlxAudioRecogniser:
    """One loaded model; see ``contract.Recogniser``."""

    def __init__(self, model: FamilyModel, local: LocalModel) -> None:
        family = model.family
        names = family.languages.names
        known = names(model.model) if names else local.capabilities.languages or ()
        self._model = model
        self._info = RecogniserInfo(
            local.name,
            tuple(sorted(known)),
            family.window_s,
            "gpu" if mx.default_device().type == mx.gpu else "cpu",
            f"{bits} bits" if (bits := local.capabilities.bits) else "as stored",
            family.translation_refusal(model.model),
            timed_words=family.words,
            takes_language=family.languages.accepts_language(model.model),
            language_required=family.languages.required,
            warning="; ".join(one.message for one in model.warnings) or None,
        )

    @property
    def info(self) -> RecogniserInfo:
        """What was loaded."""
        return self._info

    def recognise(
        self,
        samples: Samples,
        language: str | None = None,
        task: Task = "transcribe",
        vocabulary: tuple[str, ...] = (),
        how: PassOptions = PADDED,
    ) -> Recognition:
        """The words in ``samples``; see ``contract.Recogniser``.

        ``beam`` has no effect, ``margin_s`` and ``least_s`` only in a model that fills a window
        (Whisper), and ``vocabulary`` in one that takes a prompt. Raises RuntimeError for a pass
        that fails.
        """
        self._check(language, task)
        if not len(samples):
            return Recognition()
        wanted = ", ".join(filter(None, (how.prompt, *vocabulary))) or None
        options = CallOptions(task, wanted, how.temperatures, how.words, how.margin_s, how.least_s)
        longest = round(self._model.family.window_s * SAMPLE_RATE)
        whole = Recognition()
        for start, part in in_windows(samples, longest):
            left = None if how.max_tokens is None else how.max_tokens - (whole.tokens or 0)
            if left is not None and left <= 0:
                return replace(whole, cut_short=True)
            try:
                found = self._recognise_window(part, language or whole.language, options, left)
            except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
                # What models raise for audio that they make nothing of.
                raise RuntimeError(f"{type(error).__name__}: {error}") from error
            whole = _joined(whole, found, start)
            if how.margin_s is not None:
                break
        return whole

    def languages_of(self, samples: Samples) -> tuple[tuple[str, float], ...]:
        """The languages that may be spoken; see ``contract.Recogniser``.

        Empty for a model of several that gives no probabilities.
        """
        if len(self._info.languages) == 1:
            return ((self._info.languages[0], 1.0),)
        longest = round(self._model.family.window_s * SAMPLE_RATE)
        request = self._model.request(samples[:longest], None, CallOptions(), None)
        return self._model.likeliest(request) or ()

    def close(self) -> None:
        """End the thread and free the weights."""
        self._model.close()
        del self._model

    def _check(self, language: str | None, task: Task) -> None:
        language_name(self._model.family, self._model.model, language)
        if task == "translate" and self._info.no_translation:
            raise RequestRefused("unsupported_task", self._info.no_translation, "task")

    def _recognise_window(
        self, samples: Samples, language: str | None, options: CallOptions, left: int | None
    ) -> Recognition:
        """One call, or one for each temperature while the text repeats itself."""
        model = self._model
        request = model.request(samples, language, options, left)
        likeliest = None if language else model.likeliest(request)
        spoken, p = likeliest[0] if likeliest else (None, None)
        if spoken and len(self._info.languages) > 1:
            request = model.request(samples, spoken, options, left)
        for temperature in self._ladder(options.temperatures):
            options = replace(request.options, temperatures=temperature)
            found = _with_compression(model.recognise(replace(request, options=options)))
            if not found.compression or found.compression <= REPETITIVE:
                break
        segments = tuple(_with_words(one, len(samples), options) for one in found.segments)
        named = language is not None or len(self._info.languages) == 1
        if named:
            return replace(found, segments=segments, language=None, language_p=None)
        return replace(found, segments=segments, language=spoken or found.language, language_p=p)

    def _ladder(self, temperatures: Sequence[float]) -> Sequence[tuple[float, ...]]:
        """The temperatures of each call."""
        family = self._model.family
        if family.warms:
            return (tuple(temperatures),)
        return [(one,) for one in temperatures[: None if family.temperature else 1]]


def _joined(whole: Recognition, found: Recognition, start: int) -> Recognition:
    """What was recognised so far and the window from sample ``start``; figures are the worst."""
    before = whole.segments
    segments: list[Segment] = [*before, *(one.moved(start) for one in found.segments)]
    return replace(
        found,
        segments=tuple(replace(one, id=at) for at, one in enumerate(segments)),
        language=whole.language or found.language,
        language_p=whole.language_p if whole.language else found.language_p,
        no_speech=_both(max, whole.no_speech, found.no_speech),
        mean_logprob=_both(min, whole.mean_logprob, found.mean_logprob),
        compression=_both(max, whole.compression, found.compression),
        temperature=_both(max, whole.temperature, found.temperature),
        tokens=_both(add, whole.tokens, found.tokens),
        prompt_tokens=_both(add, whole.prompt_tokens, found.prompt_tokens),
        cut_short=whole.cut_short or found.cut_short,
    )


def _with_words(segment: Segment, length: int, options: CallOptions) -> Segment:
    if not options.words:
        return replace(segment, words=None)
    return spread_words(segment, length) if segment.words is None else segment


def _both(combine: Callable[[_N, _N], _N], one: _N | None, other: _N | None) -> _N | None:
    """Two figures as one, where both are known; else the one that is."""
    if one is None or other is None:
        return other if one is None else one
    return combine(one, other)


def _with_compression(found: Recognition) -> Recognition:
    """With OpenAI's figure for repetition, where the model does not give it."""
    text = found.text.strip().encode()
    if found.compression is not None or not text:
        return found
    return replace(found, compression=len(text) / len(zlib.compress(text)))
