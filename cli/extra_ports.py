"""Options of ``serve`` for protocols that have a port of their own."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated

import typer

from .console import MISUSED, fail

if TYPE_CHECKING:
    from ..web.wyoming.options import Network, WyomingOptions

WhisperLivePort = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, help="Also serve WhisperLive's clients, on this port (theirs is 9090)."
    ),
]
WyomingPort = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, help="Also serve Wyoming (Home Assistant), on this port (10300 there)."
    ),
]
WyomingAllow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS",
        help="An address or network, as 192.168.1.0/24, whose clients may use the Wyoming port: "
        "that protocol has no keys. Needed where there are keys.",
    ),
]
Zeroconf = Annotated[
    bool,
    typer.Option(
        "--zeroconf", help="Announce the Wyoming port in the network; needs the extra: discovery."
    ),
]


def wyoming_options(
    port: int | None, allow: list[str] | None, announce: bool, keyed: bool, insecure: bool
) -> WyomingOptions | None:
    """Who may use the Wyoming port; one line and an exit code for what cannot be."""
    from ..web.wyoming.options import ANYWHERE, THIS_MACHINE, WyomingOptions

    if port is None:
        if allow or announce:
            fail(f"{'--wyoming-allow' if allow else '--zeroconf'} needs --wyoming-port", MISUSED)
        return None
    if announce:
        _check_zeroconf()
    allowed = tuple(_network(text) for text in allow or ())
    if insecure:
        allowed = ANYWHERE
    elif not keyed:
        allowed += THIS_MACHINE
    if not allowed:
        fail(
            "Wyoming's clients send no key: say with --wyoming-allow which addresses may use it",
            MISUSED,
        )
    return WyomingOptions(allowed, announce)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        fail(f"--wyoming-allow {text}: use an address, or a network as 192.168.1.0/24", MISUSED)


def _check_zeroconf() -> None:
    from importlib.util import find_spec

    if find_spec("zeroconf") is None:
        fail("--zeroconf needs the package zeroconf: install voxlive[discovery]")
