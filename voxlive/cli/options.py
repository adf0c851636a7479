"""Options on the command line, and where it does not say them: ``web/option_sources.py``.

The options of ``serve`` and those that others share with it are made from the table in
``web/config.py``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    get_origin,
    get_type_hints,
)

import typer
from typer.core import TyperGroup

from voxlive.cli.console import MISUSED, fail
from voxlive.web.config import (
    OPTIONS,
    ConfigError,
    ServeConfig,
    option_name,
    section_of,
    variable_name,
)
from voxlive.web.option_sources import GivenOption, from_environment, from_table, read_tables

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import EngineOptions
    from voxlive.streaming.service import Service

DEFAULT_FILE = "~/.config/voxlive/config.toml"
_SOURCES = "voxlive.sources"


def serve_option(field: str, *, flag: bool = False, section: str | None = None) -> Any:
    """What typer has to know of a field of ``ServeConfig``; a ``flag`` takes no value."""
    option = OPTIONS[field]
    return typer.Option(
        *((option_name(field),) if flag or field == "also" else ()),
        help=option.help,
        min=option.low,
        max=option.high,
        metavar=option.metavar,
        envvar=variable_name(field) if option.shown_variable else None,
        show_envvar=option.shown_variable,
        rich_help_panel=section,
        callback=_validator(option.check_value) if option.check else None,
    )


def _validator(refuse: Callable[[object], object]) -> Callable[..., object]:
    def callback(context: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
        try:
            refuse(value)
        except ValueError as error:
            fail(f"{_named(context, param)}: {error}", MISUSED)
        return value

    return callback


def _named(context: typer.Context, parameter: typer.CallbackParam) -> str:
    """What the user wrote, for a message: the option, the file's key or the variable."""
    name = parameter.name or ""
    source = context.get_parameter_source(name)
    if source is None or source.name == "DEFAULT_MAP":
        sources: Mapping[tuple[str | None, str], str] = context.meta[_SOURCES]
        return sources[context.command.name, name]
    return str(parameter.opts[0])


Model = Annotated[str | None, serve_option("model")]
Device = Annotated[Literal["gpu", "cpu"] | None, serve_option("device")]
DelayMs = Annotated[int | None, serve_option("delay_ms")]
Quantize = Annotated[Literal["4", "8"] | None, serve_option("quantize")]
KeepQuantized = Annotated[bool, serve_option("keep_quantized", flag=True)]
Offline = Annotated[bool, serve_option("offline", flag=True)]


def _language(context: typer.Context, param: typer.CallbackParam, named: str | None) -> str | None:
    from voxlive.checkpoints.languages import UnknownLanguage, language_of

    try:
        return language_of(named)
    except UnknownLanguage as error:
        fail(f"{_named(context, param)}: {error}", MISUSED)


Language = Annotated[
    str | None,
    typer.Option(
        callback=_language,
        help="What is spoken: a code, a locale or an English name. Default: the model finds out.",
    ),
]


def serve_signature() -> Signature:
    """The context, and the parameters of a command that has an option for every field."""
    hints = get_type_hints(ServeConfig)
    return Signature(
        [
            Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
            *(
                Parameter(
                    field.name,
                    Parameter.KEYWORD_ONLY,
                    default=field.default or None if _many(hints[field.name]) else field.default,
                    annotation=Annotated[
                        _as_typer_has(hints[field.name]),
                        serve_option(
                            field.name,
                            flag=hints[field.name] is bool,
                            section=section_of(field.name),
                        ),
                    ],
                )
                for field in dataclasses.fields(ServeConfig)
            ),
        ],
    )


def serve_config(given: Mapping[str, Any]) -> ServeConfig:
    """What such a command was given. Raises ConfigError."""
    hints = get_type_hints(ServeConfig)
    return ServeConfig(**{name: _from_typer(hints[name], value) for name, value in given.items()})


def with_places(error: ConfigError, context: typer.Context) -> str:
    """Its message, with where its options were set that the command line has not."""
    sources: Mapping[tuple[str | None, str], str] = context.meta.get(_SOURCES, {})
    places = []
    for name in error.fields:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "DEFAULT_MAP":
            places.append(sources["serve", name])
    return f"{error.message} ({'; '.join(places)})" if places else error.message


