"""Headers of CTranslate2's ``model.bin``: what tensors there are, without reading their values.

The format (https://github.com/OpenNMT/CTranslate2, ``src/models/model.cc``), little endian: u32
version, the model's kind as a string, u32 revision, u32 count; then for each tensor its name, u8
rank, u32 dimensions, u8 type, u32 bytes, the values. A string is a u16 length with its closing
zero.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from voxlive.checkpoints.safetensors import StoredTensor
from voxlive.errors import DamagedFile

WEIGHTS = "model.bin"
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
