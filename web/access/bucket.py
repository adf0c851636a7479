"""A token bucket: so many a minute in the long run, and as many at once after a rest."""

from __future__ import annotations


class TokenBucket:
    """Full at first, with ``at_once`` tokens: a minute's worth unless that is given.

    Times are seconds on any clock that never goes back.
    """

    def __init__(self, per_minute: float, at_once: float | None = None) -> None:
        self._per_s = per_minute / 60
        self._most = max(1.0, per_minute if at_once is None else at_once)
        self._level = self._most
        self._at: float | None = None

    def wait_s(self, now: float) -> float:
        """How long until there is a token; 0 if there is one."""
        self._fill(now)
        return max(0.0, (1.0 - self._level) / self._per_s)

    def take(self, now: float) -> None:
        """Remove a token; if there is none, the next one has to be waited for as well."""
        self._fill(now)
        self._level -= 1.0

    def _fill(self, now: float) -> None:
        if self._at is not None:
            self._level = min(self._most, self._level + (now - self._at) * self._per_s)
        self._at = now
