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
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

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
        socket.send_fds(_parent(), [request], [theirs.fileno(), write, err])
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


@cache
def _parent() -> socket.socket:
    """Where to ask for a fork; the process ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        fd = theirs.fileno()
        room = " " * 200  # forks show command lines of their own where this one's stands
        process = subprocess.Popen(
            [sys.executable, "-P", _PROGRAM, str(fd), room], pass_fds=[fd], stdin=subprocess.DEVNULL
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
