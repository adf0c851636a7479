"""The options of ``serve`` about https and reverse proxies."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import MISUSED, complain, fail

if TYPE_CHECKING:
    import ssl


def _addresses(listed: str) -> str:
    """``listed`` as it is, if every item is an address or a network."""
    try:
        for item in [] if listed == "*" else listed.split(","):
            ip_network(item.strip())
    except ValueError as error:
        fail(f"--forwarded-allow-ips: {error}", MISUSED)
    return listed


SslCertfile = Annotated[
    Path | None, typer.Option(help="Serve https with this certificate and its chain, in PEM form.")
]
SslKeyfile = Annotated[
    Path | None, typer.Option(help="The certificate's key, if it is in a file of its own.")
]
Https = Annotated[
    bool,
    typer.Option(
        "--https",
        help="Serve https with a certificate made here, so that browsers elsewhere give the page "
        "a microphone. They ask once whether to trust it.",
    ),
]
RootPath = Annotated[
    str,
    typer.Option(help="The path of a site that a reverse proxy serves this under, as /voxlive."),
]
ForwardedAllowIps = Annotated[
    str,
    typer.Option(
        callback=_addresses,
        help="Reverse proxies whose X-Forwarded-For and -Proto are believed: addresses and "
        "networks with commas between; * for all.",
    ),
]


def tls_context(
    host: str, certfile: Path | None, keyfile: Path | None, https: bool
) -> ssl.SSLContext | None:
    """What to serve https with, None for http; one line and an exit code if it cannot be had."""
    from ..web.tls import Certificate, TlsError

    if https and certfile:
        fail("--https makes a certificate, --ssl-certfile brings one: choose one of them", MISUSED)
    if keyfile and not certfile:
        fail("--ssl-keyfile needs the certificate too: --ssl-certfile", MISUSED)
    try:
        if certfile:
            certificate = Certificate(certfile, keyfile)
            context = certificate.context()
            if ended := certificate.expired():
                complain(f"warning: {certfile} was valid until {ended:%Y-%m-%d}")
            return context
        return _made_here(host) if https else None
    except TlsError as error:
        fail(str(error))


def _made_here(host: str) -> ssl.SSLContext:
    from ..web.local_certificate import cache_folder, local_certificate, this_machine

    folder = cache_folder()
    context = local_certificate(this_machine(host), folder).context()
    typer.echo(f"voxlive: browsers will ask whether to trust {folder / 'local.crt'}, made here")
    return context
