"""Which module serves which backend. A new one is a module with a ``load``, and a line here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .contract import Load


@dataclass(frozen=True, slots=True)
class Backend:
    """``module`` is imported in the runner's process alone. ``mlx``: its models live in MLX.

    ``instructed``: its models do what a job's instruction says.
    """

    module: str
    mlx: bool = True
    instructed: bool = False


BACKENDS = {
    "pocketsphinx": Backend("voxlive.runners.pocketsphinx", mlx=False),
    "voxtral_realtime": Backend("voxlive.runners.voxtral"),
    "mlx_audio": Backend("voxlive.runners.mlx_audio"),
    "mlx_vlm": Backend("voxlive.runners.mlx_vlm", instructed=True),
}


def loader(backend: str) -> Load:
    """The ``load`` of a backend. Imports what its models need: only for a runner's process."""
    load: Load = importlib.import_module(BACKENDS[backend].module).load
    return load
