"""What mlx-audio's families have in common: how each is called and what comes back.

Nothing here imports mlx: a family is a description, and the loaded model is handed to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from voxlive.checkpoints.languages import unknown_to
from voxlive.errors import RequestRefused
from voxlive.runners.assembly import Recognised
from voxlive.runners.contract import Job, JobWarning
from voxlive.runners.cutting import CutOptions
from voxlive.runners.refusals import cannot_use

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

    ``language`` is a code, ``spoken`` the same as the model calls it. ``max_tokens`` is the limit
    of this call, None for a model that writes none.
    """

    job: Job
    samples: Samples
    seconds: float
    language: str | None
    spoken: str | None
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class Languages:
    """How a family is told the language.

    ``known`` gives a loaded model's codes and what it calls them; without it any code is taken for
    what the speaker says, since the model finds out by itself. ``parameters`` of generate take the
    name. ``needed``: it cannot find out. ``kept``: what it found first holds for the whole file.
    """

    known: Callable[[Model], Mapping[str, str]] | None = None
    parameters: tuple[str, ...] = ()
    needed: bool = False
    kept: bool = False

    def is_told(self, model: Model) -> bool:
        """Whether naming a language makes a difference, or there is only one to name."""
        return bool(self.parameters) or (self.known is not None and len(self.known(model)) == 1)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A family that writes token by token: its limit's parameter, and a limit by default.

    Nobody speaks ``per_second`` tokens, so that a model at this limit has lost its way.
    """

    parameter: str = "max_tokens"
    per_second: float = 12
    least: int = 64
    most: int = 8192

    def limit(self, seconds: float, left: int | None) -> int:
        """What one call may write; of the job's own limit ``left`` are left."""
        own = min(self.most, max(self.least, int(seconds * self.per_second)))
        return own if left is None else min(own, left)


def _mlx(ask: FamilyRequest) -> Any:
    import mlx.core as mx

    return mx.array(ask.samples)


def _generate(model: Model, audio: Any, arguments: Arguments) -> Output:
    return model.generate(audio, **arguments)


def _as_it_is() -> None:
    """mlx-audio's classes are used as they are."""


def _ready(_model: Model, _folder: Path) -> None:
    """Most families are, once they are loaded."""


def _no_change(arguments: Arguments, _ask: FamilyRequest) -> Arguments:
    return arguments


def _cannot(_model: Model) -> str | None:
    return "this model transcribes but does not translate: choose a multilingual Whisper"


@dataclass(frozen=True, slots=True)
class FamilyAdapter:
    """One family of mlx-audio's models.

    ``model_type`` is its name there. ``heard`` reads its output; ``adapt`` has the last word on the
    arguments of generate. ``prompt`` and ``temperature`` name generate's parameters for these.
    ``no_translation`` says why a loaded model cannot translate, None if it can.
    ``audio`` makes generate's first argument, ``call`` calls it. ``before`` and ``prepare`` are
    called once, before and after loading.
    ``words``: it can time its words. ``speakers``: it labels who speaks, within one stretch.
    """

    model_type: str
    cut: CutOptions
    heard: Callable[[Output, FamilyRequest], Recognised]
    languages: Languages = Languages()
    tokens: Tokens | None = None
    prompt: str | None = None
    temperature: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    adapt: Callable[[Arguments, FamilyRequest], Arguments] = _no_change
    no_translation: Callable[[Model], str | None] = _cannot
    rate: int = 16_000
    audio: Callable[[FamilyRequest], Any] = _mlx
    call: Callable[[Model, Any, Arguments], Output] = _generate
    before: Callable[[], None] = _as_it_is
    prepare: Callable[[Model, Path], None] = _ready
    words: bool = False
    speakers: bool = False

    def arguments(self, ask: FamilyRequest) -> Arguments:
        """What generate is called with, beside the audio."""
        given: Arguments = dict(self.fixed)
        if ask.spoken is not None:
            given |= dict.fromkeys(self.languages.parameters, ask.spoken)
        if self.prompt and ask.job.prompt:
            given[self.prompt] = ask.job.prompt
        if self.temperature:
            given[self.temperature] = ask.job.temperature
        if self.tokens and ask.max_tokens is not None:
            given[self.tokens.parameter] = ask.max_tokens
        return self.adapt(given, ask)


def check(family: FamilyAdapter, model: Model, job: Job) -> tuple[JobWarning, ...]:
    """What of the job this loaded model cannot use; raises RequestRefused for what it cannot do."""
    if job.task == "translate" and (why := family.no_translation(model)):
        raise RequestRefused("unsupported_task", why, "task")
    spoken(family, model, job.language)
    unused = []
    if job.prompt and not family.prompt:
        unused.append(cannot_use("prompt", "this model takes no prompt"))
    if job.temperature and not family.temperature:
        unused.append(cannot_use("temperature", "this model does not sample"))
    if job.max_tokens is not None and not family.tokens:
        unused.append(cannot_use("max_tokens", "this model writes no tokens that could be counted"))
    if job.language and not family.languages.is_told(model):
        why = "this model finds out by itself which language is spoken"
        unused.append(cannot_use("language", why))
    return tuple(unused)


def spoken(family: FamilyAdapter, model: Model, language: str | None) -> str | None:
    """What the model calls this language; None where it is not told. Raises RequestRefused."""
    languages = family.languages
    names = languages.known(model) if languages.known else {}
    if language is None:
        if languages.needed:
            message = f"this model has to be told the language: one of {_listed(names)}"
            raise RequestRefused("language_required", message, "language")
        return None
    if names and language not in names:
        message = unknown_to("this model", language, names)
        raise RequestRefused("unsupported_language", message, "language")
    return names.get(language)


def _listed(names: Mapping[str, str]) -> str:
    return ", ".join(sorted(names))
