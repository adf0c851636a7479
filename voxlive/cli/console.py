"""The console of every command: its log, its messages, and how it ends at a signal.

A line of the log is text for people or a JSON object for a collector. Clients can cause as many as
they like: lines of one kind are limited, and a thread of its own writes them. Results go to stdout,
the log and one clear line per error to stderr. A command ends in order at the first signal, at once
at the second.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NoReturn

import typer

from voxlive.errors import VoxliveError
from voxlive.processes.logs import current_log_context, escaped, message_of, traceback_of
from voxlive.processes.process import handling_ending_signals
from voxlive.runners.scratch import exit_now

log = logging.getLogger(__name__)

FAILED, MISUSED = 1, 2
"""Exit codes."""

FIELDS = ("session", "protocol", "request", "code")
"""What a line may have besides its message, from its record or its context."""

BURST = 100
RATE = 10
"""Lines of one kind at once, and a second from then on; ten times as many at level debug."""

CAPACITY = 1 << 20
"""Bytes of lines that wait to be written."""

_MOST_KINDS = 1000
_REPORT_S = 1.0
_FLUSH_S = 2.0


class TextFormatter(logging.Formatter):
    """One line, with the session that it is about at its end if it does not name it.

    A traceback follows in lines of its own, which are indented: only the log's own text stands at
    the beginning of a line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = escaped(message_of(record))
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {message}"
        session = _fields(record).get("session")
        if session and session not in message:
            line += f" [session {escaped(session)}]"
        error = traceback_of(record) or ""
        return "\n    ".join((line, *map(escaped, error.split("\n")))) if error else line


class JsonFormatter(logging.Formatter):
    """One JSON object on one line, whatever the message holds. ``time`` is UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """The object: time, level, logger, message, ``FIELDS`` that are known, left_out, error."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, object] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record),
            **_fields(record),
        }
        if left_out := getattr(record, "left_out", None):
            fields["left_out"] = left_out
        if error := traceback_of(record):
            fields["error"] = error
        return json.dumps(fields)


def _fields(record: logging.LogRecord) -> dict[str, str]:
    context = {
        **current_log_context(),
        **{name: vars(record)[name] for name in FIELDS if name in vars(record)},
    }
    return {name: str(context[name]) for name in FIELDS if name in context}


class _LineKind:
    """The lines that one place in the code logs."""

    def __init__(self, now: float) -> None:
        self.allowed = float(BURST)
        self.at = now
        self.left_out = 0
        self.last: logging.LogRecord | None = None


