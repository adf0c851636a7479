"""The engine in a process of its own, on the random model of the goldens: exact in float32."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.listening import StreamRecorder
from support.tiny_checkpoint import write_tiny

from training.golden.audio import synthetic_audio
from voxlive.checkpoints.local_model import read_model
from voxlive.engines import load_engine
from voxlive.engines.contract import (
    EngineOptions,
    Failed,
    Message,
    Progressed,
    Reached,
    StreamOptions,
)
from voxlive.engines.remote import FeedStream, MarkStream
from voxlive.engines.remote.host import ProcessEngine, ProcessStream
from voxlive.errors import EngineError, EngineFull, IncompleteCheckpoint, UnsupportedOption
from voxlive.values import Word

AUDIO = synthetic_audio()[:80000]
WAIT_S = 60


def end(recorder: StreamRecorder) -> Message:
    """Wait for a marker or a failure."""
    return recorder.until(lambda message: isinstance(message, Reached | Failed))


@pytest.fixture(scope="module")
def options() -> EngineOptions:
    return EngineOptions(max_sessions=2, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(folder, options):
    engine = ProcessEngine.start(read_model(folder), options)
    yield engine
    engine.shutdown()


def transcribe(engine, delays: list[int], chunk: int) -> list[tuple[int, list[Word]]]:
    """What streams with these delays say side by side, and their trails."""
    recorders = [StreamRecorder() for _ in delays]
    streams = [
        engine.open(StreamOptions(delay_ms=delay), recorder.sink)
        for delay, recorder in zip(delays, recorders, strict=True)
    ]
    for at in range(0, len(AUDIO), chunk):
        for stream in streams:
            stream.feed(AUDIO[at : at + chunk], at)
    for stream in streams:
        stream.end_utterance(1)
        stream.flush(2)
    for recorder in recorders:
        assert [end(recorder), end(recorder)] == [Reached(1), Reached(2)]
    for stream in streams:
        stream.close()
    return [(s.trail, r.words) for s, r in zip(streams, recorders, strict=True)]


def process_of(engine: ProcessEngine) -> psutil.Process:
    """Its process, once there is one."""
    while engine.pid is None:
        threading.Event().wait(0.01)
    return psutil.Process(engine.pid)


def rest(engine: ProcessEngine) -> None:
    """Wait until it has told that nothing is left to do."""
    while engine.work.busy:
        threading.Event().wait(0.01)


def test_it_says_what_the_engine_says_in_place(engine, folder, options):
    apart = transcribe(engine, [480, 960], 320)
    assert len(apart[0][1]) > 4
    for _ in range(2):  # also where one was loaded before
        there = load_engine(read_model(folder), options)
        assert apart == transcribe(there, [480, 960], 320)
        assert there.info == engine.info
        there.shutdown()


def test_audio_goes_there_when_it_is_wanted():
    """A message for each position that is complete; all of it before a mark and before a gap."""
    sent: list[object] = []
    stream = ProcessStream(1, 0, print, sent.append, print, step=1280)
    audio = np.arange(320, dtype=np.float32)

    def ends(*starts: int) -> list[int]:
        sent.clear()
        for at in starts:
            stream.feed(audio, at)
        return [one.at + len(one.pcm) // 4 for one in sent if isinstance(one, FeedStream)]

    assert ends(0, 320) == [320, 640]  # not known yet
    assert stream.progress(Progressed(640, 1320)) == Progressed(640)
    assert ends(640, 960, 1280, 1600, 1920, 2240, 2560) == [1600, 2880]
    assert stream.progress(Progressed(640, 1320)) == Progressed(640)  # from before
    assert ends(2880) == []
    assert stream.progress(Progressed(2880, 3880)) == Progressed(3200)  # held, of no use there
    stream.flush(7)
    assert [type(one) for one in sent] == [FeedStream, MarkStream]
    stream.progress(Progressed(3200, 3880))  # from before the mark
    assert ends(3200, 3520) == [3520, 3840]
    stream.reached(7)
    stream.progress(Progressed(3840, 5160))
    assert ends(3840, 90_000, 90_320) == [4160, 90_320, 90_640]


def test_its_steps_are_counted_there_and_read_here(engine):
    before = engine.steps.read()
    transcribe(engine, [480], 16000)
    rest(engine)
    after = engine.steps.read()
    assert after.count > before.count
    assert after.total_s > before.total_s
    assert engine.check(WAIT_S) is None


def test_refusals_are_those_of_the_engine(engine):
    with pytest.raises(UnsupportedOption, match="the delay must be a multiple of 80"):
        engine.open(StreamOptions(delay_ms=100), StreamRecorder().sink)
    assert engine.in_use == 0
    streams = [engine.open(StreamOptions(), StreamRecorder().sink) for _ in range(2)]
    with pytest.raises(EngineFull, match="all 2 sessions"):
        engine.open(StreamOptions(), StreamRecorder().sink)
    streams[0].close()
    streams[0].close()
    assert engine.in_use == 1
    engine.open(StreamOptions(), StreamRecorder().sink).close()
    streams[1].close()


def test_nothing_follows_a_close(engine):
    recorder = StreamRecorder()
    stream = engine.open(StreamOptions(), recorder.sink)
    stream.close()
    stream.feed(np.zeros(16000, np.float32), 0)
    stream.flush(1)
    transcribe(engine, [480], 16000)  # by then it would have come
    assert recorder.silent


def test_a_killed_process_fails_its_streams_and_is_started_again(engine, caplog):
    before = transcribe(engine, [480], 16000)
    recorder = StreamRecorder()
    first, stream = engine.pid, engine.open(StreamOptions(), recorder.sink)
    os.kill(first, signal.SIGKILL)
    assert end(recorder) == Failed(
        "engine_failed", "the engine's process was killed by SIGKILL; start again in a moment"
    )
    assert engine.in_use == 0
    stream.close()
    while fault := engine.check(WAIT_S):  # there is nothing to wait on but its answers
        assert "was killed by SIGKILL" in fault
        with pytest.raises(EngineError, match="try again in a moment"):
            engine.open(StreamOptions(), StreamRecorder().sink)
        threading.Event().wait(0.05)
    assert engine.pid != first
    assert transcribe(engine, [480], 16000) == before
    assert "was killed by SIGKILL; it is started again" in caplog.text


def test_it_is_tried_again_until_it_can_be_loaded(folder, options, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    engine = ProcessEngine.start(read_model(model), options)
    for weights in model.glob("*.safetensors"):
        weights.rename(tmp_path / weights.name)
    os.kill(engine.pid, signal.SIGKILL)
    while "cannot be loaded" not in str(engine.check(WAIT_S)):
        threading.Event().wait(0.05)
    for weights in tmp_path.glob("*.safetensors"):
        weights.rename(model / weights.name)
    while engine.check(WAIT_S):
        threading.Event().wait(0.05)
    assert len(transcribe(engine, [480], 16000)[0][1]) > 4
    engine.shutdown()


def test_nobody_waits_for_an_engine_that_stands_still(engine, paused):
    """Opening, refusing and counting is done here; what was handed over is heard once it runs."""
    expected = transcribe(engine, [480, 960], 16000)
    rest(engine)
    paused(engine.pid)
    steps = engine.steps.read()
    assert steps.count
    assert not engine.work.busy, "reading asks nothing of it"
    recorders = [StreamRecorder(), StreamRecorder()]
    streams = [
        engine.open(StreamOptions(delay_ms=delay), recorder.sink)
        for delay, recorder in zip([480, 960], recorders, strict=True)
    ]
    with pytest.raises(EngineFull):
        engine.open(StreamOptions(), StreamRecorder().sink)
    with pytest.raises(UnsupportedOption, match="does not know 'xx'"):
        engine.open(StreamOptions(language="xx"), StreamRecorder().sink)
    for stream in streams:
        stream.feed(AUDIO, 0)
        stream.flush(2)
    assert engine.work.busy
    assert all(recorder.silent for recorder in recorders)
    os.kill(engine.pid, signal.SIGCONT)
    assert [end(recorder) for recorder in recorders] == [Reached(2)] * 2
    said = [(s.trail, r.words) for s, r in zip(streams, recorders, strict=True)]
    assert said == expected
    for stream in streams:
        stream.close()


def test_a_refusal_by_the_engine_itself_comes_as_a_failure(engine, monkeypatch):
    monkeypatch.setattr(engine, "info", replace(engine.info, capacity=3))
    recorders = [StreamRecorder() for _ in range(3)]
    streams = [engine.open(StreamOptions(), recorder.sink) for recorder in recorders]
    assert end(recorders[2]).code == "server_full"
    assert engine.in_use == 2
    for stream in streams:
        stream.close()
    assert engine.in_use == 0
    transcribe(engine, [480, 960], 16000)


def test_it_has_work_until_all_that_it_was_given_is_done(engine):
    recorder = StreamRecorder()
    stream = engine.open(StreamOptions(), recorder.sink)
    stream.feed(AUDIO[:100], 0)  # no whole token: there is nothing to do but wait
    rest(engine)
    before = engine.work.done
    stream.feed(AUDIO[100:], 100)
    assert engine.work.busy
    stream.flush(1)
    assert end(recorder) == Reached(1)
    rest(engine)
    assert engine.work.done > before
    stream.close()


def test_an_engine_that_hangs_is_found_told_and_replaced(folder, options, paused, caplog):
    engine = ProcessEngine.start(read_model(folder), replace(options, deadline_s=3.0))
    expected = transcribe(engine, [480], 16000)
    recorder = StreamRecorder()
    stream = engine.open(StreamOptions(), recorder.sink)
    stream.feed(AUDIO[:40000], 0)
    recorder.until(lambda message: isinstance(message, Progressed))
    process = process_of(engine)
    paused(process.pid)
    stream.feed(AUDIO[40000:], 40000)
    assert end(recorder) == Failed(
        "engine_failed",
        "the engine's process has not got on for 3 s and was ended; start again in a moment",
    )
    assert engine.in_use == 0
    stream.close()
    assert psutil.wait_procs([process], timeout=WAIT_S)[0]
    while fault := engine.check(WAIT_S):
        assert "has not got on for 3 s" in fault
        threading.Event().wait(0.05)
    assert engine.pid != process.pid
    assert transcribe(engine, [480], 16000) == expected
    assert "has not got on for 3 s and was ended; it is started again" in caplog.text
    engine.shutdown()


def test_who_comes_while_it_hangs_is_told_by_the_deadline_and_their_number_is_bounded(
    folder, options, paused
):
    engine = ProcessEngine.start(read_model(folder), replace(options, deadline_s=3.0))
    rest(engine)
    paused(engine.pid)
    recorder = StreamRecorder()
    engine.open(StreamOptions(), recorder.sink)
    for _ in range(4 * (2 + 8) + 1):
        engine.open(StreamOptions(), StreamRecorder().sink).close()
    with pytest.raises(EngineError, match="does not get on"):
        engine.open(StreamOptions(), StreamRecorder().sink)
    assert "has not got on for 3 s" in str(engine.check(WAIT_S))
    assert end(recorder).code == "engine_failed"
    engine.shutdown()


def test_what_cannot_be_loaded_is_said_as_in_place(tmp_path, folder, options):
    with pytest.raises(UnsupportedOption, match="delay must be a multiple of 80"):
        ProcessEngine.start(read_model(folder), EngineOptions(device="cpu", delay_ms=100))
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(IncompleteCheckpoint):
        ProcessEngine.start(read_model(tmp_path), options)


def test_a_process_that_dies_while_it_loads_is_not_tried_again(folder, options):
    engine = ProcessEngine(read_model(folder), options)
    process = process_of(engine)
    process.kill()
    with pytest.raises(EngineError, match="was killed by SIGKILL while it was loading the model"):
        engine.wait_until_loaded()
    engine.shutdown()
    assert not process.is_running()


@pytest.mark.parametrize("loaded", [False, True])
def test_shutdown_ends_the_process(folder, options, loaded):
    engine = ProcessEngine(read_model(folder), options)
    process = process_of(engine)
    if loaded:
        engine.wait_until_loaded()
        engine.open(StreamOptions(), StreamRecorder().sink)
    engine.shutdown()
    assert not process.is_running()
    with pytest.raises(EngineError, match="shut down"):
        engine.open(StreamOptions(), StreamRecorder().sink)
    assert engine.check(1) == "the engine was shut down"


_HOST = """
import sys, signal
from pathlib import Path
from voxlive.checkpoints.local_model import read_model
from voxlive.engines.contract import EngineOptions
from voxlive.engines.remote.host import ProcessEngine
engine = ProcessEngine(read_model(Path(sys.argv[1])), EngineOptions(max_sessions=1, device="cpu"))
if sys.argv[2] == "loaded":
    engine.wait_until_loaded()
while engine.pid is None:
    pass
print(engine.pid, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("when", [pytest.param("loading", marks=pytest.mark.endurance), "loaded"])
def test_it_is_gone_with_its_host(folder, when):
    command = [sys.executable, "-c", _HOST, str(folder), when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        process = psutil.Process(int(host.stdout.readline()))
        host.kill()
    assert psutil.wait_procs([process], timeout=WAIT_S)[0]
