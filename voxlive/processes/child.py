"""Inside a child process (``ChildProcess`` starts it): what each does beside its own work.

A child is run as a module of its own rather than through multiprocessing, which would import the
parent's main module here too. However the parent ends, the child ends: its socket closes, and on
Linux the kernel kills it even in the middle of a call that never returns to Python.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

from voxlive.processes.logs import ForwardedRecord, portable
from voxlive.processes.process import ENDING_SIGNALS, BatchedSender

SHUTDOWN_TIMEOUT_S = 5
"""What a child may take to end once its socket is closed."""
_PR_SET_PDEATHSIG = 1
_MAX_WAITING = 1000

Serve = Callable[[socket.socket, "BatchedSender[Any]"], "Callable[[], object] | None"]
"""Does what it reads from the socket, until that is closed; what it returns ends the work."""


def run_child(serve: Serve) -> NoReturn:
    """The main function of a child: serve its parent over the socket that its arguments name."""
    fd, niceness, level = map(int, sys.argv[1:])
    # The parent ends its children itself, after it has answered for them.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    _die_with_parent()
    if niceness:
        _lower_priority(niceness)
    os.set_inheritable(fd, False)
    end = socket.socket(fileno=fd)
    sender: BatchedSender[Any] = BatchedSender(end, "sender")
    logging.basicConfig(level=level, handlers=[ForwardLogs(sender)])
    logging.captureWarnings(capture=True)
    shutdown = serve(end, sender)
    # An end that hangs must not outlive the parent: the alarm's default ends the process.
    signal.alarm(SHUTDOWN_TIMEOUT_S)
    if shutdown:
        shutdown()
    os._exit(0)


@contextmanager
def exiting_with_parent(end: socket.socket) -> Iterator[None]:
    """While nobody reads here, and the parent sends nothing: end the process when that goes."""
    over = threading.Event()

    def watch() -> None:
        wait([end])
        if not over.is_set():
            os._exit(0)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


class ForwardLogs(logging.Handler):
    """Hands what is logged here to the parent, which knows how the user wants it.

    Where much waits to be sent already, records are dropped; the next one that is sent says so.
    """

    def __init__(self, sender: BatchedSender[Any]) -> None:
        super().__init__()
        self._sender = sender
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send a copy of the record, or count it as dropped."""
        if self._sender.waiting >= _MAX_WAITING:
            self._dropped += 1
            return
        sent = portable(record)
        if self._dropped:
            sent.msg = f"{sent.msg} ({self._dropped} lines of this process were dropped before)"
            self._dropped = 0
        self._sender.put(ForwardedRecord(sent))


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _lower_priority(niceness: int) -> None:
    """Behind the live sessions in the queue for cores, before them when memory has run out."""
    with suppress(OSError):
        niceness = os.nice(niceness)
    # Where Linux weighs sessions of processes, niceness is between those of one session only.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
