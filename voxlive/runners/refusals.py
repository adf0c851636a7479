"""Every reason to refuse a model or a request, in one table from which ``docs/batch.md`` is made.

``select_backend_policy`` decides whether a model may do what a request requires, before anything is
loaded: it allows, or returns the first refusal that applies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from voxlive.checkpoints.languages import unknown_language_message
from voxlive.checkpoints.local_model import LocalModel, ModelCapabilities
from voxlive.checkpoints.packages import SPEAKER_MODEL, speaker_model
from voxlive.errors import ERRORS, RequestRefused, status_of
from voxlive.recognisers.contract import Task
from voxlive.runners.contract import RunnerSpec
from voxlive.runners.routing import ModelHealth, Routing
from voxlive.values import CodedWarning

TASKS = ("transcribe", "translate")
_WORKING_BYTES = 3 << 30
"""What a model of no known family needs beside its weights."""
_LEAST_WORKING_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a request requires of a model. ``language`` is a code."""

    task: Task = "transcribe"
    language: str | None = None
    words: bool = False
    speakers: bool = False


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How models are loaded; None leaves the choice to the model's backend."""

    device: Literal["gpu", "cpu"] | None = None
    quantize: int | None = None
    delay_ms: int | None = None
    keep_quantized: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """The input of the decision."""

    model: str
    local: LocalModel
    routing: Routing
    health: ModelHealth
    requirements: Requirements
    load: LoadOptions

    @property
    def capabilities(self) -> ModelCapabilities:
        """What the model is and can do."""
        return self.local.capabilities

    @property
    def title(self) -> str:
        """The model as messages call it."""
        family = self.routing.family
        return f"{self.model} ({family.title})" if family else self.model


@dataclass(frozen=True, slots=True)
class RefusalRule:
    """One reason to refuse. ``message`` gives the message if it applies; ``note`` is for the docs.

    ``message`` None: it is checked elsewhere, while the request is read or the model runs.
    """

    code: str
    param: str | None = None
    message: Callable[[Case], str | None] | None = None
    note: str | None = None

    @property
    def status(self) -> int:
        """The HTTP status."""
        return status_of(self.code)

    @property
    def when(self) -> str:
        """When it applies, for the docs."""
        return self.note or ERRORS[self.code].meaning


def _bad_task(case: Case) -> str | None:
    return None if case.requirements.task in TASKS else f"task must be {' or '.join(TASKS)}"


def _no_audio(case: Case) -> str | None:
    found = case.capabilities
    if found.refused is not None and not found.transcribes:
        return f"{case.title} transcribes nothing: {found.refused}"
    if case.routing.backend is None and found.model_type and not found.audio:
        return (
            f"{case.model} is no speech model (model_type {found.model_type[:60]!r}): choose one "
            "that hears, such as voxtral or a Whisper"
        )
    return None


def _unknown_kind(case: Case) -> str | None:
    if case.health.files and not case.capabilities.model_type:
        return None  # nothing is known of a checkpoint whose config is missing or damaged
    if case.routing.backend is None or (
        case.routing.family is None and case.routing.backend == "mlx_audio"
    ):
        kind = case.capabilities.model_type
        reason = f"model_type {kind[:60]!r} is" if kind else "its config has no model_type and is"
        return f"{case.model} cannot be served: {reason} of no family known here"
    return None


def _refused_form(case: Case) -> str | None:
    reason = case.capabilities.refused
    return f"{case.title} cannot be loaded in this form: {reason}" if reason else None


def _unknown_to_installed(case: Case) -> str | None:
    return _problem_message(case, "cannot be loaded", case.health.unknown)


def _missing(case: Case) -> str | None:
    return _problem_message(case, "cannot be loaded", case.health.missing)


def _unhealthy(case: Case) -> str | None:
    return _problem_message(case, "is not complete", case.health.files)


def _problem_message(case: Case, what: str, problems: tuple[object, ...]) -> str | None:
    return f"{case.title} {what}: {'; '.join(map(str, problems))}" if problems else None


def _bad_option(case: Case) -> str | None:
    options = ("fewer bits", case.load.quantize), ("a delay", case.load.delay_ms)
    given = [name for name, value in options if value is not None]
    if not given or case.routing.backend == "voxtral_realtime":
        return None
    return f"{case.title} runs as it is stored: it cannot have {' or '.join(given)}"


def _no_translation(case: Case) -> str | None:
    if case.requirements.task == "translate" and "translate" not in case.capabilities.features:
        return (
            f"{case.title} transcribes but does not translate: choose a multilingual Whisper "
            "that is neither turbo nor distilled, such as large-v3"
        )
    return None


def _no_speakers(case: Case) -> str | None:
    if not case.requirements.speakers or "speakers" in case.capabilities.features:
        return None
    if speaker_model() is not None:
        return None  # by their voices, whatever the model is
    return (
        f"{case.title} does not tell speakers apart; voxlive models fetch {SPEAKER_MODEL} brings "
        "what does it by their voices, for every model that knows times"
    )


def _no_word_times(case: Case) -> str | None:
    if case.requirements.words and "words" not in case.capabilities.features:
        return f"{case.title} knows no word times: ask for those of segments"
    return None


