"""The engine as a whole: real worker processes, killed, stopped and crowded."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import psutil
import pytest
from support.clips import clip
from support.listening import Recorder, feed, text_of

from voxlive.checkpoints.local_model import BUILT_IN
from voxlive.engines.contract import (
    Drafted,
    EngineOptions,
    Failed,
    Message,
    Progressed,
    Reached,
    StreamOptions,
)
from voxlive.engines.pocketsphinx import load
from voxlive.engines.pocketsphinx.engine import PocketSphinxEngine, default_capacity
from voxlive.engines.pocketsphinx.slot import MAX_WAITING_S
from voxlive.errors import EngineError, EngineFull, UnsupportedOption

FILE = StreamOptions(drafts=False)
DOCTOR = " the doctor will call you back tomorrow afternoon about the results"


def transcribe(engine: PocketSphinxEngine, name: str, options: StreamOptions = FILE) -> str:
    recorder = Recorder()
    stream = engine.open(options, recorder.sink)
    feed(stream, clip(name).samples)
    stream.flush(1)
    recorder.reached(1)
    stream.close()
    return text_of(recorder.words)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_says_what_it_is(engine):
    info = engine.info
    assert (info.engine, info.model, info.device) == ("pocketsphinx", "en-us", "cpu")
    assert (info.capacity, info.languages) == (2, ("en",))
    assert "voxlive serve --model voxtral" in info.note
    assert len(set(engine.pids)) == 2
    assert 2 <= default_capacity() <= 16


@pytest.mark.parametrize(
    "options",
    [StreamOptions(language="fr"), StreamOptions(language="xx"), StreamOptions(None, 80)],
)
def test_what_it_cannot_do_is_refused(engine, options):
    with pytest.raises(UnsupportedOption):
        engine.open(options, Recorder().sink)


@pytest.mark.parametrize("language", [None, "en"])
def test_english_is_not(engine, language):
    engine.open(StreamOptions(language), Recorder().sink).close()


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(device="gpu"),
        EngineOptions(delay_ms=480),
        EngineOptions(quantize=4),
        EngineOptions(max_sessions=0),
    ],
)
def test_loading_refuses_what_it_cannot_do(options):
    with pytest.raises(UnsupportedOption):
        load(BUILT_IN["pocketsphinx"], options)


def test_two_streams_at_once_hear_their_own(engine):
    recorders = Recorder(), Recorder()
    streams = [engine.open(StreamOptions(language="en"), r.sink) for r in recorders]
    clips = [clip("doctor").samples, clip("pauses").samples[:32_000]]
    for at in range(0, 80_000, 1600):
        for stream, audio in zip(streams, clips, strict=True):
            stream.feed(audio[at : at + 1600], at)
    for stream, recorder in zip(streams, recorders, strict=True):
        stream.end_utterance(3)
        recorder.reached(3)
        stream.close()
    assert text_of(recorders[0].words) == DOCTOR
    assert text_of(recorders[1].words) == " this is the first sentence"
    for recorder in recorders:
        assert recorder.drafts[-1] == ""
        assert len(recorder.drafts) > 3


def test_every_slot_taken_is_a_refusal_at_once(engine):
    recorder = Recorder()
    one = engine.open(StreamOptions(), recorder.sink)
    two = engine.open(StreamOptions(), Recorder().sink)
    feed(one, clip("doctor").samples)
    one.flush(1)
    for _ in range(50):
        with pytest.raises(EngineFull, match="all 2 sessions"):
            engine.open(StreamOptions(), Recorder().sink)
    assert engine.in_use == 2
    recorder.reached(1)
    assert text_of(recorder.words) == DOCTOR
    two.close()
    two.close()
    assert engine.in_use == 1
    engine.open(StreamOptions(), Recorder().sink).close()
    one.close()


def test_a_killed_worker_fails_its_own_stream_only(engine):
    hit, spared = Recorder(), Recorder()
    one = engine.open(FILE, hit.sink)
    two = engine.open(StreamOptions(), spared.sink)
    pid = one.pid
    assert pid != two.pid
    feed(one, clip("market").samples)
    one.flush(1)
    feed(two, clip("doctor").samples)
    os.kill(pid, signal.SIGKILL)
    two.flush(1)
    failure = hit.until(lambda m: isinstance(m, Failed))
    assert failure.code == "engine_failed"
    assert engine.in_use == 1
    feed(one, clip("market").samples)
    one.flush(2)
    one.close()
    spared.reached(1)
    assert text_of(spared.words) == DOCTOR
    two.close()
    until(lambda: len(engine.pids) == 2 and pid not in engine.pids)
    assert engine.check(60) is None
    assert transcribe(engine, "doctor") == DOCTOR
    assert hit.silent


def test_closing_in_the_second_pass_frees_the_slot_at_once(engine):
    recorders = [Recorder(), Recorder()]
    # Noise makes the second pass so slow that neither worker can be through before the end.
    speech = clip("minute").samples[: 19 * 16_000]
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    noisy = speech + 0.05 * noise
    for recorder in recorders:
        stream = engine.open(FILE, recorder.sink)
        cpu = psutil.Process(stream.pid).cpu_times
        before = cpu().user
        feed(stream, noisy)
        stream.end_utterance(1)
        # Hearing audio is next to nothing.
        until(lambda cpu=cpu, before=before: cpu().user > before + 0.2)
        stream.close()
        assert engine.in_use == 0
    # Both workers are at it still: whoever comes now gets new ones, and never a third.
    seen = set(engine.pids)
    later = [Recorder(), Recorder()]
    streams = [engine.open(FILE, recorder.sink) for recorder in later]
    with pytest.raises(EngineFull):
        engine.open(FILE, Recorder().sink)
    for stream, recorder in zip(streams, later, strict=True):
        feed(stream, clip("doctor").samples)
        stream.flush(9)
        recorder.reached(9)
        stream.close()
        assert text_of(recorder.words) == DOCTOR
    assert len(set(engine.pids) - seen) == 2
    assert all(recorder.silent for recorder in recorders)
    until(lambda: not any(psutil.pid_exists(pid) for pid in seen))


def test_nothing_of_a_stream_is_left_for_the_next_one(single):
    said: list[list[Message]] = []
    for _ in range(2):
        recorder = Recorder()
        pid = single.pids[0]
        stream = single.open(StreamOptions(), recorder.sink)
        feed(stream, clip("doctor").samples)
        stream.end_utterance(1)
        recorder.reached(1)
        said.append(list(recorder.messages))
        feed(stream, clip("noisy").samples[:30_000], at=200_000)
        recorder.until(lambda m: isinstance(m, Progressed) and m.upto > 220_000)
        assert single.check(60) is None
        stream.close()
        assert single.pids == (pid,)
    assert said[0] == said[1]
    assert recorder.drafts


def test_no_message_follows_a_close(single):
    said: list[Message] = []
    stream = single.open(StreamOptions(), said.append)
    feed(stream, clip("doctor").samples)
    until(lambda: len(said) > 3)
    stream.close()
    length = len(said)
    assert transcribe(single, "yes") == " yes"
    assert len(said) == length
    stream.feed(np.zeros(1600, np.float32), 10**6)
    stream.end_utterance(1)
    assert single.check(60) is None
    assert len(said) == length


def test_a_worker_that_falls_behind_is_an_overrun_and_is_replaced(engine, paused):
    recorder = Recorder()
    stream = engine.open(FILE, recorder.sink)
    pid = stream.pid
    paused(pid)
    silence = np.zeros(16_000, np.float32)
    for second in range(MAX_WAITING_S + 2):
        stream.feed(silence, second * 16_000)
    failure = recorder.until(lambda m: isinstance(m, Failed))
    assert failure.code == "overrun"
    assert str(MAX_WAITING_S) in failure.message
    assert engine.in_use == 0
    stream.close()
    assert transcribe(engine, "yes") == " yes"
    until(lambda: len(engine.pids) == 2 and pid not in engine.pids)


def test_the_check_decodes_in_a_free_worker(engine):
    before = sum(psutil.Process(pid).cpu_times().user for pid in engine.pids)
    for _ in range(10):
        assert engine.check(60) is None
    assert sum(psutil.Process(pid).cpu_times().user for pid in engine.pids) > before
    assert engine.in_use == 0


def test_the_check_passes_while_all_are_in_use(engine):
    recorder = Recorder()
    streams = [engine.open(StreamOptions(), recorder.sink) for _ in range(2)]
    assert engine.check(60) is None
    feed(streams[0], clip("doctor").samples)
    recorder.until(lambda m: isinstance(m, Drafted))
    assert engine.check(60) is None
    for stream in streams:
        feed(stream, clip("market").samples, at=10**6)
        stream.flush(1)
    assert engine.check(0.01) is None
    for stream in streams:
        stream.close()


def test_the_check_tells_of_a_worker_that_hangs(single, paused):
    paused(single.pids[0])
    assert "did not answer within 0.2 s" in single.check(0.2)
    os.kill(single.pids[0], signal.SIGCONT)
    assert single.check(60) is None


def test_a_worker_that_hangs_is_found_told_and_replaced_and_its_neighbour_spared(paused):
    engine = load(BUILT_IN["pocketsphinx"], EngineOptions(max_sessions=2, deadline_s=5.0))
    hit, spared = Recorder(), Recorder()
    one, two = (engine.open(StreamOptions(), recorder.sink) for recorder in (hit, spared))
    worker = psutil.Process(one.pid)
    feed(one, clip("doctor").samples[:16_000])
    hit.until(lambda m: isinstance(m, Progressed))
    paused(worker.pid)
    feed(one, clip("doctor").samples[16_000:], at=16_000)
    feed(two, clip("doctor").samples)
    failure = hit.until(lambda m: isinstance(m, Failed))
    assert failure.code == "engine_failed"
    assert "hung; it is being replaced" in failure.message
    assert engine.in_use == 1
    two.flush(1)
    spared.reached(1)
    assert text_of(spared.words) == DOCTOR
    one.close()
    two.close()
    assert not psutil.wait_procs([worker], timeout=60)[1]
    until(lambda: len(engine.pids) == 2 and worker.pid not in engine.pids)
    assert transcribe(engine, "doctor") == DOCTOR
    engine.shutdown()


def test_workers_that_rest_have_nothing_to_get_on_with(engine):
    recorder = Recorder()
    stream = engine.open(StreamOptions(), recorder.sink)
    before = engine.work.done
    feed(stream, clip("yes").samples)
    stream.flush(1)
    recorder.reached(1)
    until(lambda: not engine.work.busy)
    assert engine.work.done > before
    stream.close()


def test_workers_outlive_the_signals_of_their_group(engine):
    pids = engine.pids
    for pid in pids:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert os.getpgid(pid) != os.getpgid(0)
    assert transcribe(engine, "yes") == " yes"
    assert engine.pids == pids


def test_shutdown_ends_streams_and_leaves_no_process():
    before = set(psutil.Process().children(recursive=True))
    threads = threading.active_count()
    engine = load(BUILT_IN["pocketsphinx"], EngineOptions(max_sessions=2))
    recorder = Recorder()
    stream = engine.open(FILE, recorder.sink)
    feed(stream, clip("doctor").samples)
    stream.flush(1)
    engine.shutdown()
    assert engine.check(1) == "the engine was shut down"
    assert recorder.until(lambda m: isinstance(m, Failed)).code == "shutting_down"
    assert set(psutil.Process().children(recursive=True)) == before
    assert threading.active_count() == threads
    stream.close()
    with pytest.raises(EngineError, match="shut down"):
        engine.open(FILE, Recorder().sink)
    engine.shutdown()


ORPHANS = """
import sys, time
from voxlive.checkpoints.local_model import BUILT_IN
from voxlive.engines.contract import EngineOptions, StreamOptions
from voxlive.engines.pocketsphinx import load
import numpy as np

