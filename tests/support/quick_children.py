"""Processes that the product starts, without a start of Python for each: ``forking.py`` has them.

Importing what they are made of takes most of their start.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

from voxlive.processes import process

LARGEST = 1 << 17
"""Bytes of arguments and environment: what a socket of such packets takes by default."""
CLONE = {"x86_64": 56, "aarch64": 220}.get(os.uname().machine)
"""The number of a system call; None where children have a start of Python each."""
CHILDREN = ("voxlive.engines.remote.child", "voxlive.runners.child", "voxlive.web.workers.child")

_one_at_a_time = threading.Lock()


def starting_children_by(ask: Callable[[], socket.socket | None]) -> None:
    """What this process starts of CHILDREN is asked for there, where there is anyone to ask."""

    def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        known = command[1:3] == ["-P", "-m"] and command[3] in CHILDREN
        if not known or (requests := ask()) is None:
            return subprocess.Popen(command, **options)
        asked = ("pass_fds", "stdout", "stderr", "env")
        return start_child(requests, command, **{name: options[name] for name in asked})

    process.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": start})


def start_child(
    requests: socket.socket,
    command: list[str],
    pass_fds: Sequence[int],
    stdout: int | None,
    stderr: int | None,
    env: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """What ``Popen`` would give: the process is one that ``answer_request`` has started."""
    read, write = os.pipe()
    with Path(os.devnull).open("r+b") as null:
        out = null.fileno() if stdout == subprocess.DEVNULL else 1
        err = write if stderr == subprocess.PIPE else 2
        request = json.dumps([command, dict(env), str(Path.cwd())]).encode()
        with _one_at_a_time:
            socket.send_fds(requests, [request], [*pass_fds, null.fileno(), out, err])
            pid = int(requests.recv(64))
    os.close(write)
    started: subprocess.Popen[bytes] = subprocess.Popen.__new__(subprocess.Popen)
    started.args, started.pid, started.returncode = command, pid, None
    started.stdin = started.stdout = None
    started.stderr = os.fdopen(read, "rb")
    if stderr != subprocess.PIPE:
        started.stderr.close()
        started.stderr = None
    started._child_created, started._waitpid_lock = True, threading.Lock()
    return started
