"""From what a command line names to files: files, folders and patterns."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# What a folder is searched for; a file that is named is tried whatever its name.
_MEDIA = re.compile(
    r"(?i).+\.(aac|ac3|aiff?|amr|au|avi|caf|flac|flv|m4[abv]|mk[av]|mov|mp[234]|mpe?ga?|oga|ogg|opus"
    r"|wav|webm|wm[av])"
)


@dataclass(frozen=True, slots=True)
class Input:
    """A file, and its place below the folder that it was found in."""

    path: Path
    place: Path

    def target(self, folder: Path, suffix: str) -> Path:
        """Where a result goes: below ``folder`` as the file lies below its own."""
        return folder / self.place.with_name(f"{self.place.stem}.{suffix}")


class BadInput(Exception):
    """There is no such file; the message says so."""


def find_inputs(named: Iterable[str]) -> list[Input]:
    """Every file once, in the order in which they were named. Raises BadInput."""
    found: dict[Path, Input] = {}
    for name in named:
        for one in _inputs(name):
            found.setdefault(one.path, one)
    return list(found.values())


def _inputs(name: str) -> list[Input]:
    path = Path(name)
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


def _alone(file: Path) -> Input:
    return Input(file, Path(file.name))


def _is_media(file: Path) -> bool:
    named = _MEDIA.fullmatch(file.name) and not file.name.startswith(".")
    return bool(named) and file.is_file()
