"""A process with an engine, its socket, and the way out to it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import IO

from ..process_group import kill_group
from .mail import Mail, letters
from .wire import Command

_COMMAND = (sys.executable, "-P", "-m", "voxlive.streaming.process.child")
_END_S = 8.0
_LONGEST_LINE = 4096

log = logging.getLogger(__name__)


class Link:
    """Starts a process that shares nothing with this one but a socket. Raises OSError."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    (*_COMMAND, str(theirs.fileno())),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    # A terminal shows how a download gets on. All else goes through the log here,
                    # which waits for no reader: a process that writes to a full pipe stops.
                    stderr=None if os.isatty(2) else subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError:
                self._socket.close()
                raise
        self._connection = Connection(os.dup(self._socket.fileno()))
        self.mail: Mail[Command] = Mail(self._connection, "engine-mail")
        self.pid = self._process.pid
        if stderr := self._process.stderr:
            follow = threading.Thread(
                target=_follow, args=(stderr, self.pid), name="engine-stderr", daemon=True
            )
            follow.start()

    def replies(self) -> Iterator[object]:
        """What comes from there, until the process ends or someone hangs up. Blocks."""
        for letter in letters(self._connection):
            yield from letter

    def hang_up(self) -> None:
        """Let the process go: both ends see their socket close. Any thread may."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> str:
        """Wait for the process's end, which is killed in the end; how it ended."""
        self.hang_up()
        self.mail.close()
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            kill_group(self.pid)
            code = self._process.wait()
        self._connection.close()
        self._socket.close()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _follow(stderr: IO[bytes], pid: int) -> None:
    """Log what the process and its own children write, until all of them have ended."""
    with stderr:
        while line := stderr.readline(_LONGEST_LINE):
            if said := line.decode(errors="replace").strip():
                log.warning("engine %d: %s", pid, said)