engine = load(BUILT_IN["pocketsphinx"], EngineOptions(max_sessions=2))
stream = engine.open(StreamOptions(), print)
stream.feed(np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32), 0)
print(*engine.pids, flush=True)
time.sleep(600)
"""


def test_no_worker_outlives_a_parent_that_is_killed():
    # Not guarded by __name__: workers must not run it again.
    command = [sys.executable, "-c", ORPHANS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        assert all(worker.is_running() for worker in workers)
        parent.kill()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def test_workers_that_cannot_load_are_told_of_and_tried_again(single, monkeypatch, tmp_path):
    (pid,) = single.pids
    with monkeypatch.context() as broken:
        broken.setenv("POCKETSPHINX_PATH", str(tmp_path))
        with pytest.raises(EngineError, match="ended with 1 while it was starting"):
            load(BUILT_IN["pocketsphinx"], EngineOptions(max_sessions=2))
        os.kill(pid, signal.SIGKILL)
        until(lambda: "while it was starting" in (single.check(5) or ""))
        with pytest.raises(EngineError, match="while it was starting"):
            single.open(FILE, Recorder().sink)
    until(lambda: single.check(5) is None)
    assert transcribe(single, "yes") == " yes"


def test_a_worker_imports_little():
    code = "import voxlive.engines.pocketsphinx.worker, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"numpy", "pocketsphinx"} <= loaded
    heavy = {"onnxruntime", "av", "soxr", "mlx", "starlette", "typer", "asyncio"}
    assert not loaded & heavy
    ours = {name for name in done.stdout.split() if name.startswith("voxlive.")}
    assert "voxlive.engines.pocketsphinx.slot" not in ours


def test_reached_answers_every_marker_in_order(engine):
    recorder = Recorder()
    stream = engine.open(FILE, recorder.sink)
    stream.end_utterance(1)
    feed(stream, clip("yes").samples)
    stream.end_utterance(2)
    stream.flush(3)
    recorder.reached(3)
    assert [m.marker for m in recorder.messages if isinstance(m, Reached)] == [1, 2, 3]
    assert text_of(recorder.words) == " yes"
    stream.close()