class LineRates:
    """How many lines of each kind are written: a client may cause one as often as it likes."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, int] | None, _LineKind] = {}

    @property
    def leaving_out(self) -> bool:
        """Whether there is something to report."""
        return any(kind.left_out for kind in self._kinds.values())

    def allow(self, record: logging.LogRecord, now: float) -> bool:
        """Whether it is written; counted where it is not. ``now`` is in seconds."""
        place = record.pathname, record.lineno
        known = place in self._kinds or len(self._kinds) < _MOST_KINDS
        kind = self._kinds.setdefault(place if known else None, _LineKind(now))
        cost = 1.0 if record.levelno >= logging.INFO else 0.1
        kind.allowed = min(BURST, kind.allowed + RATE * (now - kind.at))
        kind.at = now
        if kind.allowed >= cost:
            kind.allowed -= cost
            return True
        kind.left_out += 1
        kind.last = record
        return False

    def report(self) -> list[logging.LogRecord]:
        """How many of each kind were left out since the last report, with one of them."""
        reports = []
        for kind in self._kinds.values():
            if kind.left_out and kind.last:
                message = message_of(kind.last)
                template = "%d more lines like this one were left out: %s"
                name, level = kind.last.name, kind.last.levelno
                reports.append(_note_record(name, level, template, kind.left_out, message))
                kind.left_out, kind.last = 0, None
        return reports


def _note_record(
    name: str, level: int, template: str, left_out: int, *args: object
) -> logging.LogRecord:
    record = logging.LogRecord(name, level, __file__, 0, template, (left_out, *args), None)
    record.left_out = left_out
    return record


class LogWriter(logging.Handler):
    """Writes lines to a descriptor from a thread of its own: whoever logs never waits.

    A line that finds ``capacity`` bytes waiting is dropped and counted, and so is what cannot
    be written; the count stands in the log as soon as it can. ``flush`` waits for 2 s at most, and
    so does ``close``, after which nothing is written.
    """

    def __init__(
        self, fd: int, capacity: int = CAPACITY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._fd = fd
        self._capacity = capacity
        self._clock = clock
        # Guards all that follows; reentrant, as a signal's handler may log too.
        self._changed = threading.Condition()
        self._rates = LineRates()
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._used = 0
        self._dropped = 0
        self._failing = False
        self._report_at = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line if its kind is within its rate; never waits."""
        if self._closed:
            return  # the lock may belong to a thread that the interpreter's end has stopped
        with self._changed:
            now = self._clock()
            if self._rates.allow(record, now):
                self._put(record)
            self._report(now)
            if not self._thread:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all is written, for a while: the reader may have stalled."""
        with self._changed:
            self._report()
            if self._thread:
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._used, _FLUSH_S)

    def close(self) -> None:
        """Write what waits and end the thread. ``logging`` does so at the interpreter's end."""
        self.flush()
        self._closed = True
        with self._changed:
            self._changed.notify_all()
        if self._thread:
            self._thread.join(_FLUSH_S)
        super().close()

    # Under the lock.

    def _report(self, now: float | None = None) -> None:
        """Queue a report of what was left out, at most once a second."""
        if now is None or now >= self._report_at:
            reports = self._rates.report()
            for record in reports:
                self._put(record)
            if reports and now is not None:
                self._report_at = now + _REPORT_S

    def _put(self, record: logging.LogRecord) -> None:
        line, lines = self._line(record), getattr(record, "left_out", 1)
        if self._used + len(line) > self._capacity:
            self._dropped += lines
            return
        self._put_dropped()
        self._add(line, lines)

    def _put_dropped(self) -> None:
        """Queue a note of what was dropped before this line; it may exceed the capacity."""
        if self._dropped:
            template = "%d lines of the log were dropped here: it is not read, or cannot be written"
            note = _note_record(__name__, logging.WARNING, template, self._dropped)
            self._add(self._line(note), self._dropped)
            self._dropped = 0

    def _add(self, line: bytes, lines: int) -> None:
        self._waiting.append((line, lines))
        self._used += len(line)

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    # The thread.

    def _run(self) -> None:
        while found := self._next():
            line, lines = found
            written = _write(self._fd, line)
            with self._changed:
                self._used -= len(line)
                self._failing = not written
                if not written:
                    self._dropped += lines
                self._changed.notify_all()

    def _next(self) -> tuple[bytes, int] | None:
        """The next line; None once there will be none."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                if self._dropped and not self._failing:
                    self._put_dropped()
                elif self._rates.leaving_out:
                    self._changed.wait(_REPORT_S)
                    self._report(self._clock())
                else:
                    self._changed.wait()
            return self._waiting.popleft()


def _write(fd: int, line: bytes) -> bool:
    """Whether all of it was written. Blocks, for as long as nobody reads."""
    while line:
        try:
            line = line[os.write(fd, line) :]
        except BlockingIOError:
            # Another process that has the same terminal or pipe wants it so.
            select.select([], [fd], [])
        except OSError:
            return False
    return True


_SAME = (
    *("commit", "delay_ms", "language", "max_tokens", "prompt"),
    *("quantize", "task", "temperature", "vocabulary"),
)
_OPTIONS = {name: f"--{name.replace('_', '-')}" for name in _SAME} | {
    "response_format": "--format",
    "timestamp_granularities[]": "--words",
}
"""What the command line calls the fields of a request that errors are about."""


def told(error: VoxliveError) -> str:
    """Its message, with the option that it is about if it is about one."""
    option = _OPTIONS.get(error.param or "")
    return f"{option}: {error.message}" if option else error.message


def print_error(message: str | VoxliveError) -> None:
    """One line on stderr."""
    text = message if isinstance(message, str) else told(message)
    typer.echo(f"voxlive: {text}", err=True)


def fail(message: str | VoxliveError, code: int = FAILED) -> NoReturn:
    """One line on stderr, and the exit code."""
    print_error(message)
    raise typer.Exit(code)


def start_logging(level: str, *, as_json: bool = False) -> None:
    """Log to stderr, one line per event, warnings and exceptions of threads included."""
    handler = _stderr()
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_thread_exception
    sys.unraisablehook = _log_unraisable
    # uvicorn logs every connection at info; a session's lines say what matters about it.
    logging.getLogger("uvicorn").setLevel(level.upper() if level == "debug" else "WARNING")


def _stderr() -> logging.Handler:
    try:
        return LogWriter(sys.stderr.fileno())
    except (AttributeError, OSError):  # it was closed, or is no file
        return logging.NullHandler()


def _log_thread_exception(died: threading.ExceptHookArgs) -> None:
    if died.exc_value and not isinstance(died.exc_value, SystemExit):
        name = died.thread.name if died.thread else "that is gone"
        log.error("the thread %s died", name, exc_info=died.exc_value)


def _log_unraisable(raised: sys.UnraisableHookArgs) -> None:
    log.error("%s: %r", raised.err_msg or "ignored", raised.object, exc_info=raised.exc_value)


@contextmanager
def on_first_signal(first: Callable[[int], object]) -> Iterator[None]:
    """Call ``first`` on the running loop, with the number of the first signal that arrives here."""
    loop = asyncio.get_running_loop()
    arrived = False

    def arrive(number: int, _frame: object) -> None:
        nonlocal arrived
        if arrived:
            exit_now(number)
        arrived = True
        loop.call_soon_threadsafe(first, number)

    with handling_ending_signals(arrive):
        yield
