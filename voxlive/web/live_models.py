"""The live engines of one server by name: ``LiveModels`` finds the one that a client asks for.

``LiveSpec`` is what ``--live`` says of one. Each engine has a process, slots and a voice detector
of its own; replacements, limits and the engines' deadline are the server's.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args, get_origin, get_type_hints

from voxlive.checkpoints.resolve import aliases_of, cached, fetch, parse_repository, resolve
from voxlive.engines import load_apart, names_engine
from voxlive.engines.pool import EnginePool
from voxlive.errors import CheckpointNotFound, RequestRefused
from voxlive.runners.routing import is_hosted
from voxlive.speakers.sortformer import SortformerProcess
from voxlive.streaming.service import Service
from voxlive.vad.detector import Silero, VoiceDetector
from voxlive.web.config import OPTIONS, ConfigError, ServeConfig

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import Engine
    from voxlive.engines.recording import RecordingFolder
    from voxlive.runners.catalogue import Catalogue
    from voxlive.streaming.replacements import Replacements

log = logging.getLogger(__name__)

_MAX_NAME = 100
_MAX_QUOTED = 40
_RETRY_S = 10.0

LoadLive = Callable[[str | None, str | None, Collection[str]], "Engine"]
"""Loads the engine of a live model by its given name (None: the default), from the model that it
has or another one, with these devices out of service. Blocks; raises CheckpointError and
EngineError."""


def _one_of(*known: str | int) -> Callable[[str], object]:
    values = {str(value): value for value in known}

    def parse(text: str) -> object:
        if text not in values:
            raise ValueError(f"{text!r} is not {' or '.join(values)}")
        return values[text]

    return parse


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _reader(field: str) -> Callable[[str], object]:
    """From a text to a value of this field of ``ServeConfig``, by its type."""
    hint = get_type_hints(ServeConfig)[field]
    if get_origin(hint) is tuple:
        return lambda text: (text,)
    choices = [choice for arm in get_args(hint) for choice in get_args(arm)]
    return _one_of(*choices) if choices else _whole_number


_FIELDS = ("max_sessions", "device", "devices", "delay_ms", "quantize", "commit", "vocabulary")
_OPTIONS = {field.replace("_", "-"): _reader(field) for field in _FIELDS}
_SHARED = ("device",)
"""The server's own unless a live model has another; of the rest each has the default."""


