"""What mlx-audio's families have in common: how each is called and what comes back.

Nothing here imports mlx: a family is a description, and the loaded model is handed to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from voxlive.checkpoints.languages import NAMES, unknown_language_message
from voxlive.errors import RequestRefused
from voxlive.runners.assembly import Recognised
from voxlive.runners.contract import Job
from voxlive.runners.cutting import CutOptions
from voxlive.runners.refusals import cannot_use
from voxlive.values import CodedWarning

if TYPE_CHECKING:
    from pathlib import Path

    from voxlive.values import Samples

# The families' classes share no type: a model is whatever mlx-audio's loader gives.
Model = Any
Output = Any
Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FamilyRequest:
    """One call for one stretch: float32 mono [n] at the family's rate, ``seconds`` long.

    ``language`` is a code, ``language_name`` what the model calls it. ``max_tokens`` is the limit
    of this call, None for a model that writes none.
    """

    job: Job
    samples: Samples
    seconds: float
    language: str | None
    language_name: str | None
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class Languages:
    """How a family takes the language.

    ``names`` gives a loaded model's codes and what it calls them; without it every code is
    accepted, since the model detects the language. ``parameters`` of generate take the name.
    ``required``: it cannot detect it. ``detect_once``: what it detects first holds for the file.
    """

    names: Callable[[Model], Mapping[str, str]] | None = None
    parameters: tuple[str, ...] = ()
    required: bool = False
    detect_once: bool = False

    def accepts_language(self, model: Model) -> bool:
        """Whether naming a language has an effect, or there is only one to name."""
        return bool(self.parameters) or (self.names is not None and len(self.names(model)) == 1)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A family that writes token by token: its limit's parameter, and a limit by default.

    No speech has ``per_second`` tokens: a model at this limit repeats itself.
    """

    parameter: str = "max_tokens"
    per_second: float = 12
    least: int = 64
    most: int = 8192

    def limit(self, seconds: float, left: int | None) -> int:
        """What one call may write; of the job's own limit ``left`` are left."""
        own = min(self.most, max(self.least, int(seconds * self.per_second)))
        return own if left is None else min(own, left)


def numpy_audio(request: FamilyRequest) -> Any:
    """The samples as they are, for a model that takes numpy arrays."""
    return request.samples


def translates(_model: Model) -> str | None:
    """No reason against translating, for a family in which every model can."""
    return None


def language_titles() -> Mapping[str, str]:
    """English names by code, for a model that is told languages in words."""
    return {code: name.title() for code, name in NAMES.items()}


def _mlx_audio(request: FamilyRequest) -> Any:
    import mlx.core as mx

    return mx.array(request.samples)


def _generate(model: Model, audio: Any, arguments: Arguments) -> Output:
    return model.generate(audio, **arguments)


def _before_load() -> None:
    """Most families use mlx-audio's classes unchanged."""


def _after_load(_model: Model, _folder: Path) -> None:
    """Most families need nothing more once they are loaded."""


def _unchanged(arguments: Arguments, _request: FamilyRequest) -> Arguments:
    return arguments


def _does_not_translate(_model: Model) -> str | None:
    return "this model transcribes but does not translate: choose a multilingual Whisper"


@dataclass(frozen=True, slots=True)
class FamilyAdapter:
    """One family of mlx-audio's models.

    ``model_type`` is its name there. ``parse_output`` reads its output; ``adapt`` makes the final
    arguments of generate. ``prompt`` and ``temperature`` name generate's parameters for these.
    ``translation_refusal`` gives the reason why a loaded model cannot translate, None if it can.
    ``audio`` makes generate's first argument, ``call`` calls it. ``before_load`` and ``after_load``
    are called once each.
    ``words``: it can time its words. ``speakers``: it labels who speaks, within one stretch.
    """

    model_type: str
    cut: CutOptions
    parse_output: Callable[[Output, FamilyRequest], Recognised]
    languages: Languages = Languages()
    tokens: Tokens | None = None
    prompt: str | None = None
    temperature: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    adapt: Callable[[Arguments, FamilyRequest], Arguments] = _unchanged
    translation_refusal: Callable[[Model], str | None] = _does_not_translate
    rate: int = 16_000
    audio: Callable[[FamilyRequest], Any] = _mlx_audio
    call: Callable[[Model, Any, Arguments], Output] = _generate
    before_load: Callable[[], None] = _before_load
    after_load: Callable[[Model, Path], None] = _after_load
    words: bool = False
    speakers: bool = False

    def arguments(self, request: FamilyRequest) -> Arguments:
        """The keyword arguments of generate."""
        given: Arguments = dict(self.fixed)
        if request.language_name is not None:
            given |= dict.fromkeys(self.languages.parameters, request.language_name)
        if self.prompt and request.job.prompt:
            given[self.prompt] = request.job.prompt
        if self.temperature:
            given[self.temperature] = request.job.temperature
        if self.tokens and request.max_tokens is not None:
            given[self.tokens.parameter] = request.max_tokens
        return self.adapt(given, request)


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


def language_name(family: FamilyAdapter, model: Model, language: str | None) -> str | None:
    """What the model calls this language; None where none is named. Raises RequestRefused."""
    languages = family.languages
    names = languages.names(model) if languages.names else {}
    if language is None:
        if languages.required:
            message = f"this model has to be told the language: one of {_listed(names)}"
            raise RequestRefused("language_required", message, "language")
        return None
    if names and language not in names:
        message = unknown_language_message("this model", language, names)
        raise RequestRefused("unsupported_language", message, "language")
    return names.get(language)


def _listed(names: Mapping[str, str]) -> str:
    return ", ".join(sorted(names))
