"""Headers of files with weights: what tensors there are and where, without reading their values.

Safetensors is 8 bytes of header length, the header as JSON, then the tensors' bytes
(https://github.com/huggingface/safetensors). CTranslate2's ``model.bin``
(https://github.com/OpenNMT/CTranslate2, ``src/models/model.cc``), little endian: u32 version, the
model's kind as a string, u32 revision, u32 count; then for each tensor its name, u8 rank, u32
dimensions, u8 type, u32 bytes, the values. A string is a u16 length with its closing zero.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from voxlive.errors import DamagedFile

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


MODEL_BIN = "model.bin"
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
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
