"""Why someone is not let in.

Short-lived keys, for clients that must not know a real one.

The one place that decides who is let in, for every protocol alike.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from voxlive.errors import RequestRefused
from voxlive.web.access.keys import (
    EVERYBODYS,
    SCOPES,
    Key,
    Keyring,
    Limits,
    TokenBucket,
    WrongKeys,
    digest,
)


class TooManyWrongKeys(RequestRefused):
    """Its answer may be kept back for a while: whoever tries keys waits for it."""

    def __init__(self, retry_after_s: float) -> None:
        message = "too many wrong keys came from this address: wait before the next"
        super().__init__("rate_limit_exceeded", message, retry_after_s=retry_after_s)


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
        """A new one, and the secret that stands for it. Raises RequestRefused at the bound."""
        now = self._calendar()
        self._tickets = {d: kept for d, kept in self._tickets.items() if self._lasts(*kept)}
        mine = [ticket.expires_at for ticket, _ in self._tickets.values() if ticket.owner == owner]
        if len(mine) >= MOST:
            message = f"{MOST} short-lived keys are out: wait until some have expired"
            raise RequestRefused("rate_limit_exceeded", message, retry_after_s=min(mine) - now)
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


log = logging.getLogger(__name__)

ANYONE = "anyone"
"""The name of those who come without a key to a server that has none."""


class _Account:
    """What one key has in use."""

    def __init__(self, name: str, limits: Limits, reads: frozenset[str]) -> None:
        self.name = name
        self.limits = limits
        self.reads = reads
        self.sessions = 0
        self.bucket = TokenBucket(limits.rate) if limits.rate else None


@dataclass(frozen=True, slots=True)
class Grant:
    """Someone who was let in. ``limits`` are the server's and the key's, the tighter of each.

    ``settings`` came with a ticket. ``by_ticket``: the key itself is not known to this client.
    """

    limits: Limits
    scopes: frozenset[str]
    by_ticket: bool
    settings: object = field(repr=False)
    _account: _Account = field(repr=False)

    @property
    def name(self) -> str:
        """The key's, for logs."""
        return self._account.name

    def may_read(self, owner: str) -> bool:
        """Whether the captions of that key's sessions are for this client."""
        return EVERYBODYS in self.scopes or owner in self._account.reads

    @contextmanager
    def session(self) -> Iterator[None]:
        """One of the sessions that the key may have at a time. Raises RequestRefused."""
        account, most = self._account, self._account.limits.sessions
        if most is not None and account.sessions >= most:
            message = f"this key has all of its {most} sessions in use; end one, or try again later"
            raise RequestRefused("too_many_sessions", message, retry_after_s=5)
        account.sessions += 1
        try:
            yield
        finally:
            account.sessions -= 1


class Access:
    """Keys, tickets and limits of one server. Without keys everyone is let in.

    ``refusals`` counts by code and place, and each of ``watchers`` is called with both.
    """

    def __init__(
        self,
        keys: Iterable[Key] = (),
        limits: Limits = Limits(),  # noqa: B008, it is frozen
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        keys = tuple(keys)
        self.limits = limits
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.watchers: list[Callable[[str, str], None]] = []
        self._ring = Keyring(keys)
        self._clock = clock
        self._tickets = Tickets(calendar, clock)
        self._wrong = WrongKeys()
        self._all = TokenBucket(limits.rate) if limits.rate else None
        self._accounts = {
            key.name: _Account(key.name, key.limits, key.reads | {key.name}) for key in keys
        }
        self._accounts.setdefault(ANYONE, _Account(ANYONE, Limits(), frozenset({ANYONE})))

    @property
    def keyed(self) -> bool:
        """Whether a key is needed."""
        return bool(self._ring)

    def known(self, secret: str | None) -> Grant | None:
        """Whom a secret belongs to, with nothing counted; None for those who are not known."""
        ticket = self._tickets.find(secret) if secret else None
        if ticket:
            return self._grant(ticket.owner, ticket.scopes, ticket)
        if not self.keyed:
            return self._grant(ANYONE, frozenset(SCOPES))
        key = self._ring.find(secret) if secret else None
        return self._grant(key.name, key.scopes) if key else None

    def admit(self, secret: str | None, scope: str | None, address: str = "") -> Grant:
        """Let someone in, for a scope of ``keys.SCOPES`` or, with None, for any; or RequestRefused.

        ``address``: where the client is. Wrong keys of one address are answered ever more slowly;
        a right one is let in at once, since others may share the address.
        """
        grant = self.known(secret)
        if grant is None:
            if secret and (wait_s := self._wrong.wait_s(address, self._clock())) > 0:
                raise TooManyWrongKeys(wait_s)
            raise RequestRefused("invalid_api_key", _WRONG if secret else _MISSING)
        if scope == "captions" and EVERYBODYS in grant.scopes:
            scope = EVERYBODYS
        if scope is not None and scope not in grant.scopes:
            raise RequestRefused("forbidden", f'this key is not for "{scope}": {SCOPES[scope]}')
        self._count(grant)
        return grant

    def trust(self) -> Grant:
        """Let someone in who is known otherwise than by a key. Raises RequestRefused."""
        grant = self._grant(ANYONE, frozenset({"live"}))
        self._count(grant)
        return grant

    def issue(self, grant: Grant, lasts_s: float, settings: object = None) -> tuple[str, Ticket]:
        """A ticket for live sessions and files, as far as the key opens them; or RequestRefused."""
        if grant.by_ticket:
            message = "a short-lived key cannot make others: use the real one"
            raise RequestRefused("forbidden", message)
        scopes = grant.scopes & {"live", "files"}
        return self._tickets.issue(grant.name, scopes, lasts_s, settings)

    def note(self, code: str, place: str) -> None:
        """Count a refusal or an error that ended a session, and tell the watchers.

        ``place`` is a path of the HTTP API or a wire format's name: there are few of both.
        """
        self.refusals[code, place] += 1
        for watcher in self.watchers:
            watcher(code, place)

    def _grant(self, name: str, scopes: frozenset[str], ticket: Ticket | None = None) -> Grant:
        account = self._accounts[name]
        settings = ticket.settings if ticket else None
        return Grant(
            account.limits.within(self.limits), scopes, ticket is not None, settings, account
        )

    def _count(self, grant: Grant) -> None:
        now = self._clock()
        buckets = [bucket for bucket in (grant._account.bucket, self._all) if bucket]
        wait_s = max((bucket.wait_s(now) for bucket in buckets), default=0.0)
        if wait_s > 0:
            message = "too many requests: slow down"
            raise RequestRefused("rate_limit_exceeded", message, retry_after_s=wait_s)
        for bucket in buckets:
            bucket.take(now)


_MISSING = "this server needs a key: send it as Authorization: Bearer KEY"
_WRONG = "the key is wrong, or has expired"
