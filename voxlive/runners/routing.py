"""The backends that run models, which of them serves a checkpoint, and whether it could load here.

A new backend is a module with a ``load``, and a line in ``BACKENDS``. The first routing rule that
applies decides, never the folder's name alone. Health is about the files and about what is
installed, which is found out without importing any of it. Clients of other services ask for their
models by name (``HOSTED``) and get the default.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from voxlive.checkpoints.families import FAMILIES
from voxlive.checkpoints.families.family import ModelFamily
from voxlive.checkpoints.families.speech import CTRANSLATE2
from voxlive.checkpoints.files import Problem
from voxlive.checkpoints.local_model import LocalModel, ModelCapabilities

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
    "OpenAI": ("whisper-1", "gpt-*transcribe*", "gpt-realtime*", "gpt-4o*audio*", "gpt-audio*"),
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


Capabilities = ModelCapabilities
_EXTRA = "install voxlive[multimodal] (mlx-vlm)"


@dataclass(frozen=True, slots=True)
class Routing:
    """``backend`` is a name of ``BACKENDS``, None where no backend could serve the model.

    ``rule`` decided. ``tie_break`` is set where the name decided, because the config does not.
    """

    backend: str | None
    rule: str
    family: ModelFamily | None = None
    tie_break: str | None = None


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """``when`` is for people."""

    name: str
    when: str
    backend: Callable[[Capabilities], str | None]


def detect_audio_backend(capabilities: Capabilities) -> Routing:
    """The backend for a checkpoint, and why."""
    for rule in ROUTING_RULES:
        backend = rule.backend(capabilities)
        if backend is not None:
            return _routed(capabilities, backend, rule.name)
    return Routing(None, "no audio", capabilities.family)


def _routed(capabilities: Capabilities, backend: str, rule: str) -> Routing:
    if capabilities.family is not None or backend != "mlx_audio":
        return Routing(backend, rule, capabilities.family)
    family = _family_by_name(capabilities)
    if family is None:
        return Routing(backend, rule)
    reason = f"no family is told by its config; its name mentions {family.title}"
    return Routing(backend, rule, family, reason)


def _family_by_name(capabilities: Capabilities) -> ModelFamily | None:
    """The one speech family that the name mentions; None if it mentions several."""
    families = [FAMILIES[name] for name in capabilities.hints if FAMILIES[name].kind == "speech"]
    return families[0] if len(families) == 1 else None


def _voxtral(capabilities: Capabilities) -> str | None:
    family = capabilities.family
    if family is None or family.kind != "voxtral":
        return None
    return family.name if "live" in family.features else "mlx_audio"


def _audio_and_vision(capabilities: Capabilities) -> str | None:
    return "mlx_vlm" if capabilities.audio_config and capabilities.vision_config else None


def _ctranslate2(capabilities: Capabilities) -> str | None:
    return "faster_whisper" if capabilities.layout == CTRANSLATE2 else None


def _speech(capabilities: Capabilities) -> str | None:
    return "mlx_audio" if capabilities.family and capabilities.family.kind == "speech" else None


def _whisper_like(capabilities: Capabilities) -> str | None:
    described = f"{capabilities.model_type} {capabilities.extractor}".lower()
    return "mlx_audio" if capabilities.family is None and "whisper" in described else None


def _by_name(capabilities: Capabilities) -> str | None:
    unknown = capabilities.family is None and capabilities.audio
    return "mlx_audio" if unknown and _family_by_name(capabilities) else None


def _multimodal(capabilities: Capabilities) -> str | None:
    known = capabilities.family is not None and capabilities.family.kind == "multimodal"
    return "mlx_vlm" if known or capabilities.audio_config else None


ROUTING_RULES = (
    RoutingRule("voxtral", "a Voxtral, whatever sections its config has", _voxtral),
    RoutingRule(
        "audio and vision", "`audio_config` and a populated `vision_config`", _audio_and_vision
    ),
    RoutingRule("CTranslate2", "a Whisper in CTranslate2's layout (`model.bin`)", _ctranslate2),
    RoutingRule(
        "speech model", "a family of speech models, recognised by its config or tensors", _speech
    ),
    RoutingRule(
        "whisper-like",
        "a model type or feature extractor with `whisper` in its name, of no known family",
        _whisper_like,
    ),
    RoutingRule(
        "name",
        "an audio model of no known family whose name mentions exactly one; reported as a "
        "tie-break, and loaded strictly, so that a wrong guess fails",
        _by_name,
    ),
    RoutingRule("audio alone", "`audio_config` without `vision_config`", _multimodal),
)
"""In this order; the first one that applies decides."""


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """``files``: what is wrong with them. ``missing``: what has to be installed.

    ``unknown``: why the installed version cannot load such a model, though it is installed.
    """

    files: tuple[Problem, ...] = ()
    missing: tuple[Problem, ...] = ()
    unknown: tuple[Problem, ...] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All of them."""
        return (*self.unknown, *self.missing, *self.files)

    @property
    def healthy(self) -> bool:
        """Whether nothing prevents loading."""
        return not self.problems


def check_health(model: LocalModel, routing: Routing, installed: Installed) -> ModelHealth:
    """Everything that prevents loading: files, and what is not installed."""
    check = _CHECKS.get(routing.backend or "")
    missing = tuple(check(installed)) if check else ()
    missing += tuple(_modules(routing, installed)) if not missing else ()
    unknown = () if missing else tuple(_unknown(model.capabilities, routing, installed))
    return ModelHealth(model.problems, missing, unknown)


def _mlx(installed: Installed) -> list[Problem]:
    if installed.mlx:
        return []
    return [Problem("MLX is not installed", "install voxlive again on a Mac or on Linux")]


def _mlx_audio(installed: Installed) -> list[Problem]:
    if installed.mlx_audio:
        return _mlx(installed)
    return [Problem("mlx-audio is not installed", "install voxlive again on a Mac or on Linux")]


def _mlx_vlm(installed: Installed) -> list[Problem]:
    return [] if installed.mlx_vlm else [Problem("mlx-vlm is not installed", _EXTRA)]


def _faster_whisper(installed: Installed) -> list[Problem]:
    if installed.faster_whisper:
        return []
    return [Problem("faster-whisper is not installed", "install voxlive again")]


_CHECKS = {
    "voxtral_realtime": _mlx,
    "mlx_audio": _mlx_audio,
    "mlx_vlm": _mlx_vlm,
    "faster_whisper": _faster_whisper,
}


def _modules(routing: Routing, installed: Installed) -> list[Problem]:
    family = routing.family
    lacking = {
        module: package
        for module, package in (family.imports if family else {}).items()
        if module not in installed.modules
    }
    if not lacking or family is None:
        return []
    packages = " ".join(lacking.values())
    return [Problem(f"{family.title} needs {', '.join(lacking)}", f"uv pip install {packages}")]


def _unknown(
    capabilities: ModelCapabilities, routing: Routing, installed: Installed
) -> list[Problem]:
    """What the installed backend has no code for."""
    packages = {
        "mlx_audio": ("mlx-audio", installed.mlx_audio),
        "mlx_vlm": ("mlx-vlm", installed.mlx_vlm),
    }
    name, package = packages.get(routing.backend or "", ("", None))
    family, wanted = routing.family, capabilities.model_type
    own = (family.package or family.name) if family else None
    if package is None or not package.models.isdisjoint({wanted, own}):
        return []
    return [
        Problem(
            f"{name} {package.version} has no code for {wanted or 'such a model'}",
            f"a newer {name} may have it, or choose another model",
        )
    ]
