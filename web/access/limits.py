"""How much one client may have."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit but the server's own. ``rate`` counts sessions and requests in a minute.

    ``idle_s``: how long a session may last without audio. ``message_kb`` is of one message on a
    WebSocket, ``upload_mb`` of a request's body; 1 MB is 1,000,000 bytes. ``file_minutes``: how
    long a file's audio may be.
    """

    sessions: int | None = None
    session_minutes: float | None = None
    idle_s: float | None = None
    message_kb: float | None = None
    upload_mb: float | None = None
    file_minutes: float | None = None
    rate: float | None = None

    def within(self, other: Limits) -> Limits:
        """The tighter of each."""
        return Limits(**{f: _tighter(getattr(self, f), getattr(other, f)) for f in _NAMES})

    @property
    def message_bytes(self) -> float:
        """The longest message."""
        return float("inf") if self.message_kb is None else 1000 * self.message_kb

    @property
    def upload_bytes(self) -> float:
        """The longest body."""
        return float("inf") if self.upload_mb is None else 1_000_000 * self.upload_mb


_NAMES = tuple(field.name for field in fields(Limits))


def _tighter(one: Any, other: Any) -> Any:
    return min((limit for limit in (one, other) if limit is not None), default=None)
