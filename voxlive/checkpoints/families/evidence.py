"""What lies in a checkpoint's folder, read once: documents, tensors' headers, names of files.

By what a family is told: small tests of the evidence, each of which says what it saw.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxlive.checkpoints.config import read_json
from voxlive.checkpoints.safetensors import read_header
from voxlive.errors import CheckpointError, DamagedFile

CONFIG, PARAMS = "config.json", "params.json"
EXTRACTORS = ("preprocessor_config.json", "processor_config.json")
DOCUMENTS = (CONFIG, PARAMS, *EXTRACTORS)
"""The files that tell a family apart. They are small; weights are known by their headers."""
_MOST_DOCUMENT_BYTES = 32 << 20
_MOST_FILES = 10_000
_MOST_DEPTH = 2


@dataclass(frozen=True, slots=True)
class Evidence:
    """``config``, ``params`` and ``extractor`` are the JSON documents, empty where there are none.

    ``shapes`` are the tensors by name (None in an .npz, whose headers are not read), ``files`` all
    names relative to the folder. ``unreadable`` tells of weight files whose headers lie. ``name``
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


def read_evidence(folder: Path) -> Evidence:
    """Read what is small; raises DamagedFile when a document is no JSON object or too large."""
    files = list_files(folder)
    documents = {name: _document(folder / name) for name in DOCUMENTS if name in files}
    shapes, unreadable = _shapes(folder, files)
    return Evidence(
        name=known_as(folder),
        config=documents.get(CONFIG, {}),
        params=documents.get(PARAMS, {}),
        extractor=_extractor(documents),
        shapes=shapes,
        files=files,
        unreadable=unreadable,
        weights_bytes=sum((folder / name).stat().st_size for name in weight_files(files)),
    )


def list_files(folder: Path) -> frozenset[str]:
    """Names of the files that are really there, at most two folders deep; no hidden ones."""
    found: set[str] = set()
    for depth in range(_MOST_DEPTH + 1):
        for path in folder.glob("/".join("*" * (depth + 1))):
            name = path.relative_to(folder).as_posix()
            if not name.startswith(".") and "/." not in name and path.is_file():
                found.add(name)
            if len(found) > _MOST_FILES:
                raise DamagedFile(f"{folder} holds more than {_MOST_FILES} files: no checkpoint")
    return frozenset(found)


def weight_files(files: frozenset[str]) -> list[str]:
    """The files that hold weights: safetensors, or else numpy archives."""
    top = sorted(name for name in files if "/" not in name)
    found = [name for name in top if name.endswith(".safetensors")]
    mistral = [name for name in found if name.startswith("consolidated")]
    if CONFIG not in files and mistral:
        return mistral
    others = [name for name in found if name not in mistral]
    return others or mistral or [name for name in top if name.endswith(".npz")]


def known_as(folder: Path) -> str:
    """The folder's name, or the repository's whose snapshot it is."""
    parts = folder.resolve().parts
    if len(parts) >= 3 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].removeprefix("models--").replace("--", "/", 1)
    return parts[-1] if parts else ""


def _document(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > _MOST_DOCUMENT_BYTES:
        raise DamagedFile(f"{path} is larger than {_MOST_DOCUMENT_BYTES >> 20} MiB: no config")
    return read_json(path).data


def _extractor(documents: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    for name in EXTRACTORS:
        document = documents.get(name, {})
        inner = document.get("feature_extractor")
        if document:
            return inner if isinstance(inner, Mapping) else document
    return {}


def _shapes(
    folder: Path, files: frozenset[str]
) -> tuple[dict[str, tuple[int, ...] | None], tuple[str, ...]]:
    shapes: dict[str, tuple[int, ...] | None] = {}
    unreadable = []
    for name in weight_files(files):
        path = folder / name
        try:
            if path.suffix == ".npz":
                shapes |= dict.fromkeys(_archived(path))
            else:
                shapes |= {key: tensor.shape for key, tensor in read_header(path).items()}
        except CheckpointError as problem:
            unreadable.append(problem.message)
    return shapes, tuple(unreadable)


def _archived(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, NotImplementedError) as problem:
        raise DamagedFile(
            f"{path} is cut short or no numpy archive: delete it and fetch it again"
        ) from problem


Sign = Callable[[Evidence], str | None]
"""What speaks for a family, in words; None when it is not there."""


def model_type(*known: str) -> Sign:
    """config.json: model_type is one of these."""
    return value("model_type", *known)


def value(path: str, *known: object) -> Sign:
    """The value at ``path`` of config.json is one of these; any, if none is given."""

    def sign(evidence: Evidence) -> str | None:
        found = evidence.at(path)
        if found is None or (known and found not in known):
            return None
        return f"{path} is {json.dumps(found)[:60]}" if known else f"{path} is there"

    return sign


def keys(*paths: str) -> Sign:
    """config.json has all of these keys."""

    def sign(evidence: Evidence) -> str | None:
        there = all(evidence.at(path) is not None for path in paths)
        return f"config.json has {', '.join(paths)}" if there else None

    return sign


def no(path: str) -> Sign:
    """config.json has no such key."""
    return lambda evidence: None if evidence.at(path) is not None else f"no {path}"


def architecture(*known: str) -> Sign:
    """config.json: one of the architectures."""

    def sign(evidence: Evidence) -> str | None:
        listed = evidence.at("architectures")
        for name in listed if isinstance(listed, list) else ():
            if name in known:
                return f"architectures has {name}"
        return None

    return sign


def extractor(part: str) -> Sign:
    """The feature extractor's class has ``part`` in its name, whatever the case."""

    def sign(evidence: Evidence) -> str | None:
        name = str(evidence.extractor.get("feature_extractor_type") or "")
        return f"feature extractor is {name}" if part.lower() in name.lower() else None

    return sign


def target(*classes: str) -> Sign:
    """NeMo's ``target`` ends in one of these classes."""

    def sign(evidence: Evidence) -> str | None:
        name = str(evidence.at("target") or "").rpartition(".")[2]
        return f"target is NeMo's {name}" if name in classes else None

    return sign


def params(path: str, *known: object) -> Sign:
    """Mistral's document (params.json, or config.json in its place) has this at ``path``."""

    def sign(evidence: Evidence) -> str | None:
        for file, document in (("params", evidence.params), ("config", evidence.config)):
            found = look_up(document, path)
            if found is not None and (not known or found in known):
                return f"{file}.json: {path} is {_brief(found)}"
        return None

    return sign


def fewer_rows(end: str, most: int) -> Sign:
    """A matrix whose name ends so has fewer rows than ``most``."""

    def sign(evidence: Evidence) -> str | None:
        for name, shape in evidence.shapes.items():
            if name.endswith(end) and shape and shape[0] < most:
                return f"{name} has {shape[0]} rows"
        return None

    return sign


def file(*names: str) -> Sign:
    """One of these files is there."""

    def sign(evidence: Evidence) -> str | None:
        return next((f"{name} is there" for name in names if name in evidence.files), None)

    return sign


def stored() -> Sign:
    """There are tensors in files of their own, not in an archive."""
    return lambda evidence: "its weights are unpacked" if evidence.shapes else None


def every(*signs: Sign) -> Sign:
    """All of these."""

    def sign(evidence: Evidence) -> str | None:
        said = [one(evidence) for one in signs]
        return None if None in said else "; ".join(filter(None, said))

    return sign


def _brief(found: object) -> str:
    return "there" if isinstance(found, Mapping | list) else json.dumps(found)[:60]
