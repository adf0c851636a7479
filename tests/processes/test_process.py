"""A child process from its start to its end, as its parent sees it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from voxlive.processes.process import ChildProcess, exit_status

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "ABOUT": "tests"}
WAIT_S = 60


@contextmanager
def child(**options):
    """One, that is gone afterwards with all that it held here."""
    me = psutil.Process()
    descriptors, threads = me.num_fds(), threading.active_count()
    process: ChildProcess[object] = ChildProcess(
        "support.child", "child", environment=ENVIRONMENT, **options
    )
    try:
        yield process
    finally:
        process.kill()
        process.end()
    assert (me.num_fds(), threading.active_count()) == (descriptors, threads)
    assert not psutil.pid_exists(process.pid)


def test_it_answers_and_ends_when_one_hangs_up():
    with child() as process:
        replies = process.messages()
        for number in range(100):
            process.sender.put(number)
        assert [next(replies) for _ in range(100)] == list(range(100))
        assert process.resident_bytes() > 1 << 20
        process.disconnect()
        assert list(replies) == []
        assert exit_status(process.end()) == "ended with 0"
        assert process.resident_bytes() == 0
        process.kill()


@pytest.mark.parametrize("niceness", [0, 3])
def test_it_has_a_group_a_niceness_and_an_environment_of_its_own(niceness):
    with child(niceness=niceness) as process:
        process.sender.put("about")
        expected = os.nice(0) + niceness, process.pid, "tests"
        assert next(process.messages()) == expected
        assert os.getpgid(0) != process.pid


def test_no_signal_of_a_terminal_ends_it():
    with child() as process:
        replies = process.messages()
        process.sender.put("ready")
        assert next(replies) == "ready"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, number)
        process.sender.put("crash")
        assert list(replies) == ["a last message"]


def test_a_crash_ends_its_messages_after_the_last_one():
    with child() as process:
        process.sender.put("crash")
        assert list(process.messages()) == ["a last message"]
        assert exit_status(process.end()) == "ended with 3"


def test_kill_ends_its_own_children_too():
    with child() as process:
        process.sender.put("grandchild")
        replies = process.messages()
        grandchild = psutil.Process(next(replies))
        process.kill()
        assert list(replies) == []
        assert exit_status(process.end()) == "was killed by SIGKILL"
        assert psutil.wait_procs([grandchild], timeout=WAIT_S)[0]


def test_one_that_does_not_end_is_killed():
    with child() as process:
        process.sender.put("ready")
        next(process.messages())
        process.sender.put("hang")
        process.sender.flush()
        assert exit_status(process.end(0.2)) == "was killed by SIGKILL"


def test_an_end_that_hangs_is_ended_by_the_alarm():
    with child() as process:
        process.sender.put("hang")
        process.sender.flush()
        assert exit_status(process.end(WAIT_S)) == "was killed by SIGALRM"


def test_its_end_is_seen_while_it_reads_nothing():
    with child() as process:
        process.sender.put("load")
        assert next(process.messages()) == "loading"
        assert exit_status(process.end(WAIT_S)) == "ended with 0"


@pytest.mark.parametrize("quiet", [False, True])
def test_what_it_logs_and_prints_is_logged_here(caplog, quiet):
    with caplog.at_level(logging.DEBUG), child(quiet=quiet) as process:
        for command in ("log", "print", "crash"):
            process.sender.put(command)
        assert list(process.messages()) == ["a last message"]
        process.end()
        assert process.last_line == "an output"
    levels = {record.getMessage(): record.levelname for record in caplog.records}
    printed = f"child {process.pid}: an output"
    if quiet:
        logged = f"child {process.pid}: of the child's own"
        assert (levels[logged], levels[printed]) == ("DEBUG", "DEBUG")
    else:
        assert (levels["of the child's own"], levels[printed]) == ("ERROR", "WARNING")


_PARENT = """
import signal
from voxlive.processes.process import ChildProcess
child = ChildProcess("support.child", "child")
child.sender.put("load")
next(child.messages())
print(child.pid, flush=True)
signal.pause()
"""


def test_it_is_gone_with_its_parent():
    command, env = [sys.executable, "-c", _PARENT], {**os.environ, **ENVIRONMENT}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as parent:
        process = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert psutil.wait_procs([process], timeout=WAIT_S)[0]


def test_no_process_leaves_nothing(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    descriptors = psutil.Process().num_fds()
    with pytest.raises(FileNotFoundError):
        ChildProcess("support.child", "child")
    assert psutil.Process().num_fds() == descriptors
