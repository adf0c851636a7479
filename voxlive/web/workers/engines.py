"""The engines of a server's live models, as its workers share them: sockets, slots, devices.

All of it is the host's. A live model has one engine, or one on each of its devices in service.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from voxlive.engines.pool import EnginePool
from voxlive.engines.remote.host import ProcessEngine
from voxlive.engines.remote.shared import SlotTable
from voxlive.web.config import ConfigError
from voxlive.web.workers import EngineLost, EngineWithdrawn, SharedModel

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from voxlive.engines.contract import Engine
    from voxlive.engines.pool import DeviceEngine
    from voxlive.processes.process import ChildProcess


class SharedLive:
    """An engine of a live model and its slots; of a ``pool`` the one on a ``device``."""

    def __init__(
        self,
        name: str | None,
        number: int,
        engine: ProcessEngine,
        workers: int,
        pool: EnginePool | None = None,
        device: str | None = None,
    ) -> None:
        self.name = name
        self.number = number
        self.engine = engine
        self.pool = pool
        self.device = device
        self.slots = SlotTable.create(workers)
        engine.share(self.slots)

    @property
    def model(self) -> SharedModel:
        """As a worker is told of it."""
        return SharedModel(self.name, self.number, self.engine.info, self.device)

    @property
    def in_service(self) -> bool:
        """Whether it gets sessions: not where its device is out of service."""
        pool, device = self.pool, self.device
        return pool is None or (device is not None and pool.engines.get(device) is self.engine)


class EngineSharing:
    """Hands the sockets of an engine's processes on to a worker: a ``Sharer``."""

    def __init__(self, process: ChildProcess[object], live: SharedLive) -> None:
        self._process = process
        self._live = live

    def on_engine(self, end: socket.socket, number: int) -> None:
        """See ``Sharer``."""
        with end, suppress(OSError):
            self._process.hand_over(f"engine {self._live.number} {number}", end.fileno())

    def on_engine_lost(self, number: int, fault: str) -> None:
        """See ``Sharer``."""
        self._process.sender.put(EngineLost(self._live.number, number, fault))

    def on_withdraw(self) -> None:
        """See ``Sharer``."""
        self._process.sender.put(EngineWithdrawn(self._live.number))


class SharedEngines:
    """The engines of all live models, for so many workers.

    ``on_joined`` is called with one whose device is back in service, in the thread that has loaded
    it, which it may block. Raises ConfigError for an engine that cannot be shared.
    """

    def __init__(
        self,
        models: Iterable[tuple[str | None, Engine]],
        workers: int,
        on_joined: Callable[[SharedLive], object],
    ) -> None:
        self._workers = workers
        self._on_joined = on_joined
        self._numbers = count()
        self._present: list[SharedLive] = []
        self._retired: list[SharedLive] = []
        for name, engine in models:
            self._present += self._shared(name, engine)

    @property
    def all(self) -> list[SharedLive]:
        """Those of the models, and those before them that still have sessions."""
        return self._present + self._retired

    @property
    def serving(self) -> list[SharedLive]:
        """Those that get sessions, each model's together."""
        return [one for one in self._present if one.in_service]

    def replace(self, name: str | None, engine: Engine) -> list[SharedLive]:
        """A live model has another engine from now on. Raises ConfigError, see the class."""
        lives = self._shared(name, engine)
        self._retire([one for one in self._present if one.name == name], lives)
        return lives

    def _retire(self, before: list[SharedLive], lives: list[SharedLive]) -> None:
        """Have these in place of those before."""
        for one in [one for one in self._retired if not one.slots.in_use]:
            self._retired.remove(one)
            one.slots.close()
        self._retired += before
        others = [one for one in self._present if one not in before]
        self._present = sorted(others + lives, key=lambda one: one.name or "")

    def _shared(self, name: str | None, engine: Engine) -> list[SharedLive]:
        if not isinstance(engine, EnginePool):
            return [self._share(name, engine)]
        engine.on_loaded = partial(self._on_loaded, name, engine)
        return [self._share(name, one, engine, device) for device, one in engine.engines.items()]

    def _share(
        self,
        name: str | None,
        engine: Engine,
        pool: EnginePool | None = None,
        device: str | None = None,
    ) -> SharedLive:
        if not isinstance(engine, ProcessEngine):
            message = "a replay works with one server process: --workers 1"
            raise ConfigError(message, "workers")
        return SharedLive(name, next(self._numbers), engine, self._workers, pool, device)

    def _on_loaded(
        self, name: str | None, pool: EnginePool, device: str, engine: DeviceEngine
    ) -> Callable[[], object]:
        """A device of a pool has an engine again; what to call when that is in service."""
        live = self._share(name, engine, pool, device)
        before = [one for one in self._present if one.name == name]
        if all(one.pool is not pool for one in before):  # the model has other engines by now
            return live.slots.close
        self._retire([one for one in before if one.device == device], [live])
        return partial(self._on_joined, live)
