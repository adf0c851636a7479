"""What a line of the log may hold, and what the work is about in which it is logged.

Clients cause most lines and choose parts of them: arguments, messages and tracebacks are cut, and
control characters escaped. The context of the work (``log_context``), such as a session's id, goes
with every line; a task takes along the context in which it was started.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType

MOST_ARGUMENT = 200
MOST_MESSAGE = 2000
MOST_TRACEBACK = 8000
"""Characters of one argument, of a message with its arguments, and of a traceback."""

_PLAIN = (str, int, float, bool)

# Also what separates lines for some readers, turns the direction of text, or has no UTF-8.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def cut(text: str, most: int) -> str:
    """The first ``most`` characters, and of how many where there are more."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def escaped(text: str) -> str:
    """``text`` as one line that does nothing to a terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def message_of(record: logging.LogRecord) -> str:
    """The message, with each argument and the whole of it cut."""
    message, args = str(record.msg), record.args
    if isinstance(args, Mapping):
        args = {name: _cut(value) for name, value in args.items()}
    elif args:
        args = tuple(_cut(value) for value in args)
    try:
        message = message % args if args else message
    except (TypeError, ValueError, KeyError):
        message = f"{message} (with other arguments: {args!r})"
    return cut(message, MOST_MESSAGE)


def traceback_of(record: logging.LogRecord) -> str | None:
    """The traceback, the end of it where it is long: that says what was raised."""
    text = record.exc_text
    if record.exc_info and record.exc_info[0]:
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    if text and len(text) > MOST_TRACEBACK:
        return f"({len(text)} characters) …{text[-MOST_TRACEBACK:]}"
    return text


@dataclass(frozen=True, slots=True)
class ForwardedRecord:
    """A child's message to its parent: what was logged there."""

    record: logging.LogRecord


def portable(record: logging.LogRecord) -> logging.LogRecord:
    """A copy of a bounded size that can be pickled and says the same, with the context here."""
    # Extra fields of libraries may be anything; those of this program are text.
    plain = {name: value for name, value in vars(record).items() if type(value) in _PLAIN}
    fields = {**current_log_context(), **plain}
    made = logging.makeLogRecord(fields)
    made.msg, made.args = message_of(record), None
    made.exc_text, made.exc_info = traceback_of(record), None
    return made


def _cut(value: object) -> object:
    if isinstance(value, str):
        return cut(value, MOST_ARGUMENT)
    if isinstance(value, bytes | bytearray) and len(value) > MOST_ARGUMENT:
        return bytes(value[:MOST_ARGUMENT]) + b"..."
    return value


_ABOUT: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """What is done in here, and by tasks that are started in here, is about these too."""
    before = _ABOUT.set({**_ABOUT.get(), **fields})
    try:
        yield
    finally:
        _ABOUT.reset(before)


def current_log_context() -> Mapping[str, str]:
    """What this is about."""
    return _ABOUT.get()
