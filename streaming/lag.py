"""When a client is told how far the engine is behind: at most once a second, and if it changed."""

from __future__ import annotations

from .clock import SAMPLE_RATE
from .events import Lag

_EVERY_S = 1.0
_STEP_S = 0.1


class LagTold:
    """What was told last, and when. Pure: times are seconds on any clock."""

    def __init__(self, now: float) -> None:
        self._behind_s = 0.0
        self._at = now

    def next(self, samples: int, now: float) -> Lag | None:
        """What to tell, now that the engine has so much still before it."""
        behind_s = samples / SAMPLE_RATE
        if now - self._at < _EVERY_S or abs(behind_s - self._behind_s) < _STEP_S:
            return None
        self._behind_s, self._at = behind_s, now
        return Lag(round(behind_s, 2))
