"""``voxlive``: the commands in one table, and the server's own: ``serve``, and ``key``.

What a command needs is imported when it runs. ``key`` makes a key for a server's clients.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from voxlive import __version__
from voxlive.cli.cluster import cluster
from voxlive.cli.console import FAILED, MISUSED, fail, print_error, start_logging
from voxlive.cli.doctor import doctor
from voxlive.cli.listen import listen
from voxlive.cli.models import models
from voxlive.cli.options import (
    DEFAULT_FILE,
    load_defaults,
    serve_config,
    serve_signature,
    with_places,
)
from voxlive.cli.sessions import sessions
from voxlive.cli.transcribe import transcribe


def serve(context: typer.Context, **given: Any) -> None:
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
        fail(with_places(error, context), MISUSED)
    except VoxliveError as error:
        fail(error, FAILED)


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


app = typer.Typer(
    help="Real-time transcription: every word on screen as it is spoken, once, with its time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (serve, transcribe, listen, doctor, key):
    app.command()(_command)
app.add_typer(models, name="models")
app.add_typer(sessions, name="sessions")
app.add_typer(cluster, name="cluster")


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"voxlive {__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help=f"TOML file with a table of options per command. Default: {DEFAULT_FILE}.",
        ),
    ] = None,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options of every command."""
    defaults = load_defaults(file, context)
    # What replicas are given is what a server is.
    context.default_map = {**defaults, "cluster": {"up": defaults.get("serve", {})}}


if __name__ == "__main__":
    app()
