"""Captions for a terminal: what an event makes of the screen. Pure."""

from __future__ import annotations

from ..streaming.clock import SAMPLE_RATE
from ..streaming.events import (
    Draft,
    Event,
    Lag,
    SegmentClosed,
    SessionError,
    SessionWarning,
    Words,
)

_WORTH_SAYING_S = 1.0


class Captions:
    """Finished lines to print for good, and the line that is still being spoken."""

    def __init__(self) -> None:
        self.committed = ""
        self.draft = ""
        self.behind_s = 0.0

    def take(self, event: Event) -> list[str]:
        """The lines that an event finishes."""
        match event:
            case Words():
                self.committed += event.text
            case Draft(_, text):
                self.draft = text
            case Lag(behind_s):
                self.behind_s = behind_s
            case SegmentClosed(_, start, _, text):
                self.committed = ""
                return [f"{_clock(start)}  {text.strip()}"]
            case SessionError(_, message):
                return [f"voxlive: {message}"]
            case SessionWarning(_, message):
                return [f"voxlive: warning: {message}"]
        return []

    @property
    def note(self) -> str:
        """How far recognition is behind, when that is worth a word."""
        return f"({self.behind_s:.0f} s behind)" if self.behind_s >= _WORTH_SAYING_S else ""


def _clock(samples: int) -> str:
    minutes, seconds = divmod(samples // SAMPLE_RATE, 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
