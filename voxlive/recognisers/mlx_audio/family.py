"""What mlx-audio's families have in common: how each is called and what comes back.

Nothing here imports mlx: a family is a description, and the loaded model is handed to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from voxlive.checkpoints.languages import NAMES, unknown_language_message
from voxlive.errors import RequestRefused
from voxlive.recognisers.contract import WARMING, Recognition, Task

if TYPE_CHECKING:
    from pathlib import Path

    from voxlive.values import Samples

# The families' classes share no type: a model is whatever mlx-audio's loader gives.
Model = Any
Output = Any
Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What is asked of a model whatever the audio; a family uses what it has parameters for.

    ``temperatures`` are tried in turn by a model that finds its text repetitive or improbable,
    others take the first. ``margin_s`` and ``least_s`` are as in ``PassOptions``, for a model that
    fills a window.
    ``instruction`` replaces the one to transcribe, in a model that follows instructions.
    """

    task: Task = "transcribe"
    prompt: str | None = None
    temperatures: tuple[float, ...] = WARMING
    words: bool = False
    margin_s: float | None = None
    least_s: float = 0.0
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class FamilyRequest:
    """One call for one stretch: float32 mono [n] at the family's rate, ``seconds`` long.

    ``language`` is a code, ``language_name`` what the model calls it. ``max_tokens`` is the limit
    of this call, None for a model that writes none.
    """

    options: CallOptions
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
    ``likeliest`` gives codes of the languages of a call's audio with probabilities, descending.
    """

    names: Callable[[Model], Mapping[str, str]] | None = None
    parameters: tuple[str, ...] = ()
    required: bool = False
    detect_once: bool = False
    likeliest: Callable[[Model, FamilyRequest], tuple[tuple[str, float], ...]] | None = None

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
    ``window_s`` is the most audio of one call, ``pause_s`` of silence always ends a stretch of a
    file. ``warms``: generate tries several temperatures by itself.
    """

    model_type: str
    window_s: float
    parse_output: Callable[[Output, FamilyRequest], Recognition]
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
    pause_s: float = 2.0
    warms: bool = False

    def arguments(self, request: FamilyRequest) -> Arguments:
        """The keyword arguments of generate."""
        given: Arguments = dict(self.fixed)
        if request.language_name is not None:
            given |= dict.fromkeys(self.languages.parameters, request.language_name)
        options = request.options
        if self.prompt and options.prompt:
            given[self.prompt] = options.prompt
        if self.temperature:
            given[self.temperature] = options.temperatures[0]
        if self.tokens and request.max_tokens is not None:
            given[self.tokens.parameter] = request.max_tokens
        return self.adapt(given, request)


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
