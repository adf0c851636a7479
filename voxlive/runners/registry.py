"""The backends that run models, what of them is installed, and names of other services' models.

A new backend is a module with a ``load``, and a line here. What is installed is found out without
importing any of it. Clients of other services ask for their models by name and get the default.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from voxlive.checkpoints.families import FAMILIES

if TYPE_CHECKING:
    from voxlive.runners.contract import Load


@dataclass(frozen=True, slots=True)
class Backend:
    """``module`` is imported in the runner's process alone. ``mlx``: its models live in MLX.

    ``instructed``: its models do what a job's instruction says.
    """

    module: str
    mlx: bool = True
    instructed: bool = False


BACKENDS = {
    "voxtral_realtime": Backend("voxlive.runners.live"),
    "faster_whisper": Backend("voxlive.runners.recogniser", mlx=False),
    "mlx_audio": Backend("voxlive.runners.mlx_audio"),
    "mlx_vlm": Backend("voxlive.runners.mlx_vlm", instructed=True),
}


def loader(backend: str) -> Load:
    """The ``load`` of a backend. Imports what its models need: only for a runner's process."""
    load: Load = importlib.import_module(BACKENDS[backend].module).load
    return load


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package and the models that it has code for, by its folders' names."""

    version: str
    models: frozenset[str]


@dataclass(frozen=True, slots=True)
class Installed:
    """None where a package is missing. ``modules``: those that families need and that are there."""

    mlx: str | None = None
    mlx_audio: Package | None = None
    mlx_vlm: Package | None = None
    faster_whisper: str | None = None
    modules: frozenset[str] = frozenset()


@cache
def find_installed() -> Installed:
    """What this environment has."""
    needed = {name for family in FAMILIES.values() for name in family.imports}
    return Installed(
        mlx=_version("mlx"),
        mlx_audio=_package("mlx-audio", "mlx_audio", "stt/models"),
        mlx_vlm=_package("mlx-vlm", "mlx_vlm", "models"),
        faster_whisper=_version("faster-whisper"),
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


HOSTED = {
    "OpenAI": ("whisper-1", "gpt-4o*transcribe*", "gpt-realtime*", "gpt-4o*audio*", "gpt-audio*"),
    "Deepgram": ("nova", "nova-*", "enhanced*", "base", "base-*", "flux-*", "whisper-cloud"),
    "Mistral": ("voxtral-mini-*", "voxtral-small-*"),
    "Groq": ("whisper-large-v3", "whisper-large-v3-turbo", "distil-whisper-large-v3-en"),
    "ElevenLabs": ("scribe_v*",),
    "AssemblyAI": ("universal*", "slam-*"),
}
"""Patterns of names by service."""


def is_hosted(name: str) -> bool:
    """Whether another service has a model of this name, or of this kind of name."""
    return any(fnmatchcase(name, pattern) for names in HOSTED.values() for pattern in names)