@dataclass(frozen=True, slots=True)
class LiveSpec:
    """A live model that a server has beside its default: ``NAME=MODEL,max-sessions=4``.

    ``options`` are fields of ``ServeConfig`` for this model alone.
    """

    name: str
    model: str
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of an option. Raises ValueError, whose text begins with the name."""
        first, *rest = text.split(",")
        name, equals, model = first.partition("=")
        if not (name.strip() and equals and model.strip()):
            raise ValueError(f"{text!r} is not NAME=MODEL, such as accurate=voxtral")
        if len(name) > _MAX_NAME or any(char.isspace() for char in name):
            rule = f"a name has no spaces and at most {_MAX_NAME} characters"
            raise ValueError(f"{name[:_MAX_QUOTED]!r}: {rule}")
        options: dict[str, Any] = {}
        for item in rest:
            option, equals, value = item.partition("=")
            if names_engine(model) and option not in _OPTIONS:
                model += f",{item}"  # the engine's own
                continue
            if not equals or option not in _OPTIONS:
                known = ", ".join(f"{known}=" for known in _OPTIONS)
                raise ValueError(f"{name}: {item!r} is none of {known}")
            field = option.replace("-", "_")
            if field in options:
                raise ValueError(f"{name}: {option} is given twice")
            try:
                options[field] = _OPTIONS[option](value)
                OPTIONS[field].check_value(options[field])
            except ValueError as error:
                raise ValueError(f"{name}: {option}: {error}") from None
        return cls(name, model, options)

    def config(self, server: ServeConfig) -> ServeConfig:
        """The server's options as they are for this model.

        ``device`` is the server's unless it has its own; what else is said of the default model
        does not hold for it.
        """
        defaults = {field.name: field.default for field in fields(ServeConfig)}
        own: dict[str, Any] = {name: defaults[name] for name in _FIELDS if name not in _SHARED}
        own |= self.options
        return replace(server, model=self.model, file_model=None, live=(), **own)


def read_specs(texts: Iterable[str]) -> tuple[LiveSpec, ...]:
    """Read them all. Raises ValueError for what is wrong with one, or a name that comes twice."""
    specs = tuple(LiveSpec.parse(text) for text in texts)
    names = [spec.name for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice")
    return specs


class LiveModels:
    """A default service and named ones, each with an engine and slots of its own.

    ``labels`` are what metrics and lists call them: the default goes by its engine's model. An
    engine's own model id, its short names and its further ones are names of it too; a given name
    goes before those, and the default's before those of another. With one engine every name means
    that one. ``load`` is for ``reload``.
    """

    def __init__(
        self,
        default: Service,
        named: Mapping[str, Service] | None = None,
        load: LoadLive | None = None,
    ) -> None:
        self.default = default
        self.named = dict(named or {})
        self._load = load
        self._reloads: set[asyncio.Task[int]] = set()
        self.elsewhere: Callable[[str | None, Engine], Awaitable[int]] | None = None
        """Has the server's other processes go on with another engine, as ``go_on_with`` does."""
        self._register()

    def _register(self) -> None:
        self.labels = {self.default.engine.info.model: self.default, **self.named}
        self._by_name = dict(self.named)
        for service in self:
            info = service.engine.info
            for name in (info.model, *aliases_of(info.model), *info.names):
                self._by_name.setdefault(name, service)

    def __iter__(self) -> Iterator[Service]:
        """Every service, the default first."""
        yield self.default
        yield from self.named.values()

    def label(self, service: Service) -> str:
        """What one of these services is called."""
        return next(label for label, one in self.labels.items() if one is service)

    def serves(self, name: str) -> bool:
        """Whether this is a name of one of these, and not only taken for the default."""
        return name in self._by_name

    def find(
        self,
        name: str | None,
        otherwise: Service | None = None,
        no_choice: Container[str] = (),
    ) -> Service:
        """The service of this name; ``otherwise`` where the client has made no choice.

        That is without a name, with another provider's model and with a name of ``no_choice``.
        ``otherwise`` None is the default. Raises RequestRefused 404 for an unknown name where there
        are several engines.
        """
        otherwise = otherwise or self.default
        if not name or not self.named:
            return otherwise
        if found := self._by_name.get(name):
            return found
        if is_hosted(name) or name in no_choice:
            return otherwise
        raise self._unknown(name, "model")

    def _unknown(self, name: str, param: str) -> RequestRefused:
        ids = (service.engine.info.model for service in self)
        known = ", ".join(dict.fromkeys((*self.labels, *ids)))
        message = f"there is no live model {name[:_MAX_QUOTED]!r}: use one of {known}"
        return RequestRefused("model_not_found", message, param)

    async def reload(self, name: str | None, model: str | None) -> tuple[Service, int]:
        """Load a live model anew, or another one in its place; its sessions go on.

        ``name`` is one of the names, None the default's. Returns the service, and how many sessions
        stay with the engine before (``Service.replace_engine``). It is done whatever becomes of the
        caller. Raises RequestRefused, also for a second reload at the same time, and what loading
        raises: then nothing has changed.
        """
        service = self.named_or_default(name)
        if self._load is None:
            raise RequestRefused("unsupported_option", "this server's models are its host's")
        if self._reloads:
            message = "a model is being loaded already: wait until it is"
            raise RequestRefused("models_busy", message, retry_after_s=_RETRY_S)
        task = asyncio.create_task(self._reload(service, model, self._load))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)
        return service, await asyncio.shield(task)

    def named_or_default(self, name: str | None) -> Service:
        """The service that has this name, the default for None. Raises RequestRefused 404."""
        if name is None:
            return self.default
        if name not in self._by_name:
            raise self._unknown(name, "name")
        return self._by_name[name]

    async def set_device(self, name: str | None, device: str, *, in_service: bool) -> EnginePool:
        """Take a device of a live model's pool out of service, or put it back.

        It is done whatever becomes of the caller. Raises RequestRefused for a model without a pool,
        and what ``EnginePool.take_out`` and ``put_back`` raise.
        """
        pool = self.named_or_default(name).engine
        if not isinstance(pool, EnginePool):
            message = "this model has one engine: --devices gives it several"
            raise RequestRefused("unsupported_option", message, "device")
        change = pool.put_back if in_service else pool.take_out
        await asyncio.shield(asyncio.to_thread(change, device))
        return pool

    async def _reload(self, service: Service, model: str | None, load: LoadLive) -> int:
        key = next((name for name, one in self.named.items() if one is service), None)
        before = service.engine
        out = before.out if isinstance(before, EnginePool) else ()
        try:
            engine = await asyncio.to_thread(load, key, model, out)
        except CheckpointNotFound as error:
            raise RequestRefused("model_not_found", error.message, "model") from error
        stay = await self.elsewhere(key, engine) if self.elsewhere else 0
        stay += await self.go_on_with(service, engine)
        log.info(
            "%s is loaded in place of another engine, which %d sessions keep",
            engine.info.model,
            stay,
        )
        return stay

    async def go_on_with(self, service: Service, engine: Engine) -> int:
        """Have one of these go on with another engine; how many of its sessions stay before."""
        stay = await service.replace_engine(engine)
        self._register()
        return stay

    @property
    def closing(self) -> bool:
        """Whether there are to be no more sessions."""
        return self.default.closing

    async def drain(self, drain_s: float) -> None:
        """End the sessions of every engine at the same time, within ``drain_s`` seconds.

        All but those that another server may go on with.
        """
        await asyncio.gather(*(service.drain(drain_s) for service in self))

    async def aclose(self, drain_s: float = 0.0) -> None:
        """``drain``, if that was not done; then free every engine."""
        await asyncio.gather(*(service.aclose(drain_s) for service in self))


