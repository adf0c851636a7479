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
import sys, time
import mlx.core as mx
print(mx.__version__)
print("gpu" if mx.is_available(mx.gpu) else "cpu")
if mx.cuda.is_available():
    print("weights stored quantised are unpacked on loading where memory allows it")
elif not mx.is_available(mx.gpu):
    rows, size = 4, 3072
    weights = mx.quantize(mx.random.normal((size, size)).astype(mx.bfloat16), 64, 4)
    row = mx.random.normal((rows, size)).astype(mx.bfloat16)
    mx.eval(weights, row)
    began, products = time.process_time(), 0
    while time.process_time() - began < 0.3:
        mx.eval(mx.quantized_matmul(row, *weights, group_size=64, bits=4))
        products += 1
    print(float(sys.argv[1]) / (products * rows * size * size) * (time.process_time() - began))
"""
_VOXTRAL_PRODUCTS = 12.5 * 3.4e9 + 50 * 0.6e9
"""Multiplications in a second of speech: 12.5 tokens of the decoder, 50 frames of the encoder."""


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
        "microphone": _microphone,
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
        [sys.executable, "-c", _MLX_PROBE, str(_VOXTRAL_PRODUCTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode == 0:
        version, device, *more = probe.stdout.split("\n")
        if device == "gpu":
            return Finding(True, "; ".join(filter(None, (f"{version} on the GPU", *more))))
        return _slow_mlx(version, float(more[0]))
    why = probe.stderr.strip().splitlines()[-1:] or [f"exit code {probe.returncode}"]
    return Finding(None, f"not usable ({why[0]}); Whisper works without it")


def _slow_mlx(version: str, seconds: float) -> Finding:
    """Voxtral on a CPU, where a second of speech takes so many seconds by the products alone."""
    if seconds < 0.5:
        return Finding(True, f"{version} on the CPU: fast enough for one live session, about")
    return Finding(
        None,
        f"{version} on the CPU: a second of speech takes Voxtral {seconds:.0f} s or more here; "
        "live it needs Apple silicon or an NVIDIA GPU (voxlive[cuda13]), Whisper does not",
    )


def _microphone() -> Finding:
    """What ``listen`` needs and a server does not."""
    from voxlive.cli.listen import microphone_obstacle

    if obstacle := microphone_obstacle():
        return Finding(None, f"`voxlive listen` cannot record: {obstacle}")
    import sounddevice

    try:
        found = sounddevice.query_devices(None, "input")
    except (ValueError, sounddevice.PortAudioError):
        return Finding(None, "`voxlive listen` finds no microphone on this machine")
    return Finding(True, f"`voxlive listen` takes {found['name']}")


def _port(port: int) -> Finding:
    from voxlive.web.ports import CannotListen, bind

    try:
        bind("127.0.0.1", port).close()
    except CannotListen as error:
        return Finding(False, str(error))
    return Finding(True, f"{port} is free")
