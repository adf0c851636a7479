"""Real weights of small Whispers, fetched once by the product's own command and then kept."""

import os
import subprocess
import sys
from pathlib import Path

TINY_EN = "whisper-tiny.en"
BASE = "whisper-base"


def fetch(home: Path, *names: str) -> dict[str, str]:
    """Bring models into a cache of their own; the environment in which they are found by name."""
    env = {"XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-m", "voxlive", "models", "fetch", *names]
    subprocess.run(command, env=os.environ | env, check=True, stdout=subprocess.DEVNULL)
    return env
