"""Final passes beside the drafts, in real processes and held up for as long as a test wants."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Pipe
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.clips import clip
from support.listening import Recorder, feed, text_of

from voxlive.checkpoints.local_model import BUILT_IN
from voxlive.engines.contract import (
    Committed,
    Drafted,
    EngineOptions,
    Failed,
    Progressed,
    Reached,
    StreamOptions,
)
from voxlive.engines.pocketsphinx import load, slot
from voxlive.engines.pocketsphinx.engine import PocketSphinxEngine
from voxlive.engines.pocketsphinx.listener import STEP
from voxlive.engines.pocketsphinx.slot import PocketSphinxStream
from voxlive.processes.supervisor import DEADLINE_S

DOCTOR = " the doctor will call you back tomorrow afternoon about the results"

# A worker whose final passes each wait for a byte in a named pipe.
HELD = """
import os, sys
from voxlive.engines.pocketsphinx import decode, worker

class Held(decode.Recognizer):
    def words(self, pcm):
        os.read(os.open(PIPE, os.O_RDWR), 1)
        return super().words(pcm)

worker.Recognizer = Held
worker.main(int(sys.argv[1]))
"""

# A server in small that says which processes it has once a final pass is held up.
PARENT = """
import sys, time, psutil
from support.clips import clip
from support.listening import feed
from voxlive.checkpoints.local_model import BUILT_IN
from voxlive.engines.contract import EngineOptions, StreamOptions
from voxlive.engines.pocketsphinx import load, slot

slot._COMMAND = (sys.executable, "-P", "-c", sys.argv[1])
engine = load(BUILT_IN["pocketsphinx"], EngineOptions(max_sessions=1))
stream = engine.open(StreamOptions(), lambda message: None)
feed(stream, clip("yes").samples)
stream.end_utterance(1)
worker = psutil.Process(engine.pids[0])
while not worker.children():
    time.sleep(0.02)
