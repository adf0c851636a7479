"""A child process of this program, as its parent has it; ``child`` is its inside."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from voxlive.processes.channel import BatchedSender, hang_up, read_messages
from voxlive.processes.logs import ForwardedRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

log = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 8.0
"""How long a process may take to end after its socket was closed; then it is killed."""
_STDERR_TIMEOUT_S = 0.5
_LONGEST_READ = 4096
_LONGEST_LAST_LINE = 300

_Command = TypeVar("_Command")


class ChildProcess(Generic[_Command]):
    """A process that runs a module of this program, in a session and a group of its own.

    It shares nothing with this one but a socket, whose end is its end (``child.run_child``). The
    thread that starts it has to live as long: on Linux the kernel kills the child with it. What the
    child logs is logged here, and what it and its own children print on stderr is a warning; where
    ``quiet``, all of it is for diagnosis, at level debug.
    """

    def __init__(
        self,
        module: str,
        name: str,
        *,
        niceness: int = 0,
        environment: Mapping[str, str] | None = None,
        quiet: bool = False,
    ) -> None:
        """Start it, as ``name`` in the log. Raises OSError."""
        self._name = name
        self._quiet = quiet
        self._last_line = ""
        self._socket, theirs = socket.socketpair()
        fd = theirs.fileno()
        command = [sys.executable, "-P", "-m", module, str(fd), str(niceness), str(_level(quiet))]
        # A terminal shows how a download gets on. All else goes through the log here, which waits
        # for no reader: a process that writes to a full pipe stops.
        shown = os.isatty(2) and not quiet
        with ExitStack() as undo, theirs:
            undo.callback(self._socket.close)
            self._process = subprocess.Popen(
                command,
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if quiet else None,
                stderr=None if shown else subprocess.PIPE,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
            undo.pop_all()
        self.pid = self._process.pid
        self.sender: BatchedSender[_Command] = BatchedSender(self._socket, f"{name}-sender")
        self._output = threading.Thread(
            target=self._read_output, name=f"{name}-stderr", daemon=True
        )
        self._output.start()

    def messages(self) -> Iterator[object]:
        """What comes from there, until the process ends or someone hangs up. Blocks."""
        for batch in read_messages(self._socket):
            for message in batch:
                if isinstance(message, ForwardedRecord):
                    self._log(message.record)
                else:
                    yield message

    @property
    def last_line(self) -> str:
        """The end of what was printed on stderr last."""
        return self._last_line

    def resident_bytes(self) -> int:
        """Memory of it and all its children; 0 once it is gone. Blocks."""
        # Imported here: it takes a while, and processes that only need the rest start sooner.
        import psutil

        total = 0
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += one.memory_info().rss
        return total

    def hang_up(self) -> None:
        """Let the process go: both ends see their socket close. Any thread may."""
        hang_up(self._socket)

    def kill(self) -> None:
        """End the process and what it started at once. Any thread may."""
        if self._process.poll() is None:
            kill_group(self.pid)
        self.hang_up()

    def end(self, timeout_s: float = EXIT_TIMEOUT_S) -> int:
        """Hang up and wait for its end, which is killed after ``timeout_s``; its exit code."""
        self.hang_up()
        self.sender.close()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        # Its own children may hold its stderr for a while longer.
        self._output.join(_STDERR_TIMEOUT_S)
        self._socket.close()
        return code

    def _log(self, record: logging.LogRecord) -> None:
        if self._quiet:
            log.debug("%s %d: %s", self._name, self.pid, record.getMessage())
        else:
            logging.getLogger(record.name).handle(record)

    def _read_output(self) -> None:
        """Log what the process and its own children print, until all of them have ended."""
        stderr = self._process.stderr
        if stderr is None:
            return
        level = logging.DEBUG if self._quiet else logging.WARNING
        with stderr:
            while line := stderr.readline(_LONGEST_READ):
                if text := line.decode(errors="replace").strip():
                    self._last_line = text[-_LONGEST_LAST_LINE:]
                    log.log(level, "%s %d: %s", self._name, self.pid, text)


def exit_status(code: int) -> str:
    """How a process with this exit code ended, as the end of a sentence."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def kill_group(pid: int) -> None:
    """Kill a process that leads a group of its own, and that group; it may be gone already."""
    # On macOS a group of which nothing but a zombie is left is a PermissionError.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _level(quiet: bool) -> int:
    """From which level on a child is to send what it logs."""
    level = logging.getLogger().getEffectiveLevel()
    if not quiet:
        return level
    return logging.INFO if level <= logging.DEBUG else logging.CRITICAL


ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a process to end: Ctrl+C, a service manager, the terminal that is closed."""


@contextmanager
def handling_ending_signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Call ``handler`` at each of ``ENDING_SIGNALS``. For the main thread.

    What is ignored, as SIGHUP under nohup, stays so.
    """
    heeded = [n for n in ENDING_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_SWITCH_INTERVAL_S = 0.0002


def tune_interpreter() -> None:
    """Short turns for threads, no walks through what is loaded. Called when a process is ready."""
    # An engine's thread needs the interpreter some twenty times in a step of 10 ms, and at Python's
    # 5 ms a turn it would wait that long each time while another thread is busy.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # What is loaded stays: walking through it takes the collector 50 to 100 ms beside a model.
    gc.collect()
    gc.freeze()
