"""What lies in a model's folder, read once: documents, tensors' headers, names of files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from voxlive.checkpoints.config import Section, read_json
from voxlive.checkpoints.headers import MODEL_BIN, StoredTensor, read_bin_header, read_header
from voxlive.errors import CheckpointError, DamagedFile, WeightsMismatch

CONFIG, PARAMS = "config.json", "params.json"
EXTRACTORS = ("preprocessor_config.json", "processor_config.json")
DOCUMENTS = (CONFIG, PARAMS, *EXTRACTORS)
"""The files that decide the family. They are small; of weights only the headers are read."""
TOKENIZER_CONFIG = "tokenizer_config.json"
INDEX = ".safetensors.index.json"
_MOST_DOCUMENT_BYTES = 32 << 20
_MOST_FILES = 10_000
_MOST_DEPTH = 2

_T = TypeVar("_T")
Document = Mapping[str, Any]
Header = Mapping[str, StoredTensor]


@dataclass(frozen=True, slots=True)
class Contents:
    """``files`` are the names of all files relative to ``folder``.

    ``documents`` are the JSON objects that a loader or a probe may want, ``headers`` those of the
    files of weights, ``archives`` the names of the arrays of .npz files; in place of one that
    cannot be read stands its error. It can be pickled: what another process needs of these files
    goes there with it.
    """

    folder: Path
    files: frozenset[str]
    documents: Mapping[str, Document | CheckpointError]
    headers: Mapping[str, Header | CheckpointError]
    archives: Mapping[str, tuple[str, ...] | CheckpointError]
    weights_bytes: int

    def document(self, name: str) -> Section:
        """A JSON document; raises DamagedFile for one that is none."""
        return Section(dict(_checked(self.documents[name])), name)

    def tensors(self, names: Iterable[str]) -> dict[str, StoredTensor]:
        """Every tensor of several files; raises DamagedFile, or WeightsMismatch for one in two."""
        found: dict[str, StoredTensor] = {}
        for file in names:
            for name, tensor in _checked(self.headers[file]).items():
                if name in found:
                    path = self.folder / file
                    raise WeightsMismatch(f"{name} stands in {found[name].file} and in {path}")
                found[name] = tensor
        return found

    def array_names(self, file: str) -> Iterable[str]:
        """What an .npz file holds; raises DamagedFile."""
        return _checked(self.archives[file])


def read_contents(folder: Path) -> Contents:
    """Read what is small. Raises DamagedFile for more files than a model has, and OSError."""
    files = list_files(folder)
    top = sorted(name for name in files if "/" not in name)
    documents = (*DOCUMENTS, TOKENIZER_CONFIG)
    return Contents(
        folder,
        files,
        {
            name: _document(folder / name)
            for name in top
            if name in documents or name.endswith(INDEX)
        },
        {name: _header(folder / name) for name in top if _has_header(name)},
        {name: _archive(folder / name) for name in top if name.endswith(".npz")},
        sum((folder / name).stat().st_size for name in weight_files(files)),
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
    """The files that hold weights: safetensors, or else numpy archives, or else CTranslate2's."""
    top = sorted(name for name in files if "/" not in name)
    found = [name for name in top if name.endswith(".safetensors")]
    mistral = [name for name in found if name.startswith("consolidated")]
    if CONFIG not in files and mistral:
        return mistral
    others = [name for name in found if name not in mistral]
    archives = [name for name in top if name.endswith(".npz")]
    return others or mistral or archives or [name for name in top if name == MODEL_BIN]


def display_name(folder: Path) -> str:
    """The folder's name, or the repository's whose snapshot it is."""
    parts = folder.resolve().parts
    if len(parts) >= 3 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].removeprefix("models--").replace("--", "/", 1)
    return parts[-1] if parts else ""


def _document(path: Path) -> Document | CheckpointError:
    if path.stat().st_size > _MOST_DOCUMENT_BYTES:
        return DamagedFile(f"{path} is larger than {_MOST_DOCUMENT_BYTES >> 20} MiB: no config")
    try:
        return read_json(path).data
    except CheckpointError as error:
        return error


def _has_header(name: str) -> bool:
    return name == MODEL_BIN or name.endswith(".safetensors")


def _header(path: Path) -> Header | CheckpointError:
    try:
        return read_bin_header(path) if path.name == MODEL_BIN else read_header(path)
    except CheckpointError as error:
        return error


def _archive(path: Path) -> tuple[str, ...] | CheckpointError:
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError):
        return DamagedFile(f"{path} is cut short or no numpy archive: delete it and fetch it again")


def _checked(found: _T | CheckpointError) -> _T:
    if isinstance(found, CheckpointError):
        raise found
    return found
