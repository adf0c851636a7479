"""Short-lived keys, for clients that must not know a real one."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .keys import digest
from .refusal import Refusal

MOST = 1000
"""Tickets of one key at a time. Beyond that no more are made until some have expired."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Good for any number of sessions until ``expires_at``, in seconds since the epoch.

    ``owner`` is the name of the key that asked for it; ``settings`` are in force in its sessions.
    """

    owner: str
    scopes: frozenset[str]
    expires_at: float
    settings: object = field(default=None, repr=False)


class Tickets:
    """All that were made and have not expired. ``calendar``: seconds since the epoch.

    A calendar may be set back, so how long a ticket lasts is measured by ``clock`` as well, which
    never goes back; what has expired by either is forgotten.
    """

    def __init__(
        self, calendar: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._calendar = calendar
        self._clock = clock
        self._tickets: dict[bytes, tuple[Ticket, float]] = {}

    def issue(
        self, owner: str, scopes: frozenset[str], lasts_s: float, settings: object = None
    ) -> tuple[str, Ticket]:
        """A new one, and the secret that stands for it. Raises Refusal at the bound."""
        now = self._calendar()
        self._tickets = {d: kept for d, kept in self._tickets.items() if self._lasts(*kept)}
        mine = [ticket.expires_at for ticket, _ in self._tickets.values() if ticket.owner == owner]
        if len(mine) >= MOST:
            message = f"{MOST} short-lived keys are out: wait until some have expired"
            raise Refusal("rate_limit_exceeded", message, min(mine) - now)
        secret = f"ek_{secrets.token_hex(16)}"
        ticket = Ticket(owner, scopes, now + lasts_s, settings)
        self._tickets[digest(secret)] = ticket, self._clock() + lasts_s
        return secret, ticket

    def find(self, secret: str) -> Ticket | None:
        """The ticket with this secret, unless it has expired."""
        presented = digest(secret)
        kept = self._tickets.get(presented)
        if kept is None:
            return None
        if self._lasts(*kept):
            return kept[0]
        del self._tickets[presented]
        return None

    def _lasts(self, ticket: Ticket, until: float) -> bool:
        return ticket.expires_at > self._calendar() and until > self._clock()
