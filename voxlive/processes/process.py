"""A child process of this program, as its parent has it and from inside, and the channel between.

The channel takes messages in batches over a socket. Batches are pickles, and whoever can write a
pickle can run code where it is read. So they are read from one end of a socket pair alone whose
other end a child of this process has, its parent, or another child of that: the same program of the
same user. What comes from a network or a file never gets here.

A child is run as a module of its own rather than through multiprocessing, which would import the
parent's main module here too. However the parent ends, the child ends: its socket closes, and on
Linux the kernel kills it even in the middle of a call that never returns to Python.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from voxlive.processes.logs import ForwardedRecord, portable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

log = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 8.0
"""How long a process may take to end after its socket was closed; then it is killed."""
_STDERR_TIMEOUT_S = 0.5
_LONGEST_READ = 4096
_LONGEST_LAST_LINE = 300
_SWITCH_INTERVAL_S = 0.0002
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""NumPy's products are small here: on several cores they wait for one another in busy loops, which
cost a live Whisper's drafts a third of their processor time. The user's own setting goes before."""

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a process to end: Ctrl+C, a service manager, the terminal that is closed."""

MAX_WAITING = 1 << 20
"""Messages that may wait for a process that reads none, above what any caller's own bound lets
wait; beyond it the connection ends, and so does what it was for."""
MAX_BATCH = 1024
"""Messages of a batch."""
MAX_BYTES = 1 << 30
"""Of a batch, above what ``MAX_BATCH`` messages amount to; a longer one is damage, and the end."""
PAUSE_S = 0.001
"""Between two batches. Each wakes a thread over there that takes the interpreter from the others,
so thousands of messages a second must not be thousands of batches."""
_LABEL = 32
"""Bytes that go with a descriptor, of which one call reads one."""
_HANDED_S = 10.0

_Message = TypeVar("_Message")
_Command = TypeVar("_Command")


class BatchedSender(Generic[_Message]):
    """Sends what any thread puts, in order; what comes together goes together.

    Nobody waits for it: how much waits is bounded by the callers, and by ``MAX_WAITING``.
    """

    def __init__(self, end: socket.socket, name: str, pause_s: float = PAUSE_S) -> None:
        self._end = end
        self._pause_s = pause_s
        self._connection = Connection(os.dup(end.fileno()), readable=False)
        self._waiting: deque[_Message] = deque()
        self._sending = threading.Lock()
        self._wakeup = threading.Semaphore(0)
        self._notified = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, message: _Message, *, soon: bool = True) -> None:
        """Take a message; never blocks. What is put when the other end is gone is lost.

        Unless ``soon`` it waits for the next one that is, or for ``notify``.
        """
        if self._closed:
            return
        self._waiting.append(message)
        if len(self._waiting) > MAX_WAITING:
            self._closed = True
            disconnect(self._end)
        if soon:
            self.notify()

    def notify(self) -> None:
        """Have sent what waits."""
        if self._waiting and not self._notified:
            self._notified = True
            self._wakeup.release()

    @property
    def waiting(self) -> int:
        """How many messages have not been sent."""
        return len(self._waiting)

    def flush(self) -> None:
        """Send what waits on the caller's thread, before the process ends. Blocks."""
        with suppress(OSError):
            self._send_waiting()

    def close(self) -> None:
        """Send nothing more; what waits is lost. Blocks while a batch is being sent."""
        self._closed = True
        self._wakeup.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            # Whoever reads here sees that the other end is gone, and does what is to be done.
            with suppress(OSError):
                while self._wakeup.acquire() and not self._closed:
                    # Before anything is taken: what is put from here on is taken, or notified of.
                    self._notified = False
                    if self._waiting:
                        self._send_waiting()
                        time.sleep(self._pause_s)
        finally:
            # Also after a message that cannot be pickled: the other end must not wait for it.
            self._closed = True
            self._waiting.clear()
            with suppress(OSError):
                self._end.shutdown(socket.SHUT_WR)
            self._connection.close()

    def _send_waiting(self) -> None:
        with self._sending:
            while count := min(len(self._waiting), MAX_BATCH):
                batch = [self._waiting.popleft() for _ in range(count)]
                self._connection.send_bytes(pickle.dumps(batch, pickle.HIGHEST_PROTOCOL))


def read_messages(end: socket.socket) -> Iterator[list[object]]:
    """The batches that the other end sends, until it is gone or someone disconnects. Blocks."""
    with Connection(os.dup(end.fileno()), writable=False) as connection:
        while True:
            try:
                data = connection.recv_bytes(MAX_BYTES)
            except (EOFError, OSError):
                return
            yield pickle.loads(data)  # noqa: S301


