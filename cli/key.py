"""``voxlive key``."""

from __future__ import annotations

from typing import Annotated

import typer


def key(
    name: Annotated[str, typer.Argument(help="Who it is for; logs say this name.")] = "someone",
) -> None:
    """Make a key for clients of a server, and the table of a keys file that lets it in."""
    from ..web.access.keys import digest, made

    secret = made()
    typer.echo(secret)
    typer.echo(f'\nFor the file of "voxlive serve --keys":\n\n["{name}"]', err=True)
    typer.echo(f'sha256 = "{digest(secret).hex()}"', err=True)
