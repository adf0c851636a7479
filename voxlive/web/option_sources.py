"""Options of a server from a config file and the environment, and what their values become.

    [serve]
    port = 8123
    max-sessions = 4

The command line and the replicas of a cluster read them here. The file is TOML: a table per
command, with the same names as the options.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from voxlive.web.config import OPTIONS, ConfigError, ServeConfig, variable_name


class GivenOption(NamedTuple):
    """A value that is on no command line. ``where`` is what a message calls it."""

    where: str
    value: object


def read_tables(path: Path) -> dict[str, object]:
    """The tables of a config file, by command. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def from_table(
    path: Path, name: str, table: Mapping[str, object], fields: Mapping[str, str]
) -> dict[str, GivenOption]:
    """The options of a command's table. ``fields`` are theirs, by names. Raises ConfigError."""
    found = {}
    for option, value in table.items():
        where = f"{path}: [{name}] {option}"
        if option not in fields:
            raise ConfigError(f"{where} is not one of {', '.join(fields)}")
        if option == "live" and isinstance(value, dict):
            where = f"{path}: [{name}.{option}]"
            value = [_live_text(where, *entry) for entry in value.items()]
        found[fields[option]] = GivenOption(where, value)
    return found


def _live_text(where: str, name: str, value: object) -> str:
    """A key of the table of live models as the command line has it: a model, or also options."""
    fields = dict(value) if isinstance(value, dict) else {"model": value}
    model = fields.pop("model", None)
    if not isinstance(model, str):
        raise ConfigError(f'{where} {name} is "MODEL", or {{ model = "MODEL", max-sessions = 4 }}')
    return ",".join((f"{name}={model}", *(f"{option}={one}" for option, one in fields.items())))


def from_environment(environment: Mapping[str, str]) -> dict[str, GivenOption]:
    """The options of ``serve``; several values of one are a list."""
    found, hints = {}, get_type_hints(ServeConfig)
    for field in OPTIONS:
        variable = variable_name(field)
        text = environment.get(variable)
        # Kubernetes sets VOXLIVE_PORT=tcp://... where a service is called voxlive.
        if text and not (field == "port" and "://" in text):
            value = text.split() if get_origin(hints[field]) is tuple else text
            found[field] = GivenOption(variable, value)
    return found


def to_config(given: Mapping[str, GivenOption]) -> ServeConfig:
    """The options, whose values may be texts. Raises ConfigError."""
    hints = get_type_hints(ServeConfig)
    return ServeConfig(**{field: _typed(hints[field], field, one) for field, one in given.items()})


def _typed(hint: Any, field: str, given: GivenOption) -> Any:
    where, value = given
    if get_origin(hint) in (Union, UnionType):
        if value is None:
            return None
        [hint] = [one for one in get_args(hint) if one is not type(None)]
    try:
        if get_origin(hint) is tuple and not isinstance(value, dict):
            return tuple(map(str, value if isinstance(value, list | tuple) else [value]))
        if get_origin(hint) is Literal:
            return next(one for one in get_args(hint) if str(one) == str(value))
        if hint is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return hint(value)
    except (KeyError, StopIteration, ValueError):
        pass
    raise ConfigError(f"{where}: {value!r} is no value of it", field)
