"""Headers of safetensors files: what tensors there are and where, without reading any.

The format is 8 bytes of header length, the header as JSON, then the tensors' bytes
(https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
