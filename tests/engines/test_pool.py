"""Several engines as one: devices by name, who gets a stream, out of service and back."""

import threading

import pytest
from support.listening import StreamRecorder

from voxlive.engines.contract import (
    EngineInfo,
    EngineOptions,
    HistogramSnapshot,
    Message,
    StreamOptions,
    Withdrawn,
)
from voxlive.engines.pool import (
    MAX_DEVICES,
    EnginePool,
    environment_of,
    present_devices,
    read_devices,
)
from voxlive.errors import EngineError, EngineFull, UnsupportedOption
from voxlive.processes.supervisor import Work

OPTIONS = StreamOptions()


class Slot:
    """A stream that leaves as soon as it is asked to."""

    trail = 0

    def __init__(self, engine, sink) -> None:
        self.engine, self.sink = engine, sink
        engine.streams.add(self)

    def close(self) -> None:
        self.engine.streams.discard(self)


class CountingEngine:
    """A ``DeviceEngine`` with slots and nothing behind them."""

    def __init__(self, name: str, slots: int = 2) -> None:
        self.name = name
        self.info = EngineInfo("test", "tiny", name.partition(":")[0], slots, ())
        self.streams: set[Slot] = set()
        self.fault: str | None = None
        self.refusal: EngineError | None = None
        self.closed = False
        self.pid = 1
        self.steps = self
        self.work = Work(busy=False, done=1)

    @property
    def in_use(self) -> int:
        return len(self.streams)

    def read(self) -> HistogramSnapshot:
        return HistogramSnapshot((1.0,), (3,), 4, 2.5)

    def open(self, _options, sink) -> Slot:
        if self.fault:
            raise EngineError("engine_failed", self.fault)
        if self.refusal:
            raise self.refusal
        if self.in_use == self.info.capacity:
            raise EngineFull(self.info.capacity)
        return Slot(self, sink)

    def withdraw(self, within_s: float) -> None:
        for stream in tuple(self.streams):
            stream.sink(Withdrawn(within_s))
            stream.close()

    def check(self, _timeout: float) -> str | None:
        return self.fault

    def shutdown(self) -> None:
        self.closed = True


class Started(dict):
    """Every engine that was started, the newest by its name."""

    def __call__(self, name: str) -> CountingEngine:
        self[name] = CountingEngine(name)
        return self[name]


@pytest.fixture
def started() -> Started:
    return Started()


@pytest.fixture
def pool(started) -> EnginePool:
    return EnginePool(["gpu:0", "gpu:1", "gpu:2"], started)


def opened(pool: EnginePool) -> Slot:
    return pool.open(OPTIONS, StreamRecorder().sink)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all", ("gpu:*",)),
        ("0", ("gpu:0",)),
        ("0,1", ("gpu:0", "gpu:1")),
        ("1+0", ("gpu:1", "gpu:0")),
        (" 0, 3 ", ("gpu:0", "gpu:3")),
        ("cpu", ("cpu:0",)),
        ("cpu*3", ("cpu:0", "cpu:1", "cpu:2")),
        ("cpu*2,0", ("cpu:0", "cpu:1", "gpu:0")),
        ("cpu,cpu", ("cpu:0", "cpu:1")),
    ],
)
def test_reads_devices(text, names):
    assert read_devices(text) == names


@pytest.mark.parametrize(
    "text", ["", "gpu", "0,0", "all,0", "all,all", "cpu*0", "cpu*", "-1", "0,", "cpu*65", "1" * 50]
)
def test_refuses_devices_that_cannot_be(text):
    with pytest.raises(ValueError, match=r"no device|twice|more than"):
        read_devices(text)
    assert MAX_DEVICES == 64


def test_a_gpu_that_is_not_here_is_an_error_that_says_what_is():
    assert present_devices(("cpu:0", "cpu:1")) == ("cpu:0", "cpu:1")
    with pytest.raises(EngineError) as refused:
        present_devices(("gpu:99",))
    assert refused.value.code == "no_device"


