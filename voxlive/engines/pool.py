"""Several engines of one model, each in a process and on a device of its own, as one engine.

``--devices`` names them (``read_devices``): all GPUs, some of them by number, or so many processes
on the CPU, between which its cores are divided. A stream goes to the device with the largest share
of free slots, past those that are full or have failed. When an engine dies or hangs, its process is
started again as ever, while its sessions take slots of its sisters at once
(``streaming.recovery``).

A device is taken out of service, for maintenance, and put back at any time: its sessions pass to
the others at their next pause. A child sees its own GPU alone; the environment of this process
stays as it is. Where a server has several processes, each has such a pool of the same engines: the
first one's, which has started them, leads.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Literal, Protocol, Self

from voxlive.engines.contract import (
    MOVE_S,
    DurationHistogram,
    Engine,
    EngineInfo,
    HistogramSnapshot,
    Sink,
    Stream,
    StreamOptions,
)
from voxlive.engines.remote.host import ProcessEngine
from voxlive.errors import EngineError, EngineFull, VoxliveError
from voxlive.processes.process import cores
from voxlive.processes.supervisor import Work

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import EngineOptions

log = logging.getLogger(__name__)

MAX_DEVICES = 64
_EMPTY_S = 2 * MOVE_S
_LOOK_S = 0.05
_HOW = "all, numbers of GPUs such as 0,1, or cpu*4"
_COUNT_GPUS = "from voxlive.engines.pool import count_gpus; print(count_gpus())"
_VISIBLE = "CUDA_VISIBLE_DEVICES"

DeviceState = Literal["ok", "failed", "out"]


def read_devices(text: str) -> tuple[str, ...]:
    """Names of devices: ``gpu:0``, ``cpu:3``; ``gpu:*`` stands for every GPU there is.

    Items stand between commas, or plus signs. Raises ValueError.
    """
    names: list[str] = []
    for item in re.split(r"[,+]", text):
        word = item.strip()
        if word == "all":
            names.append("gpu:*")
        elif word.isascii() and word.isdecimal() and len(word) <= len(str(MAX_DEVICES)):
            names.append(f"gpu:{int(word)}")
        elif found := re.fullmatch(r"cpu(?:\*([1-9][0-9]?))?", word):
            count, there = int(found[1] or 1), sum(name.startswith("cpu") for name in names)
            names += [f"cpu:{n}" for n in range(there, there + count)]
        else:
            raise ValueError(f"{word!r} is no device: use {_HOW}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice or ("gpu:*" in names and len(names) > 1):
        raise ValueError(f"{text!r} names a device twice: use {_HOW}")
    if len(names) > MAX_DEVICES:
        raise ValueError(f"{text!r} is more than {MAX_DEVICES} devices")
    return tuple(names)


def count_gpus() -> int:
    """NVIDIA's, by its driver; else 1 on Apple silicon, 0 elsewhere.

    The driver is begun in this process by it: a server asks in a child.
    """
    if sys.platform == "darwin":
        return int(os.uname().machine == "arm64")
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    found = ctypes.c_int(0)
    known = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(found)) == 0
    return found.value if known else 0


def _gpus() -> int:
    command = [sys.executable, "-P", "-c", _COUNT_GPUS]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(answer.stdout) if answer.returncode == 0 else 0


def present_devices(named: Sequence[str]) -> tuple[str, ...]:
    """The named devices that there are. Raises EngineError for one that is not here. Blocks."""
    if all(name.startswith("cpu:") for name in named):
        return tuple(named)
    there = _gpus()
    if not there:
        message = "--devices: there is no GPU here that can be used; for the CPU use cpu*2"
        raise EngineError("no_device", message)
    if "gpu:*" in named:
        return tuple(f"gpu:{n}" for n in range(there))
    missing = [name for name in named if name.startswith("gpu:") and int(name[4:]) >= there]
    if missing:
        message = f"--devices: there is no {missing[0]} here, the last one is gpu:{there - 1}"
        raise EngineError("no_device", message)
    return tuple(named)


def environment_of(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What a child's environment has besides: its GPU alone, of those that this process sees."""
    kind, _, number = device.partition(":")
    if kind != "gpu" or sys.platform == "darwin":
        return {}
    seen = [item for item in environment.get(_VISIBLE, "").split(",") if item.strip()]
    # Numbered as nvidia-smi does it, unless the user has said how.
    order = {"CUDA_DEVICE_ORDER": environment.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")}
    return order | {_VISIBLE: seen[int(number)].strip() if seen else number}


class DeviceEngine(Engine, Protocol):
    """The engine of one device, whose streams can be asked to leave."""

    @property
    def fault(self) -> str | None:
        """Why there is no engine now; None while there is one."""
        ...

    @property
    def pid(self) -> int | None:
        """Its process, None while there is none."""
        ...

    def withdraw(self, within_s: float) -> None:
        """Tell every stream to be replaced by one of another engine (``Withdrawn``)."""
        ...


StartDevice = Callable[[str], DeviceEngine]
"""Loads the engine of a device by its name. Blocks; raises EngineError and CheckpointError."""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device of a pool.

    ``fault`` is why it has no engine, None where it has; ``pid`` is the engine's process.
    """

    name: str
    state: DeviceState
    slots: int
    in_use: int
    steps: HistogramSnapshot
    fault: str | None = None
    pid: int | None = None


@dataclass(slots=True)
class _Device:
    name: str
    engine: DeviceEngine | None = None
    out: bool = False
    changing: bool = False

    def status(self) -> DeviceStatus:
        engine = self.engine
        if engine is None:
            return DeviceStatus(self.name, "out", 0, 0, _NO_STEPS)
        state: DeviceState = "out" if self.out else "failed" if engine.fault else "ok"
        slots, steps = engine.info.capacity, engine.steps.read()
        return DeviceStatus(self.name, state, slots, engine.in_use, steps, engine.fault, engine.pid)


_NO_STEPS = DurationHistogram().read()


class EnginePool:
    """See the module and the contract.

    Its slots are those of the devices in service that have an engine. ``take_out`` and ``put_back``
    block; any thread may call them.
    """

    def __init__(self, names: Sequence[str], start: StartDevice, out: Collection[str] = ()) -> None:
        """Load the engines of all devices at once, but those that are ``out``. Blocks.

        Raises EngineError and CheckpointError of the first device that fails, named.
        """
        self._start = start
        self._lock = threading.Lock()
        self._devices = {name: _Device(name, out=name in out) for name in names}
        self._closed = False
        self.on_loaded: Callable[[str, DeviceEngine], Callable[[], object]] = _ignore
        """Called with a device's new engine before it gets sessions. What it returns is called when
        it does, and may block."""
        loading = [device for device in self._devices.values() if not device.out]
        with ExitStack() as undo, ThreadPoolExecutor(max(1, len(loading))) as threads:
            undo.callback(self.shutdown)
            for device, engine in [(one, threads.submit(self._load, one)) for one in loading]:
                device.engine = engine.result()
            undo.pop_all()
        first = loading[0].engine
        assert first
        self._info = replace(first.info, device=_kinds(names))

    @classmethod
    def start(cls, model: LocalModel, options: EngineOptions, out: Collection[str] = ()) -> Self:
        """A process on each of ``options.devices``. See ``__init__``."""
        names = present_devices(options.devices)
        slots = _shares(options.max_sessions, names)
        on_cpu = sum(name.startswith("cpu:") for name in names)

        def load(name: str) -> ProcessEngine:
            kind = name.partition(":")[0]
            own = replace(
                options,
                device=kind,
                devices=(),
                max_sessions=slots[name],
                cores=cores() / on_cpu if kind == "cpu" else None,
            )
            return ProcessEngine.start(model, own, environment_of(name, os.environ))

        return cls(names, load, out)

    @property
    def info(self) -> EngineInfo:
        """See the contract; ``capacity`` is what there is at the moment."""
        serving = self._serving()
        slots = [one.info.capacity for one in serving if not one.fault]
        return replace(self._info, capacity=sum(slots or [one.info.capacity for one in serving]))

    @property
    def in_use(self) -> int:
        """See the contract; a session that has to leave a device counts there no more."""
        return sum(engine.in_use for engine in self._serving())

    @property
    def steps(self) -> EnginePool:
        """See the contract and ``read``."""
        return self

    def read(self) -> HistogramSnapshot:
        """The steps of all devices."""
        return reduce(add, (status.steps for status in self.devices))

    @property
    def work(self) -> Work:
        """See the contract; each engine has a supervisor of its own."""
        work = [engine.work for engine in self._serving()]
        return Work(any(one.busy for one in work), sum(one.done for one in work))

    @property
    def devices(self) -> tuple[DeviceStatus, ...]:
        """Every device, in the order in which they were named."""
        return tuple(device.status() for device in self._devices.values())

    @property
    def engines(self) -> dict[str, DeviceEngine]:
        """Those of the devices in service, by their names."""
        return {
            one.name: one.engine for one in self._devices.values() if one.engine and not one.out
        }

    @property
    def out(self) -> frozenset[str]:
        """The devices that are out of service."""
        return frozenset(device.name for device in self._devices.values() if device.out)

    def open(self, options: StreamOptions, sink: Sink) -> Stream:
        """See the contract: on the device with the largest share of free slots that takes it."""
        failure: EngineError | None = None
        full = False
        for engine in sorted(self._serving(), key=_share_in_use):
            try:
                return engine.open(options, sink)
            except EngineFull:
                full = True
            except EngineError as error:
                if error.code != "engine_failed":
                    raise
                failure = error
        if full:
            raise EngineFull(self.info.capacity)
        raise failure or EngineError("engine_failed", "no device is in service")

    def check(self, timeout: float) -> str | None:
        """See the contract: None while any device decodes."""
        engines = self._serving()
        with ThreadPoolExecutor(max(1, len(engines))) as threads:
            faults = list(threads.map(lambda engine: engine.check(timeout), engines))
        return next(iter(faults), None) if all(faults) else None

    def take_out(self, name: str) -> None:
        """Have a device's sessions pass to the others, then end its process. Blocks.

        Raises EngineError ``no_device`` for an unknown one, ``device_busy`` where it is the last in
        service or another call is under way.
        """
        with self._lock:
            device = self._require(name)
            if device.out:
                return
            if len(self._serving()) < 2:
                message = f"{name} is the only device in service: put another one back first"
                raise EngineError("device_busy", message)
            device.out = device.changing = True
        engine = device.engine
        assert engine
        try:
            engine.withdraw(MOVE_S)
            until = time.monotonic() + _EMPTY_S
            while engine.in_use and time.monotonic() < until:
                time.sleep(_LOOK_S)
            engine.shutdown()
        finally:
            with self._lock:
                device.changing = False
                if device.engine is engine:  # no other one has joined
                    device.engine = None
        log.info("%s is out of service", name)

    def put_back(self, name: str) -> None:
        """Load a device's engine, and give it sessions again. Blocks.

        Raises EngineError as ``take_out``, and what loading raises: then it stays out.
        """
        with self._lock:
            device = self._require(name)
            if not device.out:
                return
            device.changing = True
        try:
            engine = self._load(device)
            then = self.on_loaded(name, engine)
            self.join(name, engine)
            then()
        finally:
            device.changing = False

    def join(self, name: str, engine: DeviceEngine) -> None:
        """Have a device in service with an engine that is loaded; it is shut down if this is.

        Raises EngineError ``shutting_down`` then.
        """
        with self._lock:
            if not self._closed:
                device = self._devices.setdefault(name, _Device(name))
                device.engine, device.out = engine, False
                log.info("%s is in service", name)
                return
        engine.shutdown()
        raise EngineError("shutting_down", "the server is shutting down")

    def shutdown(self) -> None:
        """See the contract."""
        with self._lock:
            self._closed = True
            engines = [one.engine for one in self._devices.values() if one.engine]
        with ThreadPoolExecutor(max(1, len(engines))) as threads:
            list(threads.map(lambda engine: engine.shutdown(), engines))

    def _serving(self) -> list[DeviceEngine]:
        return [*self.engines.values()]

    def _require(self, name: str) -> _Device:
        device = self._devices.get(name)
        if device is None:
            known = ", ".join(self._devices)
            raise EngineError("no_device", f"there is no device {name[:40]!r}: use one of {known}")
        if device.changing:
            message = f"{name} is being put into or out of service already: wait until it is"
            raise EngineError("device_busy", message)
        return device

    def _load(self, device: _Device) -> DeviceEngine:
        try:
            return self._start(device.name)
        except VoxliveError as error:
            error.message = f"{device.name}: {error.message}"
            error.args = (error.message,)
            raise


def _shares(sessions: int | None, names: Sequence[str]) -> dict[str, int | None]:
    """So many sessions divided among devices. Raises EngineError where one would have none."""
    if sessions is None:
        return dict.fromkeys(names)
    if sessions < len(names):
        message = f"--max-sessions {sessions} is less than one for each of {len(names)} devices"
        raise EngineError("unsupported_option", message)
    each, more = divmod(sessions, len(names))
    return {name: each + (n < more) for n, name in enumerate(names)}


def _ignore(_name: str, _engine: DeviceEngine) -> Callable[[], object]:
    """Nobody else has to know."""
    return lambda: None


def _share_in_use(engine: DeviceEngine) -> float:
    return engine.in_use / engine.info.capacity


def _kinds(names: Sequence[str]) -> str:
    """``gpu x 2``: how many of each kind."""
    kinds = [name.partition(":")[0] for name in names]
    return ", ".join(f"{kind} x {kinds.count(kind)}" for kind in dict.fromkeys(kinds))
