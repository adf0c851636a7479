"""What lies in a model's folder, read once: documents, names of files, and which tensors there are.

Of files with weights only the headers are read. Safetensors is 8 bytes of header length, the header
as JSON, then the tensors' bytes (https://github.com/huggingface/safetensors). CTranslate2's
``model.bin`` (https://github.com/OpenNMT/CTranslate2, ``src/models/model.cc``), little endian: u32
version, the model's kind as a string, u32 revision, u32 count; then for each tensor its name, u8
rank, u32 dimensions, u8 type, u32 bytes, the values. A string is a u16 length with its closing
zero.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from voxlive.checkpoints.config import Section, read_json
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
MODEL_BIN = "model.bin"
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")

_MOST_HEADER_BYTES = 100_000_000
_COMPARED_BYTES = 1 << 20
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: ``dtype`` as the format names it, bytes ``begin`` to ``end``."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return self.end - self.begin


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a file by name; raises DamagedFile when anything lies outside it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if start == b"version ":
            raise DamagedFile(f"{path} is a Git LFS pointer: fetch the file itself (git lfs pull)")
        if len(start) < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
            raise _cut(path, size)
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise DamagedFile(f"{path} has no readable safetensors header: {problem}") from problem
    if not isinstance(header, dict):
        raise DamagedFile(f"{path} has no readable safetensors header")
    header.pop("__metadata__", None)
    return {name: _stored(name, entry, path, 8 + length, size) for name, entry in header.items()}


def same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors hold the same values in the same dtype and shape."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(a == b for a, b in zip(_pieces(one), _pieces(other), strict=True))


def _stored(name: str, entry: Any, path: Path, data: int, size: int) -> StoredTensor:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        nbytes = math.prod(shape) * _ITEM_BYTES[dtype]
        sound = min((0, begin, *shape)) >= 0 and end - begin == nbytes
    except (KeyError, TypeError, ValueError) as problem:
        raise DamagedFile(f"{path}: the header entry of {name!r} is unreadable") from problem
    if not sound:
        raise DamagedFile(f"{path}: the header entry of {name!r} contradicts itself")
    if data + end > size:
        raise _cut(path, size)
    return StoredTensor(name, path, dtype, shape, data + begin, data + end)


def _pieces(tensor: StoredTensor) -> Iterator[bytes]:
    with tensor.file.open("rb") as file:
        file.seek(tensor.begin)
        for at in range(tensor.begin, tensor.end, _COMPARED_BYTES):
            yield file.read(min(_COMPARED_BYTES, tensor.end - at))


def _cut(path: Path, size: int) -> DamagedFile:
    return DamagedFile(
        f"{path} is cut short or no safetensors file ({size} bytes): delete it and fetch it again"
    )


_VERSIONS = range(4, 7)
_MOST_TENSORS = 100_000
_MOST_RANK = 8
_TYPES = (("F32", 4), ("I8", 1), ("I16", 2), ("I32", 4), ("F16", 2), ("BF16", 2))


def read_bin_header(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a file by name; raises DamagedFile when it is no such file, or cut short."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            return {tensor.name: tensor for tensor in _tensors(file, path, size)}
        except (struct.error, UnicodeDecodeError, IndexError) as problem:
            raise _damaged(path, size) from problem


def _tensors(file: BinaryIO, path: Path, size: int) -> list[StoredTensor]:
    (version,) = struct.unpack("<I", file.read(4))
    if version not in _VERSIONS:
        raise _damaged(path, size)
    _string(file)
    _revision, count = struct.unpack("<II", file.read(8))
    if count > _MOST_TENSORS:
        raise _damaged(path, size)
    return [_tensor(file, path, size) for _ in range(count)]


def _tensor(file: BinaryIO, path: Path, size: int) -> StoredTensor:
    name = _string(file)
    (rank,) = struct.unpack("<B", file.read(1))
    if rank > _MOST_RANK:
        raise _damaged(path, size)
    shape = struct.unpack(f"<{rank}I", file.read(4 * rank))
    kind, nbytes = struct.unpack("<BI", file.read(5))
    dtype, item = _TYPES[kind]
    begin = file.tell()
    end = begin + nbytes
    if math.prod(shape) * item != nbytes or end > size:
        raise _damaged(path, size)
    file.seek(end)
    return StoredTensor(name, path, dtype, shape, begin, end)


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<H", file.read(2))
    text = file.read(length)
    if len(text) < length:
        raise struct.error
    return text.rstrip(b"\0").decode()


def _damaged(path: Path, size: int) -> DamagedFile:
    return DamagedFile(
        f"{path} is cut short or no model of CTranslate2 ({size} bytes): delete it and fetch it "
        "again"
    )


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
