"""The config file: a TOML table per command, with the same names as the options.

[serve]
port = 8123
max-sessions = 4
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from .console import MISUSED, fail

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
