"""Authentication and limits of a server, the same for every protocol. No sockets.

``Access`` decides from a client's key, or the ticket that stands for one, what the client may do: a
``Grant`` with its scopes and limits, or a RequestRefused. Sessions in use and requests of each key
are counted in a ``SharedState``. Tickets are short-lived keys for clients that must not know a real
one: what each opens is in it, and signed. All of it belongs to the event loop. ``SessionDeadline``
is when the limits of a key end a session; it is pure.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import time
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import inf
from typing import Any

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
    WrongKeys,
    digest,
)
from voxlive.web.access.shared_state import LocalState, SharedState
from voxlive.web.protocols.contract import EndConnection

log = logging.getLogger(__name__)

MAX_TICKETS = 1000
"""Of one key at a time. At the bound none are issued until some have expired."""
MAX_TICKET = 10_000
"""Characters: it has to pass in a header, through a proxy too."""
ANYONE = "anyone"
"""The name of clients without a key on a server that has no keys."""

_NO_KEY = "this server needs a key: send it as Authorization: Bearer KEY"
_WRONG_KEY = "the key is wrong, or has expired"
_TICKET = "ek_"
_SIGNED = b"voxlive ticket 1\0"


class TooManyWrongKeys(RequestRefused):
    """An address has sent too many wrong keys. The answer may be delayed, to slow guessing."""

    def __init__(self, retry_after_s: float) -> None:
        message = "too many wrong keys came from this address: wait before the next"
        super().__init__("rate_limit_exceeded", message, retry_after_s=retry_after_s)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A short-lived key: good for any number of sessions until ``expires_at``.

    ``expires_at`` is in seconds since the epoch.

    ``owner`` is the name of the key that asked for it and ``mark`` its secret's, so that it ends
    with that; ``settings``, plain JSON values, are in force in its sessions.
    """

    owner: str
    scopes: frozenset[str]
    expires_at: float
    settings: Any = field(default=None, repr=False)
    mark: str = ""


class Tickets:
    """Makes and reads tickets, which are signed: every server that has ``key`` knows them.

    Without ``key`` they end with this server. At most ``MAX_TICKETS`` of one key are valid that
    were issued here. ``calendar`` gives seconds since the epoch, ``clock`` seconds that never go
    back: since a calendar may be set back, a ticket of this server expires by whichever is first.
    """

    def __init__(
        self,
        calendar: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        key: str | None = None,
    ) -> None:
        self._calendar = calendar
        self._clock = clock
        self._key = (key or secrets.token_urlsafe()).encode()
        # Those issued here, by digest: whose, and until when on either clock.
        self._issued: dict[bytes, tuple[str, float, float]] = {}

    def mark(self, of_key: bytes) -> str:
        """What tells a key's digest from that of another, to whoever signs with the same."""
        return _base64(self._sign(b"key\0" + of_key)[:9])

    def issue(
        self,
        owner: str,
        scopes: frozenset[str],
        lifetime_s: float,
        settings: Any = None,
        mark: str = "",
    ) -> tuple[str, Ticket]:
        """A new ticket and its secret. Raises RequestRefused at the bounds."""
        now, at = self._calendar(), self._clock()
        self._issued = {d: one for d, one in self._issued.items() if one[1] > now and one[2] > at}
        mine = [expires_at for whose, expires_at, _ in self._issued.values() if whose == owner]
        if len(mine) >= MAX_TICKETS:
            message = f"{MAX_TICKETS} short-lived keys are out: wait until some have expired"
            raise RequestRefused("rate_limit_exceeded", message, retry_after_s=min(mine) - now)
        ticket = Ticket(owner, scopes, now + lifetime_s, settings, mark)
        unique = secrets.token_hex(8)
        fields = [unique, owner, mark, sorted(scopes), ticket.expires_at, settings]
        packed = zlib.compress(json.dumps(fields, separators=(",", ":")).encode())
        secret = f"{_TICKET}{_base64(packed)}.{_base64(self._sign(packed))}"
        if len(secret) > MAX_TICKET:
            message = "the session of a short-lived key is too long: send the rest of it later"
            raise RequestRefused("too_big", message)
        self._issued[digest(secret)] = owner, ticket.expires_at, at + lifetime_s
        return secret, ticket

    def find(self, secret: str) -> Ticket | None:
        """The ticket with this secret, unless it has expired."""
        packed = self._signed(secret)
        if packed is None:
            return None
        _, owner, mark, scopes, expires_at, settings = json.loads(zlib.decompress(packed))
        presented = digest(secret)
        _, _, until = self._issued.get(presented, (owner, expires_at, inf))
        if expires_at <= self._calendar() or until <= self._clock():
            if presented in self._issued:
                self._issued[presented] = owner, expires_at, -inf  # and stays so
            return None
        return Ticket(owner, frozenset(scopes), expires_at, settings, mark)

    def _signed(self, secret: str) -> bytes | None:
        """What was signed; None where it was not, here or by a server with the same key."""
        body, dot, signature = secret.removeprefix(_TICKET).partition(".")
        if not (secret.startswith(_TICKET) and dot and secret.isascii()):
            return None
        try:
            packed, sent = _bytes(body), _bytes(signature)
        except ValueError:
            return None
        return packed if hmac.compare_digest(self._sign(packed), sent) else None

    def _sign(self, packed: bytes) -> bytes:
        return hmac.digest(self._key, _SIGNED + packed, "sha256")


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True, slots=True)
class _Account:
    """What one key may do; ``reads``: whose captions it reads. ``mark``: see ``Ticket``."""

    name: str
    mark: str
    scopes: frozenset[str]
    limits: Limits
    reads: frozenset[str]


