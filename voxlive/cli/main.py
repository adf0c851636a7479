"""``voxlive``: the commands in one table. What a command needs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxlive import __version__
from voxlive.cli.doctor import doctor
from voxlive.cli.listen import listen
from voxlive.cli.models import models
from voxlive.cli.options import DEFAULT_FILE, load_defaults
from voxlive.cli.serve import key, serve
from voxlive.cli.sessions import sessions
from voxlive.cli.transcribe import transcribe

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
    context.default_map = load_defaults(file, context)


if __name__ == "__main__":
    app()