class Reloading:
    """Loads engines in place of others: the options of each live model, the default's under None.

    A model that was not there before is for files too, by its own name.
    """

    def __init__(self, catalogue: Catalogue, options: dict[str | None, ServeConfig]) -> None:
        self._catalogue = catalogue
        self._options = options

    def load(self, name: str | None, model: str | None, out: Collection[str] = ()) -> Engine:
        """See ``LoadLive``. What is loaded stays the model of that name."""
        options = self._options[name].with_model(model)
        found = find_model(options.model, options.offline)
        engine = load_apart(found, options.engine, out)
        self._options[name] = options
        known = self._catalogue.knows(engine.info.model)
        if model is not None and not isinstance(found, str) and not known:
            self._catalogue.register(engine.info.model, found, options.load)
        return engine


def find_model(name: str | None, offline: bool) -> LocalModel | str:
    """A model's files, or its name where that is all an engine needs."""
    return name if names_engine(name) else resolve(name, offline=offline)


def load_service(
    dictionary: Replacements | None,
    recordings: RecordingFolder | None,
    cleanup: ExitStack,
    model: LocalModel | str,
    config: ServeConfig,
) -> Service:
    """A live model's engine, warm, and its voice detector; ``cleanup`` frees them."""
    engine = load_apart(model, config.engine)
    cleanup.callback(engine.shutdown)
    detector = VoiceDetector(Silero())
    cleanup.callback(detector.close)
    speakers = speakers_of(config)
    return Service(engine, detector, dictionary, recordings, speakers=speakers)


def speakers_of(config: ServeConfig) -> SortformerProcess | None:
    """What tells a service's voices apart; None: the encoder.

    Raises ConfigError, and CheckpointNotFound or NotDownloaded.
    """
    if config.speaker_model is None:
        return None
    folder = Path(config.speaker_model).expanduser()
    if not folder.is_dir():
        repository = parse_repository(config.speaker_model)
        if repository is None:
            message = f"{config.speaker_model} is no folder and no hub repository (owner/name)"
            raise ConfigError(message, "speaker_model")
        here = cached(repository)
        if here is None and config.offline:
            message = f"{config.speaker_model} is not on this machine, and downloads are off"
            raise ConfigError(message, "speaker_model")
        folder = here or fetch(repository)
    try:
        kind = json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
    except (OSError, ValueError):
        kind = None
    if kind != "sortformer":
        message = f"{config.speaker_model} is no Sortformer in mlx-audio's layout"
        raise ConfigError(message, "speaker_model")
    return SortformerProcess(str(folder))
