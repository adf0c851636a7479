"""A family of speech models: how it is recognised, what it can do, what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from voxlive.checkpoints.families.evidence import Condition, Evidence

Feature = Literal["translate", "words", "speakers", "live", "prompt"]
"""Beyond transcribing: into English, word times, speaker labels, live sessions, a prompt."""
Kind = Literal["voxtral", "speech", "multimodal"]
"""``voxtral``: never served as a multimodal model, whatever sections its config has."""

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """One form in which a family's checkpoints come. Any of the conditions decides.

    ``refused`` says why it cannot be used and what to do; ``transcribes`` is False where that is
    not for the form of the files but because such a model makes no text of speech. ``warning`` is
    shown with it.
    """

    layout: str
    conditions: tuple[Condition, ...]
    refused: str | None = None
    transcribes: bool = True
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Traits:
    """The abilities in a checkpoint's own documents. ``languages`` None: not known.

    ``layout`` None leaves it with what the shape says.
    """

    features: frozenset[Feature]
    languages: tuple[str, ...] | None = None
    sample_rate: int = 16_000
    layout: str | None = None


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """``name`` is also mlx-audio's package, where ``package`` names no other.

    ``tokenizers`` are alternatives: one of these sets of files must be there. ``imports`` are
    modules beyond the backend's own, with what to install. ``room`` bytes are needed beside the
    weights. ``traits`` reads what differs between checkpoints; ``note`` is for people. ``not_live``
    is the reason why it serves files alone, None where it serves live sessions as well.
    """

    name: str
    title: str
    shapes: tuple[Shape, ...]
    kind: Kind = "speech"
    features: frozenset[Feature] = frozenset()
    languages: tuple[str, ...] | None = None
    sample_rate: int = 16_000
    tokenizers: tuple[tuple[str, ...], ...] = ()
    package: str | None = None
    imports: Mapping[str, str] = field(default_factory=dict)
    room: int = 512 * MIB
    traits: Callable[[Evidence, ModelFamily], Traits] | None = None
    note: str | None = None
    not_live: str | None = None

    def __reduce__(self) -> tuple[object, ...]:
        # A family's conditions are functions: another process has the same family by its name.
        return _same_family, (self.name,)

    @property
    def live(self) -> bool:
        """Whether it serves live sessions: with an engine of its own, or by a recogniser."""
        usable = self.kind != "multimodal" and any(one.refused is None for one in self.shapes)
        return "live" in self.features or (usable and self.not_live is None)

    def read_traits(self, evidence: Evidence) -> Traits:
        """What this one can do."""
        if self.traits is not None:
            return self.traits(evidence, self)
        return Traits(self.features, self.languages, self.sample_rate)

    def has_tokenizer(self, evidence: Evidence) -> bool:
        """Whether one of the sets is complete; ``file:path`` is a value in config.json."""
        return not self.tokenizers or any(
            all(_is_there(evidence, name) for name in one) for one in self.tokenizers
        )


def _same_family(name: str) -> ModelFamily:
    from voxlive.checkpoints.families import family_named

    return family_named(name)


def _is_there(evidence: Evidence, name: str) -> bool:
    file, _, path = name.partition(":")
    return file in evidence.files and (not path or evidence.at(path) is not None)


@dataclass(frozen=True, slots=True)
class Match:
    """A recognised family and what decided."""

    family: ModelFamily
    shape: Shape
    signals: tuple[str, ...]


def match(family: ModelFamily, evidence: Evidence) -> Match | None:
    """The first of the family's shapes of which a condition holds, with all that do."""
    for shape in family.shapes:
        signals = tuple(filter(None, (condition(evidence) for condition in shape.conditions)))
        if signals:
            return Match(family, shape, signals)
    return None
