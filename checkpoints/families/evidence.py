"""What lies in a checkpoint's folder, read once: documents, tensors' headers, names of files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..documents import read_json
from ..errors import CheckpointError, DamagedFile
from ..safetensors import read_header

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
