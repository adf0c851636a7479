"""Real weights of small Whispers, fetched once by the product's own command and then kept."""

import os
import subprocess
import sys
from pathlib import Path

TINY_EN = "whisper-tiny.en"
TINY_EN_ID = "Systran/faster-whisper-tiny.en"
"""The name by which answers and lists have it."""
BASE = "whisper-base"
TURNS = "smart-turn"
SPEAKERS = "speaker-encoder"


def fetch(home: Path, *names: str) -> Path:
    """Bring models into a cache of their own, which ``XDG_CACHE_HOME`` then has to name."""
    marker = home / "-".join(names)
    if marker.exists():
        return home
    command = [sys.executable, "-m", "voxlive", "models", "fetch", *names]
    env = os.environ | {"XDG_CACHE_HOME": str(home)}
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    marker.touch()
    return home


def link(cache: Path, home: Path | None = None) -> None:
    """Give another cache links to the models of ``home``, else of what ``XDG_CACHE_HOME`` names.

    One that has models already is left as it is.
    """
    place = cache / "voxlive" / "models"
    if place.exists():
        return
    place.mkdir(parents=True)
    for model in (Path(home or os.environ["XDG_CACHE_HOME"]) / "voxlive" / "models").iterdir():
        (place / model.name).symlink_to(model)
