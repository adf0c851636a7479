"""The live engines of one server by name: ``LiveModels`` finds the one that a client asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from voxlive.errors import RequestRefused
from voxlive.runners.registry import is_hosted
from voxlive.streaming.service import Service


class LiveModels:
    """A default service and named ones, each with an engine and slots of its own.

    An engine's own model id is a name of it too; a given name goes before an id, and the default's
    id before that of another. With one engine every name means that one.
    """

    def __init__(self, default: Service, named: Mapping[str, Service] | None = None) -> None:
        self.default = default
        self.named = dict(named or {})
        self._by_name = dict(self.named)
        for service in self:
            self._by_name.setdefault(service.engine.info.model, service)

    def __iter__(self) -> Iterator[Service]:
        """Every service, the default first."""
        yield self.default
        yield from self.named.values()

    def find(self, name: str | None) -> Service:
        """The service of this name; the default for none and for another provider's model.

        Raises RequestRefused 404 for an unknown name where there are several engines.
        """
        if not name or not self.named:
            return self.default
        if found := self._by_name.get(name):
            return found
        if is_hosted(name):
            return self.default
        known = ", ".join(self._by_name)
        message = f"there is no live model {name[:40]!r}: use one of {known}"
        raise RequestRefused("model_not_found", message, "model")

    async def aclose(self, drain_s: float) -> None:
        """End the sessions of every engine at the same time, within ``drain_s`` seconds."""
        await asyncio.gather(*(service.aclose(drain_s) for service in self))
