"""What ``serve`` says when it is ready: what runs, and where to go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..streaming.engine import EngineInfo
    from ..web.ports import Ports


def greet(info: EngineInfo, ports: Ports, *, tls: bool, for_phones: bool) -> None:
    """Every line on stdout. ``for_phones``: others were meant to reach it."""
    from ..web.addresses import urls_elsewhere
    from ..web.ports import is_local, url

    sessions = "1 session" if info.capacity == 1 else f"{info.capacity} sessions"
    _say(f"{info.model} on {info.device}, {sessions} at a time")
    if info.note:
        _say(info.note)
    if ports.whisper_live:
        _say(f"WhisperLive's clients at {url(ports.whisper_live, 'wss' if tls else 'ws')}")
    if ports.wyoming:
        _say(f"Wyoming's clients at {url(ports.wyoming, 'tcp')}")
    scheme = "https" if tls else "http"
    _say(f"ready at {url(ports.main, scheme)}")
    for elsewhere in urls_elsewhere(ports.main, scheme):
        _say(f"on other machines and phones: {elsewhere}")
    if for_phones and is_local(ports.main):
        _say("for other machines and phones: --host 0.0.0.0")


def _say(line: str) -> None:
    typer.echo(f"voxlive: {line}")