def _unknown_language(case: Case) -> str | None:
    code, known = case.requirements.language, case.capabilities.languages
    if code is None or known is None or code in known:
        return None
    return unknown_language_message(case.title, code, known)


@dataclass(frozen=True, slots=True)
class RequestField:
    """A field of a request that not every model can use, and what is done where one cannot.

    ``refused`` false: the job is done without it, with a warning in the answer.
    """

    name: str
    refused: bool
    why: str


FIELDS = (
    RequestField(
        "prompt",
        False,
        "also `keywords` and `context_bias`; a hint, which dictation apps send with every request",
    ),
    RequestField("temperature", False, "0 suits every model; chat clients send others by default"),
    RequestField(
        "language",
        False,
        "where the model knows it and finds out by itself which one is spoken. One that it does "
        "not know is `unsupported_language`",
    ),
    RequestField(
        "max_tokens", True, "a limit that would not be kept; no client sends one by default"
    ),
)


def cannot_use(field: str, why: str) -> CodedWarning:
    """The warning for a field that a model cannot use, or RequestRefused by ``FIELDS``."""
    [known] = (one for one in FIELDS if one.name == field)
    if known.refused:
        raise RequestRefused("unsupported_parameter", f"{why}: leave it out", field)
    return CodedWarning(f"{field}_ignored", f"the {field} has no effect: {why}")


REFUSAL_RULES = (
    RefusalRule("model_not_found", "model"),
    RefusalRule("bad_task", "task", _bad_task),
    RefusalRule("bad_language", "language"),
    RefusalRule("too_big", "file", note="the upload is larger than the server's limit"),
    RefusalRule("audio_too_long", "file"),
    RefusalRule("unsupported_model", "model", _no_audio),
    RefusalRule("unknown_model_type", "model", _unknown_kind),
    RefusalRule("unsupported_checkpoint", "model", _refused_form),
    RefusalRule("missing_dependency", "model", _missing),
    RefusalRule("unsupported_by_backend", "model", _unknown_to_installed),
    RefusalRule("model_unhealthy", "model", _unhealthy),
    RefusalRule(
        "unsupported_option",
        None,
        _bad_option,
        note="`--quantize` or `--delay-ms` with a model that is loaded as it is stored",
    ),
    RefusalRule("unsupported_task", "task", _no_translation),
    RefusalRule("no_speakers", "response_format", _no_speakers),
    RefusalRule("no_word_times", "timestamp_granularities[]", _no_word_times),
    RefusalRule("unsupported_language", "language", _unknown_language),
    RefusalRule("language_required", "language"),
    RefusalRule("unsupported_parameter"),
    RefusalRule("no_times", "response_format"),
    RefusalRule("unusable_model", "model"),
    RefusalRule("endless_text", "model"),
    RefusalRule("no_process"),
    RefusalRule("runner_replaced"),
    RefusalRule("queue_full"),
    RefusalRule("insufficient_storage"),
    RefusalRule("models_busy"),
    RefusalRule("timeout"),
    RefusalRule("shutting_down"),
    RefusalRule("insufficient_memory"),
    RefusalRule("runner_crashed"),
    RefusalRule("runner_hung"),
    RefusalRule("model_load_failed"),
)
"""In the order in which they are checked; the last while a model is loaded or runs."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """``notes`` are for people: a tie-break, a limit of the model."""

    spec: RunnerSpec
    notes: tuple[str, ...] = ()


def select_backend_policy(
    model: str,
    local: LocalModel,
    routing: Routing,
    health: ModelHealth,
    requirements: Requirements | None = None,
    load: LoadOptions | None = None,
) -> Allowed | RequestRefused:
    """Allow, or the first refusal of the table that applies."""
    case = Case(
        model, local, routing, health, requirements or Requirements(), load or LoadOptions()
    )
    for rule in REFUSAL_RULES:
        message = rule.message(case) if rule.message else None
        if message is not None:
            return RequestRefused(rule.code, message, rule.param)
    notes = (routing.tie_break, *local.capabilities.warnings)
    return Allowed(_spec(case), tuple(note for note in notes if note))


def _spec(case: Case) -> RunnerSpec:
    """``needed_bytes``: the weights as they are loaded, and what the family needs beside them."""
    backend, family, load = case.routing.backend, case.routing.family, case.load
    assert backend is not None
    live = backend == "voxtral_realtime"
    return RunnerSpec(
        model=case.model,
        backend=backend,
        family=family.name if family else case.capabilities.model_type or "",
        local=case.local,
        needed_bytes=_needed_bytes(case),
        device=load.device,
        quantize=load.quantize if live else None,
        delay_ms=load.delay_ms if live else None,
        keep_quantized=load.keep_quantized,
    )


def _needed_bytes(case: Case) -> int:
    family, stored = case.routing.family, case.capabilities.weights_bytes
    shrunk = case.load.quantize is not None and case.capabilities.bits is None
    # Weights come as 16 bits; a group's scale and bias add half a bit per value.
    loaded = stored * (case.load.quantize + 0.5) / 16 if shrunk and case.load.quantize else stored
    # Caches and activations grow with the model: a small one of a large family needs less.
    return int(loaded) + min(
        family.room if family else _WORKING_BYTES, int(loaded) + _LEAST_WORKING_BYTES
    )
