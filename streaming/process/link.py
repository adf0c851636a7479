"""A process with an engine, its socket, and the way out to it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import IO

from ..durations import Durations
from ..process_group import kill_group
from ..supervisor import Work
from .mail import Mail, letters
from .wire import Close, Command, Pulse

_COMMAND = (sys.executable, "-P", "-m", "voxlive.streaming.process.child")
_END_S = 8.0
_LONGEST_LINE = 4096

log = logging.getLogger(__name__)


class Link:
    """Starts a process that shares nothing with this one but a socket. Raises OSError.

    Commands are counted on both sides: what has not been obeyed yet is work as well.
    """

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
        self.pulse = Pulse(0, False, 0, Durations().read())
        self._sent = 0
        self._closes: deque[int] = deque()
        self._lock = threading.Lock()
        if stderr := self._process.stderr:
            follow = threading.Thread(
                target=_follow, args=(stderr, self.pid), name="engine-stderr", daemon=True
            )
            follow.start()

    def send(self, command: Command) -> None:
        """A command to the loaded engine; never blocks."""
        with self._lock:
            self._sent += 1
            if isinstance(command, Close):
                self._closes.append(self._sent)
            self.mail.put(command)

    def hear(self, pulse: Pulse) -> None:
        """How far the engine has come."""
        with self._lock:
            self.pulse = pulse
            while self._closes and self._closes[0] <= pulse.obeyed:
                self._closes.popleft()

    @property
    def work(self) -> Work:
        """What the engine has to do, what is on its way to it included, and how far it has come."""
        with self._lock:
            busy = self.pulse.busy or self._sent > self.pulse.obeyed
            return Work(busy, self.pulse.obeyed + self.pulse.done)

    @property
    def closing(self) -> int:
        """Streams that were closed here and not there yet: until then it holds their audio."""
        with self._lock:
            return len(self._closes)

    def replies(self) -> Iterator[object]:
        """What comes from there, until the process ends or someone hangs up. Blocks."""
        for letter in letters(self._connection):
            yield from letter

    def hang_up(self) -> None:
        """Let the process go: both ends see their socket close. Any thread may."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """End the process at once. Any thread may."""
        if self._process.poll() is None:
            kill_group(self.pid)
        self.hang_up()

    def end(self) -> str:
        """Wait for the process's end, which is killed in the end; how it ended."""
        self.hang_up()
        self.mail.close()
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
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