def _many(hint: Any) -> bool:
    return get_origin(hint) is tuple


def _as_typer_has(hint: Any) -> Any:
    """Typer's choices are texts, and what may be given again is a list."""
    if _many(hint):
        return list[str] | None
    return Literal["4", "8"] | None if hint == Literal[4, 8] | None else hint


def _from_typer(hint: Any, value: Any) -> Any:
    if _many(hint):
        return tuple(value or ())
    return int(value) if value is not None and hint == Literal[4, 8] | None else value


def load_defaults(file: Path | None, context: typer.Context) -> dict[str, dict[str, Any]]:
    """What every command's options are where its command line does not say them.

    From the environment (``serve`` alone), else from the config file: one that was asked for must
    be there. A value that cannot be ends the process with one line that says where it stands.
    """
    assert isinstance(context.command, TyperGroup)
    given: dict[tuple[str, str], GivenOption] = {}
    path = file or Path(os.environ.get("VOXLIVE_CONFIG", DEFAULT_FILE)).expanduser()
    try:
        if file is not None or path.exists():
            given |= _from_file(path, context.command)
    except ConfigError as error:
        fail(error.message, MISUSED)
    for field, one in from_environment(os.environ).items():
        if not OPTIONS[field].shown_variable:  # typer reads those
            given["serve", field] = one
    context.meta[_SOURCES] = {key: one.where for key, one in given.items()}
    defaults: dict[str, dict[str, Any]] = {}
    for (name, field), one in given.items():
        command = context.command.commands[name]
        [parameter] = [found for found in command.params if found.name == field]
        value = _validated(one, parameter, typer.Context(command, context, name))
        defaults.setdefault(name, {})[field] = value
    return defaults


def _from_file(path: Path, group: TyperGroup) -> dict[tuple[str, str], GivenOption]:
    """By command and field. Raises ConfigError."""
    found = {}
    for name, table in read_tables(path).items():
        if name not in group.commands or not isinstance(table, dict):
            commands = ", ".join(group.commands)
            raise ConfigError(f"{path}: [{name}] is not a table of a command: {commands}")
        fields = {
            option.removeprefix("--"): str(parameter.name)
            for parameter in group.commands[name].params
            for option in parameter.opts
        }
        for field, one in from_table(path, name, table, fields).items():
            found[name, field] = one
    return found


def _validated(given: GivenOption, parameter: Any, context: typer.Context) -> Any:
    """The value, for the option; one line and an exit code for what the option does not take."""
    where, value = given
    if isinstance(value, dict):
        fail(f"{where} is a value, not a table", MISUSED)
    several = getattr(parameter, "multiple", False) or parameter.nargs == -1
    if isinstance(value, list) and not several:
        fail(f"{where} is one value, not a list", MISUSED)
    if isinstance(value, bool) and not getattr(parameter, "is_flag", False):
        fail(f"{where} is not true or false", MISUSED)
    value = [value] if several and not isinstance(value, list) else value
    try:
        parameter.process_value(context, value)
    except typer.BadParameter as error:
        fail(f"{where}: {error.message}", MISUSED)
    return value


def open_model(name: str | None, *, offline: bool) -> LocalModel:
    """A model's files, wherever they are; one line and exit code 1 if they cannot be had."""
    from voxlive.checkpoints.resolve import resolve
    from voxlive.errors import CheckpointError

    try:
        return resolve(name, offline=offline)
    except CheckpointError as error:
        fail(error)


def open_service(model: LocalModel, options: EngineOptions) -> Service:
    """The engine, loaded and warm, with a voice detector; one line and exit code 1 if it fails."""
    from voxlive.engines import load_engine
    from voxlive.errors import CheckpointError, EngineError, VadError
    from voxlive.streaming.service import Service
    from voxlive.vad.detector import Silero, VoiceDetector

    try:
        return Service(load_engine(model, options), VoiceDetector(Silero()))
    except (EngineError, CheckpointError, VadError) as error:
        fail(error)
