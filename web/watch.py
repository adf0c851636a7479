"""When a session has had all that its limits give it. Pure: times are handed in."""

from __future__ import annotations

from math import inf

from .access.limits import Limits
from .protocols.contract import End


class Watch:
    """One connection's, from its handshake on. Times are seconds on any clock."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._began = self._heard = now

    def heard(self, now: float) -> None:
        """There was audio, or some is still to be heard."""
        self._heard = now

    def next(self, now: float) -> tuple[float, End]:
        """How long the session may go on if nothing more comes, and how it then ends."""
        minutes, idle_s = self._limits.session_minutes, self._limits.idle_s
        until = self._began + (inf if minutes is None else 60 * minutes) - now
        silent = self._heard + (inf if idle_s is None else idle_s) - now
        if until <= silent:
            said = f"a session may last {minutes} min here; begin another one"
            return until, End("session_expired", said)
        return silent, End("idle", f"there was no audio for {idle_s:g} s")