@dataclass(frozen=True, slots=True)
class Grant:
    """What an authenticated client may do. ``limits``: the lower of the server's and the key's.

    ``settings`` are the ticket's. ``by_ticket``: the client has a ticket and not the key itself.
    """

    limits: Limits
    scopes: frozenset[str]
    by_ticket: bool
    settings: Any = field(repr=False)
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


class Access:
    """The keys, tickets and limits of one server. Without keys every client is admitted.

    ``errors`` counts refusals and errors by code and place; each of ``error_listeners`` is called
    with both. ``ticket_key`` is what servers sign tickets with that know each other's.
    """

    def __init__(
        self,
        keys: Iterable[Key] = (),
        limits: Limits = Limits(),  # noqa: B008, it is frozen
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
        *,
        ticket_key: str | None = None,
        state: SharedState | None = None,
    ) -> None:
        keys = tuple(keys)
        self.state = state or LocalState(clock)
        self.limits = limits
        self.errors: Counter[tuple[str, str]] = Counter()
        self.error_listeners: list[Callable[[str, str], None]] = []
        self._keyring = Keyring(keys)
        self._clock = clock
        self._tickets = Tickets(calendar, clock, ticket_key)
        self._wrong_keys = WrongKeys()
        self._accounts = {
            key.name: _Account(
                key.name,
                self._tickets.mark(key.digest),
                key.scopes,
                key.limits,
                key.reads | {key.name},
            )
            for key in keys
        }
        anyone = _Account(ANYONE, "", frozenset(SCOPES), Limits(), frozenset({ANYONE}))
        self._accounts.setdefault(ANYONE, anyone)

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
        # Another server, or this one before it was restarted, may have had other keys.
        if ticket and self.has(ticket.owner):
            account = self._accounts[ticket.owner]
            if ticket.mark == account.mark:
                return self._grant(ticket.owner, ticket.scopes & account.scopes, ticket)
        if not self.keyed:
            return self._grant(ANYONE, frozenset(SCOPES))
        key = self._keyring.find(secret) if secret else None
        return self._grant(key.name, key.scopes) if key else None

    async def admit(self, secret: str | None, scope: str | None, address: str = "") -> Grant:
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
        await self._count(grant)
        return grant

    async def admit_without_key(self) -> Grant:
        """Admit a client that was authenticated otherwise than by a key. Raises RequestRefused."""
        grant = self._grant(ANYONE, frozenset({"live"}))
        await self._count(grant)
        return grant

    async def take_session(self, grant: Grant, resources: ExitStack) -> None:
        """Occupy one of the key's sessions while ``resources`` last.

        Raises RequestRefused where all are in use, or if that cannot be known now.
        """
        limit = grant._account.limits.sessions
        if limit is None:
            return
        if not await self.state.take_session(grant.name, limit):
            message = (
                f"this key has all of its {limit} sessions in use; end one, or try again later"
            )
            raise RequestRefused("too_many_sessions", message, retry_after_s=5)
        resources.callback(self.state.give_session_back, grant.name)

    def issue(self, grant: Grant, lifetime_s: float, settings: Any = None) -> tuple[str, Ticket]:
        """A ticket with those of the key's scopes that are for live sessions and files.

        Raises RequestRefused.
        """
        if grant.by_ticket:
            message = "a short-lived key cannot make others: use the real one"
            raise RequestRefused("forbidden", message)
        scopes = grant.scopes & {"live", "files"}
        mark = grant._account.mark
        return self._tickets.issue(grant.name, scopes, lifetime_s, settings, mark)

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

    async def _count(self, grant: Grant) -> None:
        rates = {f"key {grant.name}": grant._account.limits.rate, "server": self.limits.rate}
        counted = {name: rate for name, rate in rates.items() if rate}
        if not counted:
            return
        wait_s = await self.state.take_token(counted)
        if wait_s > 0:
            message = "too many requests: slow down"
            raise RequestRefused("rate_limit_exceeded", message, retry_after_s=wait_s)


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
