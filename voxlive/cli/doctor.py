"""``voxlive doctor``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated

import typer

from voxlive.cli.console import FAILED

_PACKAGES = ("numpy", "onnxruntime", "soxr", "av", "faster-whisper", "uvicorn")
_MLX_PROBE = """\
import mlx.core as mx
print(mx.__version__, mx.default_device(), end="")
if mx.cuda.is_available():
    print("; weights stored quantised are unpacked on loading where memory allows it", end="")
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. ``good`` None: it is not there, and only some things need it."""

    good: bool | None
    text: str


def doctor(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to look at.")] = 8000,
    model: Annotated[
        str | None, typer.Option(help="The live model to try. Default: the one of serve.")
    ] = None,
) -> None:
    """Check what works on this machine, and say what to do about the rest."""
    from rich.console import Console

    checks: dict[str, Callable[[], Finding]] = {
        "packages": _packages,
        "voice detector": _voice_detector,
        "live engine": lambda: _engine(model),
        "MLX (Voxtral)": _mlx,
        "port": lambda: _port(port),
    }
    console = Console(highlight=False)
    good = True
    for name, check in checks.items():
        with console.status(f"checking {name}"):
            finding = check()
        sign = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]-[/]"}[finding.good]
        console.print(f"{sign} {name:16}", end="")
        console.print(finding.text, markup=False, soft_wrap=True)
        good &= finding.good is not False
    if not good:
        raise typer.Exit(FAILED)


def _packages() -> Finding:
    found: list[str] = []
    missing: list[str] = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(False, f"missing: install voxlive again, or {' '.join(missing)}")
    return Finding(True, f"Python {sys.version.split()[0]}, {', '.join(found)}")


def _voice_detector() -> Finding:
    import numpy as np

    from voxlive.errors import VadError
    from voxlive.vad.detector import Silero, VoiceDetector
    from voxlive.vad.gate import WINDOW

    try:
        detector = VoiceDetector(Silero())
    except VadError as error:
        return Finding(False, str(error))
    probability = float(detector.lane().push_blocking(np.zeros(WINDOW, np.float32))[0])
    detector.close()
    return Finding(
        probability < 0.5, f"Silero loads and hears speech in silence at {probability:.2f}"
    )


def _engine(model: str | None) -> Finding:
    from voxlive.checkpoints.resolve import default_model
    from voxlive.engines import load_engine
    from voxlive.errors import CheckpointError, EngineError, NotDownloaded

    name = model or default_model()
    try:
        engine = load_engine(name, offline=True)
    except NotDownloaded:
        return Finding(None, f"{name} is not here: `voxlive models fetch {name}` brings it")
    except (EngineError, CheckpointError) as error:
        return Finding(False, f"{name} does not load: {error.message}")
    fault = engine.check(20.0)
    info = engine.info
    engine.shutdown()
    if fault:
        return Finding(False, f"{name} {fault}")
    knows = "English only" if info.languages == ("en",) else f"{len(info.languages)} languages"
    sessions = f"{info.capacity} live session{'s' if info.capacity > 1 else ''} at a time"
    return Finding(True, f"{name} decodes on {info.device}: {knows}, {sessions}")


def _mlx() -> Finding:
    """In a process of its own: a broken driver may take it down."""
    probe = subprocess.run(
        [sys.executable, "-c", _MLX_PROBE], capture_output=True, text=True, check=False
    )
    if probe.returncode == 0:
        return Finding(True, probe.stdout.strip())
    why = probe.stderr.strip().splitlines()[-1:] or [f"exit code {probe.returncode}"]
    return Finding(None, f"not usable ({why[0]}); Whisper works without it")


def _port(port: int) -> Finding:
    from voxlive.web.ports import CannotListen, bind

    try:
        bind("127.0.0.1", port).close()
    except CannotListen as error:
        return Finding(False, str(error))
    return Finding(True, f"{port} is free")
