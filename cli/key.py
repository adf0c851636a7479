"""``voxlive key``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .console import MISUSED, fail


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
    from ..web.access.keys import SCOPES, digest, made

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
