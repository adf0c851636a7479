"""Authentication and limits of a server, the same for every protocol. No sockets.

``Access`` decides from a client's key, or the ticket that stands for one, what the client may do: a
``Grant`` with its scopes and limits, or a RequestRefused. It owns the sessions in use and the rate
limiter of each key, and the tickets, which are short-lived keys for clients that must not know a
real one. All of it belongs to the event loop. ``SessionDeadline`` is when the limits of a key end a
session; it is pure.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf

from voxlive.errors import RequestRefused
from voxlive.web.access.keys import (
    ADMIN,
    ALL_CAPTIONS,
    ALL_HISTORY,
    HISTORY,
    OPENED_BY,
    SCOPES,
    Key,
    Keyring,
    Limits,
    TokenBucket,
    WrongKeys,
    digest,
)
from voxlive.web.protocols.contract import EndConnection

log = logging.getLogger(__name__)

MAX_TICKETS = 1000
"""Of one key at a time. At the bound none are issued until some have expired."""
ANYONE = "anyone"
"""The name of clients without a key on a server that has no keys."""

_NO_KEY = "this server needs a key: send it as Authorization: Bearer KEY"
_WRONG_KEY = "the key is wrong, or has expired"


class TooManyWrongKeys(RequestRefused):
    """An address has sent too many wrong keys. The answer may be delayed, to slow guessing."""

    def __init__(self, retry_after_s: float) -> None:
        message = "too many wrong keys came from this address: wait before the next"
        super().__init__("rate_limit_exceeded", message, retry_after_s=retry_after_s)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A short-lived key: good for any number of sessions until ``expires_at``.

    ``expires_at`` is in seconds since the epoch.

    ``owner`` is the name of the key that asked for it; ``settings`` are in force in its sessions.
    """

    owner: str
    scopes: frozenset[str]
    expires_at: float
    settings: object = field(default=None, repr=False)