def test_a_child_sees_its_gpu_alone_of_those_that_its_parent_sees():
    assert environment_of("cpu:1", {}) == {}
    assert environment_of("gpu:1", {})["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment_of("gpu:1", {"CUDA_VISIBLE_DEVICES": "5,GPU-af3"}) == {
        "CUDA_VISIBLE_DEVICES": "GPU-af3",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    order = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    assert environment_of("gpu:0", order) == order | {"CUDA_VISIBLE_DEVICES": "0"}


def test_a_stream_goes_to_the_device_with_the_largest_share_free(pool, started):
    assert (pool.info.capacity, pool.info.device) == (6, "gpu x 3")
    streams = [opened(pool) for _ in range(6)]
    assert [engine.in_use for engine in started.values()] == [2, 2, 2]
    with pytest.raises(EngineFull, match="all 6 sessions"):
        opened(pool)
    streams[4].close()
    assert opened(pool).engine is streams[4].engine
    assert pool.in_use == 6


def test_a_failed_device_is_passed_by_and_its_slots_do_not_count(pool, started):
    started["gpu:0"].fault = "it was killed"
    assert pool.info.capacity == 4
    assert {opened(pool).engine.name for _ in range(4)} == {"gpu:1", "gpu:2"}
    with pytest.raises(EngineFull, match="all 4 sessions"):
        opened(pool)
    first = pool.devices[0]
    assert (first.name, first.state, first.fault) == ("gpu:0", "failed", "it was killed")
    assert pool.check(1) is None
    for engine in started.values():
        engine.fault = "it was killed"
    with pytest.raises(EngineError) as refused:
        opened(pool)
    assert refused.value.code == "engine_failed"
    assert pool.check(1) == "it was killed"
    assert pool.info.capacity == 6  # they are being started again


def test_what_an_engine_does_not_know_none_of_them_knows(pool, started):
    started["gpu:0"].refusal = UnsupportedOption("no such language", "language")
    with pytest.raises(UnsupportedOption):
        opened(pool)


def test_sessions_leave_a_device_that_is_taken_out(pool, started):
    told: list[Message] = []
    stream = pool.open(OPTIONS, told.append)
    name = stream.engine.name
    pool.take_out(name)
    assert [type(message) for message in told] == [Withdrawn]
    assert started[name].closed
    assert pool.out == {name}
    assert pool.info.capacity == 4
    assert {opened(pool).engine.name for _ in range(4)} == set(started) - {name}
    pool.take_out(name)  # it is
    before = started[name]
    pool.put_back(name)
    pool.put_back(name)
    assert started[name] is not before
    assert (pool.out, pool.info.capacity) == (frozenset(), 6)
    assert opened(pool).engine is started[name]


def test_the_last_device_stays_and_an_unknown_one_is_an_error(pool):
    for call in (pool.take_out, pool.put_back):
        with pytest.raises(EngineError, match="gpu:0, gpu:1, gpu:2") as unknown:
            call("gpu:7")
        assert unknown.value.code == "no_device"
    pool.take_out("gpu:0")
    pool.take_out("gpu:1")
    with pytest.raises(EngineError) as last:
        pool.take_out("gpu:2")
    assert last.value.code == "device_busy"


def test_a_device_that_does_not_load_stays_out_and_says_which_it_is(started):
    pool = EnginePool(["gpu:0", "gpu:1"], started, out=("gpu:1",))
    assert list(started) == ["gpu:0"]
    begun, go_on = threading.Event(), threading.Event()

    def fail(_name: str) -> CountingEngine:
        begun.set()
        go_on.wait(10)
        raise EngineError("no_memory", "it has no room")

    pool._start = fail
    failures: list[EngineError] = []

    def put_back() -> None:
        try:
            pool.put_back("gpu:1")
        except EngineError as error:
            failures.append(error)

    thread = threading.Thread(target=put_back)
    thread.start()
    assert begun.wait(10)
    with pytest.raises(EngineError) as busy:
        pool.put_back("gpu:1")
    assert busy.value.code == "device_busy"
    go_on.set()
    thread.join()
    assert [error.message for error in failures] == ["gpu:1: it has no room"]
    assert pool.out == {"gpu:1"}


def test_one_that_cannot_be_loaded_ends_the_others(started):
    def start(name: str) -> CountingEngine:
        if name == "gpu:1":
            raise EngineError("no_memory", "it has no room")
        return started(name)

    with pytest.raises(EngineError, match="gpu:1: it has no room"):
        EnginePool(["gpu:0", "gpu:1"], start)
    assert started["gpu:0"].closed


def test_its_steps_are_those_of_all(pool):
    assert pool.steps.read() == HistogramSnapshot((1.0,), (9,), 12, 7.5)
    assert pool.work == Work(busy=False, done=3)


def test_fewer_sessions_than_devices_are_an_error():
    options = EngineOptions(max_sessions=1, devices=("cpu:0", "cpu:1"))
    with pytest.raises(EngineError, match="less than one for each of 2 devices"):
        EnginePool.start(None, options)
