"""A family of speech models: how it is recognised, what it can do, what it needs.

``Evidence`` is what a folder's files say. A ``Condition`` is a small test of it, which returns a
text that says what it found, None where it does not hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from voxlive.checkpoints.contents import (
    CONFIG,
    DOCUMENTS,
    EXTRACTORS,
    PARAMS,
    Contents,
    display_name,
    weight_files,
)
from voxlive.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Evidence:
    """``config``, ``params`` and ``extractor`` are the JSON documents, empty where there are none.

    ``shapes`` are the tensors by name (None in an .npz, whose headers are not read), ``files`` all
    names relative to the folder. ``unreadable`` are messages about damaged weight files. ``name``
    is what people call the folder: a repository's, not its snapshot's hash.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    extractor: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    unreadable: tuple[str, ...] = ()
    weights_bytes: int = 0

    def at(self, path: str) -> Any:
        """A value of config.json by its keys, joined with dots; None if it is not there."""
        return look_up(self.config, path)


def look_up(document: Mapping[str, Any], path: str) -> Any:
    """A value by its keys, joined with dots; None if it is not there."""
    value: Any = document
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def read_evidence(contents: Contents) -> Evidence:
    """Read the evidence; raises DamagedFile when a document is no JSON object."""
    files, there = contents.files, contents.documents
    documents = {name: contents.document(name).data for name in DOCUMENTS if name in there}
    shapes, unreadable = _shapes(contents)
    return Evidence(
        name=display_name(contents.folder),
        config=documents.get(CONFIG, {}),
        params=documents.get(PARAMS, {}),
        extractor=_extractor(documents),
        shapes=shapes,
        files=files,
        unreadable=unreadable,
        weights_bytes=contents.weights_bytes,
    )


def _extractor(documents: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    for name in EXTRACTORS:
        document = documents.get(name, {})
        inner = document.get("feature_extractor")
        if document:
            return inner if isinstance(inner, Mapping) else document
    return {}


def _shapes(contents: Contents) -> tuple[dict[str, tuple[int, ...] | None], tuple[str, ...]]:
    shapes: dict[str, tuple[int, ...] | None] = {}
    unreadable = []
    for name in weight_files(contents.files):
        try:
            if name.endswith(".npz"):
                shapes |= dict.fromkeys(contents.array_names(name))
            else:
                shapes |= {key: one.shape for key, one in contents.tensors([name]).items()}
        except CheckpointError as problem:
            unreadable.append(problem.message)
    return shapes, tuple(unreadable)


Condition = Callable[[Evidence], str | None]
"""How the condition holds, in words; None where it does not."""


def model_type(*known: str) -> Condition:
    """config.json: model_type is one of these."""
    return value("model_type", *known)


def value(path: str, *known: object) -> Condition:
    """The value at ``path`` of config.json is one of these; any, if none is given."""

    def condition(evidence: Evidence) -> str | None:
        found = evidence.at(path)
        if found is None or (known and found not in known):
            return None
        return f"{path} is {json.dumps(found)[:60]}" if known else f"{path} is there"

    return condition


def keys(*paths: str) -> Condition:
    """config.json has all of these keys."""

    def condition(evidence: Evidence) -> str | None:
        there = all(evidence.at(path) is not None for path in paths)
        return f"config.json has {', '.join(paths)}" if there else None

    return condition


def absent(path: str) -> Condition:
    """config.json has no such key."""
    return lambda evidence: None if evidence.at(path) is not None else f"no {path}"


def architecture(*known: str) -> Condition:
    """config.json: one of the architectures."""

    def condition(evidence: Evidence) -> str | None:
        listed = evidence.at("architectures")
        for name in listed if isinstance(listed, list) else ():
            if name in known:
                return f"architectures has {name}"
        return None

    return condition


def extractor(part: str) -> Condition:
    """The feature extractor's class has ``part`` in its name, whatever the case."""

    def condition(evidence: Evidence) -> str | None:
        name = str(evidence.extractor.get("feature_extractor_type") or "")
        return f"feature extractor is {name}" if part.lower() in name.lower() else None

    return condition


def target(*classes: str) -> Condition:
    """NeMo's ``target`` ends in one of these classes."""

    def condition(evidence: Evidence) -> str | None:
        name = str(evidence.at("target") or "").rpartition(".")[2]
        return f"target is NeMo's {name}" if name in classes else None

    return condition


def params(path: str, *known: object) -> Condition:
    """Mistral's document (params.json, or config.json in its place) has this at ``path``."""

    def condition(evidence: Evidence) -> str | None:
        for file, document in (("params", evidence.params), ("config", evidence.config)):
            found = look_up(document, path)
            if found is not None and (not known or found in known):
                return f"{file}.json: {path} is {_brief(found)}"
        return None

    return condition


def fewer_rows(end: str, most: int) -> Condition:
    """A matrix whose name ends so has fewer rows than ``most``."""

    def condition(evidence: Evidence) -> str | None:
        for name, shape in evidence.shapes.items():
            if name.endswith(end) and shape and shape[0] < most:
                return f"{name} has {shape[0]} rows"
        return None

    return condition


def tensors(*names: str) -> Condition:
    """The weights have all of these tensors."""

    def condition(evidence: Evidence) -> str | None:
        there = all(name in evidence.shapes for name in names)
        return f"its weights have {', '.join(names)}" if there else None

    return condition


def file(*names: str) -> Condition:
    """One of these files is there."""

    def condition(evidence: Evidence) -> str | None:
        return next((f"{name} is there" for name in names if name in evidence.files), None)

    return condition


def stored() -> Condition:
    """There are tensors in files of their own, not in an archive."""
    return lambda evidence: "its weights are unpacked" if evidence.shapes else None


def all_of(*conditions: Condition) -> Condition:
    """All of these."""

    def condition(evidence: Evidence) -> str | None:
        found = [one(evidence) for one in conditions]
        return None if None in found else "; ".join(filter(None, found))

    return condition


def _brief(found: object) -> str:
    return "there" if isinstance(found, Mapping | list) else json.dumps(found)[:60]


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