class Tickets:
    """The tickets of a server that have not expired: at most ``MAX_TICKETS`` of one key.

    ``calendar`` gives seconds since the epoch, ``clock`` seconds that never go back: since a
    calendar may be set back, a ticket expires by whichever of them is first.
    """

    def __init__(
        self, calendar: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._calendar = calendar
        self._clock = clock
        self._tickets: dict[bytes, tuple[Ticket, float]] = {}

    def issue(
        self, owner: str, scopes: frozenset[str], lifetime_s: float, settings: object = None
    ) -> tuple[str, Ticket]:
        """A new ticket and its secret. Raises RequestRefused at the bound."""
        now = self._calendar()
        self._tickets = {d: kept for d, kept in self._tickets.items() if self._is_valid(*kept)}
        mine = [ticket.expires_at for ticket, _ in self._tickets.values() if ticket.owner == owner]
        if len(mine) >= MAX_TICKETS:
            message = f"{MAX_TICKETS} short-lived keys are out: wait until some have expired"
            raise RequestRefused("rate_limit_exceeded", message, retry_after_s=min(mine) - now)
        secret = f"ek_{secrets.token_hex(16)}"
        ticket = Ticket(owner, scopes, now + lifetime_s, settings)
        self._tickets[digest(secret)] = ticket, self._clock() + lifetime_s
        return secret, ticket

    def find(self, secret: str) -> Ticket | None:
        """The ticket with this secret, unless it has expired."""
        presented = digest(secret)
        kept = self._tickets.get(presented)
        if kept is None:
            return None
        if self._is_valid(*kept):
            return kept[0]
        del self._tickets[presented]
        return None

    def _is_valid(self, ticket: Ticket, until: float) -> bool:
        return ticket.expires_at > self._calendar() and until > self._clock()


class _Account:
    """The sessions in use and the rate limiter of one key; ``reads``: whose captions it reads."""

    def __init__(self, name: str, limits: Limits, reads: frozenset[str]) -> None:
        self.name = name
        self.limits = limits
        self.reads = reads
        self.sessions = 0
        self.bucket = TokenBucket(limits.rate) if limits.rate else None


@dataclass(frozen=True, slots=True)
class Grant:
    """What an authenticated client may do. ``limits``: the lower of the server's and the key's.

    ``settings`` are the ticket's. ``by_ticket``: the client has a ticket and not the key itself.
    """

    limits: Limits
    scopes: frozenset[str]
    by_ticket: bool
    settings: object = field(repr=False)
    _account: _Account = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the key, for logs."""
        return self._account.name

    def may_read(self, owner: str) -> bool:
        """Whether this client may read the captions of the sessions of the key ``owner``."""
        return ALL_CAPTIONS in self.scopes or owner in self._account.reads

    @property
    def readable(self) -> frozenset[str] | None:
        """The keys whose stored sessions this client may read; None: all."""
        if self.scopes & {ALL_HISTORY, ADMIN}:
            return None
        return self._own

    @property
    def changeable(self) -> frozenset[str] | None:
        """The keys whose stored sessions this client may change and delete; None: all."""
        return None if ADMIN in self.scopes else self._own

    @property
    def _own(self) -> frozenset[str]:
        return frozenset({self.name}) if HISTORY in self.scopes else frozenset()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Occupy one of the key's sessions. Raises RequestRefused where all are in use."""
        account, limit = self._account, self._account.limits.sessions
        if limit is not None and account.sessions >= limit:
            message = (
                f"this key has all of its {limit} sessions in use; end one, or try again later"
            )
            raise RequestRefused("too_many_sessions", message, retry_after_s=5)
        account.sessions += 1
        try:
            yield
        finally:
            account.sessions -= 1


class Access:
    """The keys, tickets and limits of one server. Without keys every client is admitted.

    ``errors`` counts refusals and errors by code and place; each of ``error_listeners`` is called
    with both.
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
        self.errors: Counter[tuple[str, str]] = Counter()
        self.error_listeners: list[Callable[[str, str], None]] = []
        self._keyring = Keyring(keys)
        self._clock = clock
        self._tickets = Tickets(calendar, clock)
        self._wrong_keys = WrongKeys()
        self._bucket = TokenBucket(limits.rate) if limits.rate else None  # of all clients
        self._accounts = {
            key.name: _Account(key.name, key.limits, key.reads | {key.name}) for key in keys
        }
        self._accounts.setdefault(ANYONE, _Account(ANYONE, Limits(), frozenset({ANYONE})))

    @property
    def keyed(self) -> bool:
        """Whether a key is needed."""
        return bool(self._keyring)

    def has(self, owner: str) -> bool:
        """Whether there is a key of this name, or clients without one are let in under it."""
        return owner in self._accounts and (owner != ANYONE or not self.keyed)

    def identify(self, secret: str | None) -> Grant | None:
        """The grant of a secret, without counting a request; None for a wrong one."""
        ticket = self._tickets.find(secret) if secret else None
        if ticket:
            return self._grant(ticket.owner, ticket.scopes, ticket)
        if not self.keyed:
            return self._grant(ANYONE, frozenset(SCOPES))
        key = self._keyring.find(secret) if secret else None
        return self._grant(key.name, key.scopes) if key else None

    def admit(self, secret: str | None, scope: str | None, address: str = "") -> Grant:
        """Admit a client for a scope of ``keys.SCOPES``, None for any, and count the request.

        ``address``: the client's. Wrong keys from one address are limited; a right one is admitted
        all the same, since others may share the address. Raises RequestRefused.
        """
        grant = self.identify(secret)
        if grant is None:
            if secret and (wait_s := self._wrong_keys.wait_s(address, self._clock())) > 0:
                raise TooManyWrongKeys(wait_s)
            raise RequestRefused("invalid_api_key", _WRONG_KEY if secret else _NO_KEY)
        if scope is not None and not grant.scopes & OPENED_BY.get(scope, frozenset({scope})):
            raise RequestRefused("forbidden", f'this key is not for "{scope}": {SCOPES[scope]}')
        self._count(grant)
        return grant

    def admit_without_key(self) -> Grant:
        """Admit a client that was authenticated otherwise than by a key. Raises RequestRefused."""
        grant = self._grant(ANYONE, frozenset({"live"}))
        self._count(grant)
        return grant

    def issue(self, grant: Grant, lifetime_s: float, settings: object = None) -> tuple[str, Ticket]:
        """A ticket with those of the key's scopes that are for live sessions and files.

        Raises RequestRefused.
        """
        if grant.by_ticket:
            message = "a short-lived key cannot make others: use the real one"
            raise RequestRefused("forbidden", message)
        scopes = grant.scopes & {"live", "files"}
        return self._tickets.issue(grant.name, scopes, lifetime_s, settings)

    def count_error(self, code: str, place: str) -> None:
        """Count a refusal or an error that ended a session, and call the listeners.

        ``place`` is a path of the HTTP API or a wire format's name: there are few of both.
        """
        self.errors[code, place] += 1
        for listener in self.error_listeners:
            listener(code, place)

    def _grant(self, name: str, scopes: frozenset[str], ticket: Ticket | None = None) -> Grant:
        account = self._accounts[name]
        settings = ticket.settings if ticket else None
        return Grant(
            account.limits.within(self.limits), scopes, ticket is not None, settings, account
        )

    def _count(self, grant: Grant) -> None:
        now = self._clock()
        buckets = [bucket for bucket in (grant._account.bucket, self._bucket) if bucket]
        wait_s = max((bucket.wait_s(now) for bucket in buckets), default=0.0)
        if wait_s > 0:
            message = "too many requests: slow down"
            raise RequestRefused("rate_limit_exceeded", message, retry_after_s=wait_s)
        for bucket in buckets:
            bucket.take(now)


class SessionDeadline:
    """When the limits of a key end a connection's sessions. Times are seconds on any clock.

    ``now``: when its handshake began.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._began_at = self._audio_at = now

    @property
    def began_at(self) -> float:
        """When the session began that it is for."""
        return self._began_at

    def resume(self, began_at: float) -> None:
        """The session is one that began before this connection."""
        self._began_at = began_at

    def on_audio(self, now: float) -> None:
        """Audio was received, or some that was received is still waiting."""
        self._audio_at = now

    def remaining(self, now: float) -> tuple[float, EndConnection]:
        """Seconds that the session may go on without more audio, and how it then ends."""
        minutes, idle_s = self._limits.session_minutes, self._limits.idle_s
        expires_s = self._began_at + (inf if minutes is None else 60 * minutes) - now
        idle_left_s = self._audio_at + (inf if idle_s is None else idle_s) - now
        if expires_s <= idle_left_s:
            message = f"a session may last {minutes} min here; begin another one"
            return expires_s, EndConnection("session_expired", message)
        return idle_left_s, EndConnection("idle", f"there was no audio for {idle_s:g} s")
