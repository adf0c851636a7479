"""The options of ``serve`` about who may use it, and how much.

The options of ``serve`` about https and reverse proxies.

``voxlive key``.
"""

from __future__ import annotations

import json
import stat
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxlive.cli.console import MISUSED, complain, fail

if TYPE_CHECKING:
    import ssl

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import TypeVar

    from voxlive.web.access.keys import Key

    _T = TypeVar("_T")

ApiKey = Annotated[
    list[str] | None,
    typer.Option(
        envvar="VOXLIVE_API_KEY",
        show_envvar=True,
        help="A key that clients must send; may be given several times. Other people on this "
        "machine can read the command line, but not the environment variable.",
    ),
]
ApiKeyFile = Annotated[Path | None, typer.Option(help="A file with such keys, one on each line.")]
Keys = Annotated[
    Path | None,
    typer.Option(help="A TOML file of keys with names, scopes and limits: see docs/access.md."),
]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Let everyone in who can reach the address, without a key."),
]
MaxSessionMinutes = Annotated[
    float | None, typer.Option(min=0.01, help="How long one live session may last.")
]
IdleTimeout = Annotated[
    float | None,
    typer.Option(min=1, help="End a live session after so many seconds without audio."),
]
MaxMessageKb = Annotated[
    float | None, typer.Option(min=1, help="The longest message on a WebSocket.")
]
MaxUploadMb = Annotated[float, typer.Option(min=0.001, help="The longest file in a request.")]
Rate = Annotated[
    float | None,
    typer.Option(min=0.01, help="Live sessions and requests a minute, of all clients together."),
]

AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        help="Another web site whose pages may use this server, over HTTP and WebSockets, as "
        "https://name; * for all.",
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A name that a server without keys answers to besides localhost, this machine's own "
        "and addresses, such as the name of a site behind a reverse proxy; * for all.",
    ),
]


def origins_of(given: list[str] | None) -> frozenset[str]:
    """Checked: a site that is misspelt would be refused without a word."""
    from voxlive.web.access.sites import ANY, Origin

    for text in given or ():
        if text != ANY and Origin.parse(text) is None:
            fail(
                f"--allow-origin {text}: write a site as https://name, or https://name:8443",
                MISUSED,
            )
    return frozenset(given or ())


def keys_of(
    secrets: list[str] | None, secret_file: Path | None, file: Path | None
) -> tuple[Key, ...]:
    """All keys that were given in one way or the other; one line and an exit code for bad ones."""
    from voxlive.web.access.keys import (
        BadKey,
        Key,
        Keyring,
        checked,
        digest,
        read_keys,
        read_secrets,
    )

    try:
        plain = [checked(secret) for secret in secrets or ()]
        if secret_file:
            plain += _read(secret_file, read_secrets)
        named = [Key(f"key {n}", digest(secret)) for n, secret in enumerate(plain, 1)]
        keys = (*named, *(_read(file, read_keys) if file else ()))
        Keyring(keys)
    except BadKey as error:
        fail(str(error), MISUSED)
    return keys


def _read(file: Path, parse: Callable[[str], tuple[_T, ...]]) -> tuple[_T, ...]:
    from voxlive.web.access.keys import BadKey

    try:
        text = file.read_text()
        open_to_others = file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadKey(f"cannot read {file}: {reason}") from None
    if open_to_others:
        complain(f"warning: others on this machine can read {file}: chmod 600 {file}")
    try:
        return parse(text)
    except BadKey as error:
        raise BadKey(f"{file}: {error}") from None


def check_exposure(host: str, bound: socket.socket, keys: tuple[Key, ...], insecure: bool) -> None:
    """Refuse to serve everyone who can reach the address, unless that is what was asked for."""
    from voxlive.web.ports import is_local

    if keys and insecure:
        fail("--insecure lets everyone in, and there are keys: choose one of them", MISUSED)
    if keys or is_local(bound):
        return
    if not insecure:
        fail(
            f"others can reach {host}: give --api-key (or VOXLIVE_API_KEY, --api-key-file, "
            "--keys), or --insecure to let everyone in",
            MISUSED,
        )
    complain(f"warning: everyone who can reach {host} can use this server")


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
    from voxlive.web.tls import Certificate, TlsError

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
    from voxlive.web.tls import cache_folder, local_certificate, this_machine

    folder = cache_folder()
    context = local_certificate(this_machine(host), folder).context()
    typer.echo(f"voxlive: browsers will ask whether to trust {folder / 'local.crt'}, made here")
    return context


def key(
    name: Annotated[str, typer.Argument(help="Who it is for; logs say this name.")] = "someone",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it opens; may be given several times. See docs/access.md."),
    ] = None,
    reads: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="KEY",
            help="The name of another key: it reads the captions of that key's sessions.",
        ),
    ] = None,
) -> None:
    """Make a key for clients of a server, and the table of a keys file that lets it in."""
    from voxlive.web.access.keys import SCOPES, digest, made

    for wanted in scope or ():
        if wanted not in SCOPES:
            fail(f"--scope is one of {', '.join(SCOPES)}, not {wanted}", MISUSED)
    secret = made()
    typer.echo(secret)
    typer.echo(f'\nFor the file of "voxlive serve --keys":\n\n["{name}"]', err=True)
    typer.echo(f'sha256 = "{digest(secret).hex()}"', err=True)
    for field, values in (("scopes", scope), ("for", reads)):
        if values:
            typer.echo(f"{field} = {json.dumps(values)}", err=True)
