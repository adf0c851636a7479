"""What is installed to run models with, found out without importing any of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ..checkpoints.families import FAMILIES


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package and the models that it has code for, by its folders' names."""

    version: str
    models: frozenset[str]


@dataclass(frozen=True, slots=True)
class Installed:
    """None where a package is missing. ``modules``: which of those that families need are there."""

    mlx: str | None = None
    mlx_audio: Package | None = None
    mlx_vlm: Package | None = None
    modules: frozenset[str] = frozenset()


@cache
def find_installed() -> Installed:
    """What this environment has."""
    needed = {name for family in FAMILIES.values() for name in family.imports}
    return Installed(
        mlx=_version("mlx"),
        mlx_audio=_package("mlx-audio", "mlx_audio", "stt/models"),
        mlx_vlm=_package("mlx-vlm", "mlx_vlm", "models"),
        modules=frozenset(name for name in needed if find_spec(name) is not None),
    )


def _package(distribution: str, module: str, models: str) -> Package | None:
    spec = find_spec(module)
    version = _version(distribution)
    if spec is None or version is None:
        return None
    folders = (Path(place) / models for place in spec.submodule_search_locations or ())
    found = (path for folder in folders if folder.is_dir() for path in folder.iterdir())
    names = (path.name for path in found if path.is_dir() and not path.name.startswith("_"))
    return Package(version, frozenset(names))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