print(worker.pid, worker.children()[0].pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.fixture
def held(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PocketSphinxEngine]:
    """One slot, every final pass of which waits for ``release``."""
    code = HELD.replace("PIPE", repr(str(pipe)))
    monkeypatch.setattr(slot, "_COMMAND", (sys.executable, "-P", "-c", code))
    engine = load(BUILT_IN["pocketsphinx"], EngineOptions(max_sessions=1))
    yield engine
    engine.shutdown()


@pytest.fixture
def release(pipe: Path) -> Iterator[Callable[[], object]]:
    """Lets the final pass that is held up, or the next one, go on."""
    # Open for both, so that a byte stays in it until it is read.
    into = os.open(pipe, os.O_RDWR)
    yield lambda: os.write(into, b".")
    os.close(into)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pass_of(engine: PocketSphinxEngine) -> psutil.Process:
    """The process of the final pass under way."""
    worker = psutil.Process(engine.pids[0])
    until(lambda: len(worker.children()) == 1)
    return worker.children()[0]


def say(engine: PocketSphinxEngine, name: str) -> tuple[PocketSphinxStream, Recorder]:
    """A stream that has heard one utterance, the final pass over which is held up."""
    recorder = Recorder()
    stream = engine.open(StreamOptions(), recorder.sink)
    feed(stream, clip(name).samples)
    stream.end_utterance(1)
    return stream, recorder


def test_the_next_draft_comes_while_a_final_pass_is_held_up(held, release):
    stream, recorder = say(held, "doctor")
    end = len(clip("doctor").samples)
    feed(stream, clip("doctor").samples, at=end)
    recorder.until(lambda m: isinstance(m, Drafted) and m.text == DOCTOR + DOCTOR)
    recorder.until(lambda m: isinstance(m, Progressed) and m.upto > 2 * end - STEP)
    assert not recorder.words
    said = len(recorder.messages)
    release()
    recorder.until(lambda m: m == Drafted(DOCTOR))
    commit, cleared, reached, draft = recorder.messages[said:]
    assert text_of(list(commit.words)) == DOCTOR
    assert [cleared, reached, draft] == [Drafted(""), Reached(1), Drafted(DOCTOR)]
    stream.end_utterance(2)
    release()
    recorder.reached(2)
    assert text_of(recorder.words) == DOCTOR + DOCTOR
    pieces = -(-end // 1600)
    assert held.steps.read().count == 2 * (pieces + 2), "audio, the utterance's end, its final pass"
    stream.close()


def test_utterances_that_end_meanwhile_are_committed_in_order(held, release):
    stream, recorder = say(held, "yes")
    at = len(clip("yes").samples)
    for marker in (2, 3):
        at = feed(stream, clip("yes").samples, at=at)
        stream.end_utterance(marker)
        stream.flush(marker + 10)
    recorder.until(lambda m: m == Drafted(" yes yes yes"))
    for _ in range(3):
        release()
    recorder.reached(13)
    ends = [m for m in recorder.messages if isinstance(m, Committed | Reached)]
    assert [type(m) for m in ends if isinstance(m, Committed)] == [Committed] * 3
    marks = [0 if isinstance(m, Committed) else m.marker for m in ends]
    assert marks == [0, 1, 0, 2, 12, 0, 3, 13]
    stream.close()


def test_no_audio_is_taken_while_too_much_waits_for_its_final_pass(held, release):
    stream, recorder = say(held, "yes")
    at = len(clip("yes").samples)
    silence = np.zeros(10 * 16_000, np.float32)
    for marker in (2, 3):
        at = feed(stream, silence, at=at)
        stream.end_utterance(marker)
    full = at
    at = feed(stream, silence, at=at)
    stream.end_utterance(4)
    recorder.until(lambda m: isinstance(m, Progressed) and m.upto > full - 3200)
    assert held.check(0.2) is None
    assert recorder.silent
    for _ in range(4):
        release()
    recorder.reached(4)
    assert max(m.upto for m in recorder.messages if isinstance(m, Progressed)) == at
    stream.close()


def test_a_final_pass_that_dies_fails_its_session_and_no_other(held, release):
    stream, recorder = say(held, "doctor")
    worker = held.pids[0]
    pass_of(held).kill()
    failure = recorder.until(lambda m: isinstance(m, Failed))
    assert failure.code == "engine_failed"
    assert not recorder.words
    assert held.in_use == 0
    stream.close()
    until(lambda: held.check(60) is None)
    assert worker not in held.pids
    stream, recorder = say(held, "yes")
    release()
    recorder.reached(1)
    assert text_of(recorder.words) == " yes"
    stream.close()


def test_a_killed_worker_takes_its_final_pass_along(held):
    stream, recorder = say(held, "yes")
    child = pass_of(held)
    os.kill(held.pids[0], signal.SIGKILL)
    assert recorder.until(lambda m: isinstance(m, Failed)).code == "engine_failed"
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    stream.close()


def test_a_stream_that_leaves_has_its_final_pass_ended_by_the_next(held, release):
    stream, recorder = say(held, "doctor")
    worker, child = held.pids[0], pass_of(held)
    # A worker left in mid-command would be replaced.
    assert held.check(60) is None
    stream.close()
    said = len(recorder.messages)
    stream, later = say(held, "yes")
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    release()
    later.reached(1)
    assert text_of(later.words) == " yes"
    assert held.pids == (worker,)
    assert len(recorder.messages) == said
    stream.close()


def test_a_final_pass_that_hangs_is_work_that_does_not_get_on(held, release):
    assert not held.work.busy
    stream, recorder = say(held, "yes")
    worker, child = psutil.Process(held.pids[0]), pass_of(held)
    assert held.check(60) is None
    [one] = held._slots
    assert one.deadline_s == 2 * DEADLINE_S, "it says nothing before its end"
    stale, work = one.work, held.work
    assert work.busy
    assert held.check(60) is None
    one.on_deadline(stale)
    assert held.pids == (worker.pid,), "it has got on meanwhile"
    one.on_deadline(one.work)
    assert "hung; it is being replaced" in recorder.until(lambda m: isinstance(m, Failed)).message
    assert held.in_use == 0
    assert not psutil.wait_procs([child, worker], timeout=60)[1]
    stream.close()
    release()
    stream, later = say(held, "yes")
    later.reached(1)
    assert text_of(later.words) == " yes"
    assert worker.pid not in held.pids
    stream.close()


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="Linux may have none")
def test_a_nice_worker_is_nice_where_sessions_of_processes_are_weighed():
    ours, theirs = Pipe()
    with theirs:
        command = [*slot._COMMAND, str(theirs.fileno())]
        nicer = ["nice", "-n", "10", *command]
        worker = subprocess.Popen(nicer, pass_fds=[theirs.fileno()], start_new_session=True)
    with worker:
        with ours:
            assert ours.recv().ready
            nice = psutil.Process(worker.pid).nice()
            said = Path(f"/proc/{worker.pid}/autogroup").read_text()
        assert worker.wait(60) == 0
    assert nice == min(os.nice(0) + 10, 19)
    assert said.split()[-1] == str(nice)


def test_shutdown_leaves_no_final_pass(held):
    _, recorder = say(held, "yes")
    processes = [psutil.Process(held.pids[0]), pass_of(held)]
    held.shutdown()
    assert recorder.until(lambda m: isinstance(m, Failed)).code == "shutting_down"
    psutil.wait_procs(processes, timeout=60)
    assert not any(process.is_running() for process in processes)


def test_no_final_pass_outlives_a_server_that_is_killed(pipe):
    code = HELD.replace("PIPE", repr(str(pipe)))
    command = [sys.executable, "-c", PARENT, code]
    tests = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        processes = [psutil.Process(pid) for pid in pids]
        assert len(processes) == 2
        parent.kill()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
