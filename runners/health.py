"""Whether a model could be loaded here and now: its files, and what is installed."""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoints.health import Problem, check_files
from ..checkpoints.probe import ModelCapabilities
from .installed import Installed
from .routing import Routing

_EXTRA = "install voxlive[multimodal] (mlx-vlm)"


@dataclass(frozen=True, slots=True)
class Health:
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
        """Whether nothing hinders it."""
        return not self.problems


def check_health(capabilities: ModelCapabilities, routing: Routing, installed: Installed) -> Health:
    """Everything that hinders the model. Reads headers of weights and small files alone."""
    files = check_files(capabilities.folder) if capabilities.folder else ()
    check = _CHECKS.get(routing.backend or "")
    missing = tuple(check(installed)) if check else ()
    missing += tuple(_modules(routing, installed)) if not missing else ()
    unknown = () if missing else tuple(_unknown(capabilities, routing, installed))
    return Health(files, missing, unknown)


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


_CHECKS = {"voxtral_realtime": _mlx, "mlx_audio": _mlx_audio, "mlx_vlm": _mlx_vlm}


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
