"""The config file: a TOML table per command, with the same names as the options.

[serve]
port = 8123
max-sessions = 4

``voxlive``: the commands in one table. What a command needs is imported when it runs.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from voxlive import __version__
from voxlive.cli.access import key
from voxlive.cli.console import MISUSED, fail
from voxlive.cli.doctor import doctor
from voxlive.cli.listen import listen
from voxlive.cli.models import models
from voxlive.cli.serve import serve
from voxlive.cli.transcribe import transcribe

DEFAULT = "~/.config/voxlive/config.toml"


def load(file: Path | None, context: typer.Context) -> dict[str, dict[str, Any]]:
    """Defaults for every command. A file that was asked for must be there."""
    path = file or Path(os.environ.get("VOXLIVE_CONFIG", DEFAULT)).expanduser()
    if file is None and not path.exists():
        return {}
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        fail(f"cannot read {path}: {error}", MISUSED)
    assert isinstance(context.command, TyperGroup)
    return {name: _table(path, name, table, context.command) for name, table in tables.items()}


def _table(path: Path, name: str, table: object, group: TyperGroup) -> dict[str, Any]:
    if name not in group.commands or not isinstance(table, dict):
        fail(f"{path}: [{name}] is not a table of a command: {', '.join(group.commands)}", MISUSED)
    parameters = {
        option.removeprefix("--"): parameter.name
        for parameter in group.commands[name].params
        for option in parameter.opts
    }
    for option in table:
        if option not in parameters:
            fail(f"{path}: [{name}] {option} is not one of {', '.join(parameters)}", MISUSED)
    return {str(parameters[option]): value for option, value in table.items()}


app = typer.Typer(
    help="Real-time transcription: every word on screen as it is spoken, once, with its time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (serve, transcribe, listen, doctor, key):
    app.command()(_command)
app.add_typer(models, name="models")


def _version(asked: bool) -> None:
    if asked:
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
            help=f"TOML file with a table of options per command. Default: {DEFAULT}.",
        ),
    ] = None,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options of every command."""
    context.default_map = load(file, context)


if __name__ == "__main__":
    app()