def disconnect(end: socket.socket) -> None:
    """Both ends see the other go. Any thread may, at any time and more than once."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


class ChildProcess(Generic[_Command]):
    """A process that runs a module of this program, in a session and a group of its own.

    It shares nothing with this one but a socket, whose end is its end (``child.run_child``). The
    thread that starts it has to live as long: on Linux the kernel kills the child with it. What the
    child logs is logged here, and what it and its own children print on stderr is a warning; where
    ``quiet``, all of it is for diagnosis, at level debug. ``takes_descriptors``: it reads
    ``handed_over``.
    """

    def __init__(
        self,
        module: str,
        name: str,
        *,
        niceness: int = 0,
        environment: Mapping[str, str] | None = None,
        quiet: bool = False,
        takes_descriptors: bool = False,
    ) -> None:
        """Start it, as ``name`` in the log. Raises OSError."""
        self._name = name
        self._quiet = quiet
        self._last_line = ""
        self._socket, theirs = socket.socketpair()
        fds = [theirs.fileno()]
        command = [sys.executable, "-P", "-m", module, str(fds[0]), str(niceness)]
        command.append(str(_level(quiet)))
        self._handing: socket.socket | None = None
        # A terminal shows how a download gets on. All else goes through the log here, which waits
        # for no reader: a process that writes to a full pipe stops.
        shown = os.isatty(2) and not quiet
        with ExitStack() as undo, theirs:
            undo.callback(self._socket.close)
            if takes_descriptors:
                self._handing, taking = socket.socketpair()
                undo.callback(self._handing.close)
                undo.enter_context(taking)
                fds.append(taking.fileno())
                command.append(str(taking.fileno()))
            self._process = subprocess.Popen(
                command,
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if quiet else None,
                stderr=None if shown else subprocess.PIPE,
                start_new_session=True,
                env={**_ONE_THREAD, **os.environ, **(environment or {})},
            )
            undo.pop_all()
            if takes_descriptors:
                taking.close()
        self.pid = self._process.pid
        self.sender: BatchedSender[_Command] = BatchedSender(self._socket, f"{name}-sender")
        self._output = threading.Thread(
            target=self._read_output, name=f"{name}-stderr", daemon=True
        )
        self._output.start()

    def messages(self) -> Iterator[object]:
        """What comes from there, until the process ends or someone disconnects. Blocks."""
        for batch in read_messages(self._socket):
            for message in batch:
                if isinstance(message, ForwardedRecord):
                    self._log(message.record)
                else:
                    yield message

    def hand_over(self, label: str, descriptor: int) -> None:
        """Give it a descriptor, which the caller may close then, with up to 32 bytes about it.

        Raises OSError where it is gone.
        """
        assert self._handing
        socket.send_fds(self._handing, [label.encode().ljust(_LABEL)], [descriptor])
        if sys.platform == "darwin":  # it loses what is closed here before it has arrived there
            self._handing.settimeout(_HANDED_S)
            self._handing.recv(1)

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

    def disconnect(self) -> None:
        """Let the process go: both ends see their socket close. Any thread may."""
        disconnect(self._socket)

    def kill(self) -> None:
        """End the process and what it started at once. Any thread may."""
        if self._process.poll() is None:
            kill_group(self.pid)
        self.disconnect()

    def end(self, timeout_s: float = EXIT_TIMEOUT_S) -> int:
        """Hang up and wait for its end, which is killed after ``timeout_s``; its exit code."""
        self.disconnect()
        self.sender.close()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        # Its own children may hold its stderr for a while longer.
        self._output.join(_STDERR_TIMEOUT_S)
        self._socket.close()
        if self._handing:
            self._handing.close()
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


def command_name() -> str:
    """What ``voxlive`` is called by where the server was started.

    ``make serve`` has it in an environment of its own, which is not on the PATH.
    """
    path = Path(sys.executable).with_name("voxlive")
    if shutil.which("voxlive") or not path.is_file() or not path.is_relative_to(Path.cwd()):
        return "voxlive"
    return str(path.relative_to(Path.cwd()))


def user_cache(name: str) -> Path:
    """The product's folder of this name among the user's caches (XDG); it need not be there."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "voxlive" / name


def tune_interpreter() -> None:
    """Short turns for threads, no walks through what is loaded. Called when a process is ready."""
    # An engine's thread needs the interpreter some twenty times in a step of 10 ms, and at Python's
    # 5 ms a turn it would wait that long each time while another thread is busy.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # What is loaded stays: walking through it takes the collector 50 to 100 ms beside a model.
    gc.collect()
    gc.freeze()


SHUTDOWN_TIMEOUT_S = 5
"""What a child may take to end once its socket is closed."""
_PR_SET_PDEATHSIG = 1
_MAX_LOGS_WAITING = 1000

Serve = Callable[[socket.socket, "BatchedSender[Any]"], "Callable[[], object] | None"]
"""Does what it reads from the socket, until that is closed; what it returns ends the work."""


def run_child(serve: Serve) -> NoReturn:
    """The main function of a child: serve its parent over the socket that its arguments name."""
    fd, niceness, level = map(int, sys.argv[1:4])
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


def handed_over() -> Iterator[tuple[str, int]]:
    """In a child: the descriptors that its parent hands over, with their labels. Blocks."""
    with socket.socket(fileno=int(sys.argv[4])) as taking:
        taking.set_inheritable(False)
        while True:
            try:
                label, fds, _, _ = socket.recv_fds(taking, _LABEL, 1)
            except OSError:
                return
            if not fds:
                return
            os.set_inheritable(fds[0], False)
            if sys.platform == "darwin":
                taking.send(b"\0")
            yield label.decode().strip(), fds[0]


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
        if self._sender.waiting >= _MAX_LOGS_WAITING:
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
