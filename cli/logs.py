"""How a line of the log is written: for people, or as a JSON object for a collector of logs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from ..streaming.about import current

FIELDS = ("session", "protocol", "request", "code")
"""What a line may say besides its message, by itself or by what it was logged in."""


class Lines(logging.Formatter):
    """One line, with the session that it is about at its end if it does not name it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, its base's name
        """The line without its traceback."""
        session = _fields(record).get("session")
        line = super().formatMessage(record)
        return line if not session or session in record.message else f"{line} [session {session}]"


class JsonLines(logging.Formatter):
    """One JSON object on one line, whatever the message holds. ``time`` is UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """The object: time, level, logger, message, ``FIELDS`` that are known, and error."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said)


def _fields(record: logging.LogRecord) -> dict[str, str]:
    about = {**current(), **{name: vars(record)[name] for name in FIELDS if name in vars(record)}}
    return {name: str(about[name]) for name in FIELDS if name in about}
