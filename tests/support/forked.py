"""Servers without a start of Python for each: forks of a process that has imported their modules.

Each is the server's own program with arguments, an environment, sockets, the test's folder and
limits of its own: importing what it is made of takes most of its time until it is ready. Tests that
are interrupted, or killed, end them. ``forking.py`` is what they are forks of.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

from support.quick_children import CLONE, starting_children_by

AVAILABLE = hasattr(os, "pidfd_open")
"""Not on macOS: there every server has a start of its own."""

_PROGRAM = str(Path(__file__).with_name("forking.py"))


class ForkedProcess:
    """What ``Popen`` is to a child, for a grandchild: as much of it as the tests use."""

    def __init__(
        self, args: Sequence[str], environment: Mapping[str, str], stderr: IO[str] | int
    ) -> None:
        """Run ``voxlive`` with these arguments; its standard output is ``stdout``."""
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        err = stderr if isinstance(stderr, int) else stderr.fileno()
        names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
        limits = {name: resource.getrlimit(getattr(resource, name)) for name in names}
        asked = list(args), dict(environment), limits, str(Path.cwd())
        request = json.dumps(asked).encode()
        socket.send_fds(_parent()[0], [request], [theirs.fileno(), write, err])
        theirs.close()
        os.close(write)
        self.stdout = os.fdopen(read)
        self.returncode: int | None = None
        self._answers = ours.makefile("rb")
        self._socket = ours
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        return self._answered(0)

    def wait(self, timeout: float | None = None) -> int:
        if self._answered(timeout) is None:
            raise subprocess.TimeoutExpired(f"server {self.pid}", timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _answered(self, timeout: float | None) -> int | None:
        """The exit code, once there is one within ``timeout`` seconds."""
        if self.returncode is None and select.select([self._socket], [], [], timeout)[0]:
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._socket.close()
        return self.returncode


def children_are_forks() -> None:
    """What this process starts itself, as a server does, is a fork of theirs from now on."""

    def ask() -> socket.socket | None:
        # The kernel ends what a thread has started when that ends: the parent is the main one's.
        main = threading.current_thread() is threading.main_thread()
        return _parent()[1] if main or _parent.cache_info().currsize else None

    if AVAILABLE and CLONE:
        starting_children_by(ask)


def start_parent() -> None:
    """Start what this process's children are forks of, where they are: it stays, for all tests."""
    if AVAILABLE and CLONE:
        _parent()


@cache
def _parent() -> tuple[socket.socket, socket.socket]:
    """Where to ask for a server, and for a process of this one's; it ends with this one."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    fds = [theirs.fileno() for _, theirs in pairs]
    room = " " * 200  # forks show command lines of their own where this one's stands
    program = [sys.executable, "-P", _PROGRAM, *map(str, fds), room]
    process = subprocess.Popen(program, pass_fds=fds, stdin=subprocess.DEVNULL)
    for _, theirs in pairs:
        theirs.close()

    def end() -> None:
        for ours, _ in pairs:
            ours.close()
        process.wait()

    atexit.register(end)
    return pairs[0][0], pairs[1][0]
