"""``voxlive serve``, and ``voxlive key``, which makes a key for its clients."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from voxlive.cli.console import FAILED, MISUSED, fail, print_error, start_logging
from voxlive.cli.options import serve_config, serve_signature


def serve(**given: Any) -> None:
    """Serve the page, the live protocols and the HTTP API."""
    from voxlive.errors import VoxliveError
    from voxlive.web.config import ConfigError
    from voxlive.web.server import serve as run

    start_logging(given["log_level"], as_json=given["log_json"])
    try:
        run(
            serve_config(given),
            on_info=lambda line: typer.echo(f"voxlive: {line}"),
            on_warning=lambda line: print_error(f"warning: {line}"),
        )
    except ConfigError as error:
        fail(str(error), MISUSED)
    except VoxliveError as error:
        fail(str(error), FAILED)


# What typer reads: an option for every field of ServeConfig.
vars(serve)["__signature__"] = serve_signature()


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
    from voxlive.web.access.keys import SCOPES, digest, generate_secret

    for value in scope or ():
        if value not in SCOPES:
            fail(f"--scope is one of {', '.join(SCOPES)}, not {value}", MISUSED)
    secret = generate_secret()
    typer.echo(secret)
    typer.echo(f'\nFor the file of "voxlive serve --keys":\n\n["{name}"]', err=True)
    typer.echo(f'sha256 = "{digest(secret).hex()}"', err=True)
    for field, values in (("scopes", scope), ("for", reads)):
        if values:
            typer.echo(f"{field} = {json.dumps(values)}", err=True)
