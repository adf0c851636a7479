"""From what a command line names to files: files, folders and patterns."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..runners.scratch import SCRATCH

MOST_SPOOLED = 4 << 30
"""Bytes of a stream that are kept while it is transcribed: six hours of stereo CD sound."""
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Input:
    """A file, and its place below the folder that it was found in.

    ``name`` is what the user called it, where that is not the file.
    """

    path: Path
    place: Path
    name: str = ""

    @property
    def title(self) -> str:
        """What people are told that it is."""
        return self.name or str(self.path)

    def target(self, folder: Path, suffix: str) -> Path:
        """Where a result goes: below ``folder`` as the file lies below its own."""
        return folder / self.place.with_name(f"{self.place.stem}.{suffix}")


class BadInput(Exception):
    """There is no such file; the message says so."""


def find_inputs(named: Iterable[str], keep: ExitStack) -> list[Input]:
    """Every file once, in the order in which they were named. Raises BadInput.

    ``-`` is standard input; it and pipes are read to their ends, into files that ``keep`` removes.
    """
    found: dict[Path, Input] = {}
    for name in dict.fromkeys(named):
        for one in _inputs(name, keep):
            found.setdefault(one.path, one)
    return list(found.values())


def _inputs(name: str, keep: ExitStack) -> list[Input]:
    path = Path(name)
    if name == "-":
        if sys.stdin.isatty():
            raise BadInput("-: standard input is a terminal: pipe audio into it, or name a file")
        return [Input(_spooled(sys.stdin.buffer, "standard input", keep), Path("stdin"), name)]
    if path.is_fifo():
        with path.open("rb") as pipe:
            return [Input(_spooled(pipe, name, keep), Path(path.name), name)]
    if path.is_file():
        return [_alone(path)]
    if path.is_dir():
        inside = [file for file in sorted(path.rglob("*")) if _is_media(file)]
        if not inside:
            raise BadInput(f"{name}: the folder has no audio or video files")
        return [Input(file, file.relative_to(path)) for file in inside]
    if path.exists():
        raise BadInput(f"{name}: not a file")
    if not glob.has_magic(name):
        raise BadInput(f"{name}: does not exist")
    paths = map(Path, sorted(glob.iglob(name, recursive=True)))  # noqa: PTH207 - "**" of a shell
    matched = [_alone(path) for path in paths if path.is_file()]
    if not matched:
        raise BadInput(f"{name}: no file matches")
    return matched


def _spooled(stream: BinaryIO, name: str, keep: ExitStack) -> Path:
    """A file with all that a stream has: only a file can be measured and cut."""
    file = keep.enter_context(SCRATCH.file("stream"))
    left = MOST_SPOOLED
    try:
        while piece := stream.read(min(_PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                raise BadInput(f"{name}: has more than {MOST_SPOOLED >> 30} GiB: save it as a file")
            file.write(piece)
        file.flush()
    except OSError as error:
        raise BadInput(f"{name}: cannot be kept as a file: {error.strerror}") from error
    if left == MOST_SPOOLED:
        raise BadInput(f"{name}: is empty")
    return Path(file.name)


def _alone(file: Path) -> Input:
    return Input(file, Path(file.name))


def _is_media(file: Path) -> bool:
    """What a folder is searched for; a file that is named is tried whatever its name."""
    from ..streaming.ingest.sniff import ENDINGS

    hidden = file.name.startswith(".")
    return not hidden and file.suffix[1:].lower() in ENDINGS and file.is_file()
