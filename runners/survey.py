"""All that can be known of a model without loading it: probe, routing and health at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..checkpoints.errors import CheckpointError
from ..checkpoints.families import Family
from ..checkpoints.families.evidence import known_as
from ..checkpoints.health import Problem
from ..checkpoints.probe import ModelCapabilities, probe_model_capabilities
from .health import Health, check_health
from .installed import Installed
from .routing import Routing, detect_audio_backend

_REMEMBERED = 128

POCKETSPHINX = ModelCapabilities(
    name="pocketsphinx",
    family=Family(
        "pocketsphinx", "PocketSphinx", (), "built-in", frozenset({"words", "live"}), ("en",),
        room=256 << 20,
    ),
    audio=True,
    features=frozenset({"words", "live"}),
    languages=("en",),
    signals=("comes with voxlive",),
)  # fmt: skip
BUILT_IN = {"pocketsphinx": POCKETSPHINX}
"""The models that need no files, by name."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a model is, what would serve it, and what hinders that."""

    capabilities: ModelCapabilities
    routing: Routing
    health: Health

    @property
    def hears(self) -> bool:
        """Whether it is a model for speech at all, whatever its state."""
        return self.routing.backend is not None and self.capabilities.transcribes


def survey(folder: Path, installed: Installed) -> Survey:
    """Look at a checkpoint. Remembers the last ones, for as long as their files stay the same."""
    return _survey(folder, _stamp(folder), installed)


def survey_built_in(name: str, installed: Installed) -> Survey:
    """The same for a model that comes with voxlive."""
    return _judged(BUILT_IN[name], installed)


@lru_cache(_REMEMBERED)
def _survey(folder: Path, _stamp: object, installed: Installed) -> Survey:
    try:
        return _judged(probe_model_capabilities(folder), installed)
    except (CheckpointError, OSError) as problem:
        damaged = Problem(str(problem), "fetch it again")
        capabilities = ModelCapabilities(name=known_as(folder), folder=folder, audio=True)
        return Survey(capabilities, Routing(None, "unreadable"), Health(files=(damaged,)))


def _judged(capabilities: ModelCapabilities, installed: Installed) -> Survey:
    routing = detect_audio_backend(capabilities)
    return Survey(capabilities, routing, check_health(capabilities, routing, installed))


def _stamp(folder: Path) -> object:
    """Changes whenever a file of the checkpoint does."""
    try:
        stats = [path.stat() if path.exists() else path.lstat() for path in folder.iterdir()]
        return (folder.stat().st_mtime_ns, *((one.st_mtime_ns, one.st_size) for one in stats))
    except OSError:
        return None
