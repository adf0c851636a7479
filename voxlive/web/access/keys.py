"""Keys: where a server has them from, how clients present them, and what each may use.

A ``Key`` has a name, scopes and ``Limits``; of its secret only a SHA-256 digest is kept. Keys come
from the command line, from a file with a secret on each line, or from a TOML file with a table for
each key, under the key's name:

    [kitchen]
    sha256 = "…"                  # of the key, as "voxlive key" prints it; or key = "…" itself
    scopes = ["live", "captions"] # DEFAULT_SCOPES, unless given
    for = ["hall"]                # other keys, whose sessions' captions it reads too
    sessions = 2                  # and the other limits

``find_credentials`` reads a client's key from headers, sub-protocols or the query. ``TokenBucket``
is the rate limiter, ``WrongKeys`` limits the guesses of an address. Both are pure: times are passed
in, in seconds on a clock that never goes back. ``redact_logs`` keeps keys out of what libraries
log: at level debug uvicorn logs whole addresses and headers.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import math
import re
import secrets
import stat
import tomllib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from voxlive.web.config import ConfigError

SCOPES = {
    "live": "live sessions, and short-lived keys for browsers",
    "files": "transcription of files",
    "captions": "reading along in sessions of this key, and of those that it is for",
    "captions:all": "reading along in everybody's sessions",
    "metrics": "the server's counters",
    "history": "stored sessions of this key: to read, correct and delete them",
    "history:all": "reading everybody's stored sessions",
    "admin": "everybody's stored sessions, to change and delete, and which models are loaded",
}
"""What a key may open. Any key opens the list of models."""
ALL_CAPTIONS = "captions:all"
HISTORY, ALL_HISTORY, ADMIN = "history", "history:all", "admin"
DEFAULT_SCOPES = frozenset(SCOPES) - {ALL_CAPTIONS, ALL_HISTORY, ADMIN}
"""What a key opens where its scopes are not given: nothing of other keys."""
OPENED_BY = {
    "captions": frozenset({"captions", ALL_CAPTIONS}),
    HISTORY: frozenset({HISTORY, ALL_HISTORY, ADMIN}),
}
"""The scopes each of which opens what needs this one; of any other it is that scope alone."""
WRONG_KEY_BURST, WRONG_KEYS_PER_MINUTE = 20, 20.0
MAX_ADDRESSES = 10_000
"""Addresses whose wrong keys are counted: those that sent the latest ones."""

# What may stand after Bearer (RFC 9110, 11.2): it needs no quoting wherever clients put it.
_SECRET = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_MIN_LENGTH, _MAX_LENGTH = 16, 512
_NAME = re.compile(r"[\w.@ -]{1,60}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_SCHEMES = ("bearer", "token")
_OPENAI_PREFIX = "openai-insecure-api-key."

_KEY_PARAMETER = re.compile(r"([?&](?:token|api_key|key)=)[^&\s\"']+")
_KEY_HEADER = re.compile(
    r"((?:authorization|x-api-key|x-echopanel-token|sec-websocket-protocol|cookie)\W+).*",
    re.IGNORECASE | re.DOTALL,
)
_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "websockets")

# The limits of a keys file, and the fields of ``Limits`` that they are.
_LIMITS = {
    "sessions": "sessions",
    "session-minutes": "session_minutes",
    "idle-seconds": "idle_s",
    "message-kb": "message_kb",
    "upload-mb": "upload_mb",
    "file-minutes": "file_minutes",
    "rate": "rate",
}
_FIELDS = ("key", "sha256", "scopes", "for", *_LIMITS)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may use; None: no limit but the server's own.

    ``sessions``: at a time. ``idle_s``: how long a session may last without audio. ``message_kb``:
    of one message on a WebSocket, 1 kB being 1,000 bytes. ``upload_mb``: of a request's body, 1 MB
    being 1,000,000 bytes. ``file_minutes``: of a file's audio. ``rate``: sessions and requests in a
    minute.
    """

    sessions: int | None = None
    session_minutes: float | None = None
    idle_s: float | None = None
    message_kb: float | None = None
    upload_mb: float | None = None
    file_minutes: float | None = None
    rate: float | None = None

    def within(self, other: Limits) -> Limits:
        """The lower of each limit."""
        names = _LIMITS.values()
        return Limits(**{f: _lower(getattr(self, f), getattr(other, f)) for f in names})

    @property
    def message_bytes(self) -> float:
        """The most bytes of a WebSocket message."""
        return float("inf") if self.message_kb is None else 1000 * self.message_kb

    @property
    def upload_bytes(self) -> float:
        """The most bytes of a request's body."""
        return float("inf") if self.upload_mb is None else 1_000_000 * self.upload_mb


assert set(_LIMITS.values()) == {field.name for field in fields(Limits)}


def _lower(one: Any, other: Any) -> Any:
    return min((limit for limit in (one, other) if limit is not None), default=None)


class BadKey(ConfigError):
    """A key that cannot be used. The message names what to change, and never holds the key."""

    code = "bad_key"


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its name, which logs show, and the SHA-256 digest of its secret.

    ``reads``: names of the keys whose sessions' captions it reads besides its own.
    """

    name: str
    digest: bytes = field(repr=False)
    scopes: frozenset[str] = DEFAULT_SCOPES
    limits: Limits = field(default_factory=Limits)
    reads: frozenset[str] = frozenset()


def digest(secret: str) -> bytes:
    """The SHA-256 of a secret. Long random secrets need no slower hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def validate_secret(secret: str) -> str:
    """The secret itself, if every client can send it and it is long enough. Raises BadKey."""
    if not _MIN_LENGTH <= len(secret) <= _MAX_LENGTH or not _SECRET.fullmatch(secret):
        raise BadKey(
            f"a key has {_MIN_LENGTH} to {_MAX_LENGTH} letters, digits and . _ ~ + / - "
            '(make one with "voxlive key")'
        )
    return secret


def generate_secret() -> str:
    """A new secret of 256 random bits."""
    return f"vox_{secrets.token_urlsafe(32)}"


class Keyring:
    """The keys of a server. Raises BadKey if two are the same."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)
        for values in ([key.digest for key in self._keys], [key.name for key in self._keys]):
            if len(set(values)) < len(values):
                raise BadKey("two keys are the same, or have one name")

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, secret: str) -> Key | None:
        """The key with this secret, found in constant time; None if there is none."""
        presented = digest(secret)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, presented):
                found = key
        return found


def read_keys(text: str) -> tuple[Key, ...]:
    """The keys of a file. Raises BadKey, which names the table and never the key."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The parser's message may quote the line, and a key with it.
        where = re.search(r"\(at .*\)$", str(error))
        raise BadKey(f"it is no TOML {where[0] if where else ''}".rstrip()) from None
    keys = tuple(_key(name, table) for name, table in tables.items())
    if not keys:
        raise BadKey("it has no keys: write one table for each")
    for key in keys:
        for name in sorted(key.reads - {key.name for key in keys}):
            raise BadKey(f"[{key.name}]: for names keys of this file, and {name!r} is none")
    return keys


def read_secrets(text: str) -> tuple[str, ...]:
    """The secrets of a file that has one on each line; # begins a comment. Raises BadKey."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    found = tuple(validate_secret(line) for line in lines if line)
    if not found:
        raise BadKey("it has no key: write one on each line")
    return found


def load_keys(
    plain: Sequence[str],
    plain_file: Path | None,
    file: Path | None,
    warn: Callable[[str], object],
) -> tuple[Key, ...]:
    """All keys that a ``ServeConfig`` names: secrets, a file of them, a keys file. Raises BadKey.

    ``warn`` is called for a file that others on this machine can read.
    """
    given = [validate_secret(secret) for secret in plain]
    if plain_file:
        given += _read(plain_file, read_secrets, warn)
    named = [Key(f"key {n}", digest(secret)) for n, secret in enumerate(given, 1)]
    keys = (*named, *(_read(file, read_keys, warn) if file else ()))
    Keyring(keys)
    return keys


def load_ticket_key(
    plain: str | None, file: Path | None, warn: Callable[[str], object]
) -> str | None:
    """What tickets are signed with, if it is given; ``warn`` as for keys. Raises BadKey."""
    return _read(file, read_secrets, warn)[0] if file else plain


def _read(
    file: Path, parse: Callable[[str], tuple[_T, ...]], warn: Callable[[str], object]
) -> tuple[_T, ...]:
    try:
        text = file.read_text()
        open_to_others = file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadKey(f"cannot read {file}: {reason}") from None
    if open_to_others:
        warn(f"others on this machine can read {file}: chmod 600 {file}")
    try:
        return parse(text)
    except BadKey as error:
        raise BadKey(f"{file}: {error}") from None


def _key(name: str, table: object) -> Key:
    if not isinstance(table, Mapping):
        # What stands outside of any table may be a key: it is not quoted.
        raise BadKey("every key needs a table of its own, such as [kitchen]")
    if not _NAME.fullmatch(name):
        raise BadKey("a key's name has up to 60 letters, digits, spaces and . _ @ -")
    try:
        for field in table:
            if field not in _FIELDS:
                raise BadKey(f"there is no such field; there are {', '.join(_FIELDS)}")
        return Key(name, _digest(table), _scopes(table), _limits(table), _reads(table))
    except BadKey as error:
        raise BadKey(f"[{name}]: {error}") from None


def _digest(table: Mapping[str, object]) -> bytes:
    secret, hashed = table.get("key"), table.get("sha256")
    if (secret is None) == (hashed is None):
        raise BadKey("it needs either key or sha256")
    if isinstance(secret, str):
        return digest(validate_secret(secret))
    if not isinstance(hashed, str) or not _DIGEST.fullmatch(hashed):
        raise BadKey("sha256 has 64 hexadecimal digits; key is a string")
    return bytes.fromhex(hashed)


def _scopes(table: Mapping[str, object]) -> frozenset[str]:
    scopes = table.get("scopes", list(DEFAULT_SCOPES))
    if not isinstance(scopes, list) or not all(scope in SCOPES for scope in scopes):
        raise BadKey(f"scopes is a list of some of {', '.join(SCOPES)}")
    return frozenset(scopes)


def _reads(table: Mapping[str, object]) -> frozenset[str]:
    names = table.get("for", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadKey('for is a list of keys\' names, such as ["hall"]')
    return frozenset(names)


def _limits(table: Mapping[str, object]) -> Limits:
    given = {name: table[key] for key, name in _LIMITS.items() if key in table}
    for key, name in _LIMITS.items():
        value = given.get(name, 1)
        number = int if key == "sessions" else int | float
        if isinstance(value, bool) or not isinstance(value, number) or not 0 < value < math.inf:
            raise BadKey(f"{key} must be a number above 0")
    return Limits(**given)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A client's key, if it sent one, and the sub-protocols that it offered besides.

    ``labels`` are the sub-protocols without those that carry a key.
    """

    secret: str | None = field(repr=False)
    labels: tuple[str, ...] = ()


def find_credentials(
    headers: Mapping[str, str],
    offered: Sequence[str] = (),
    params: Mapping[str, str] | None = None,
    *,
    extra_headers: Sequence[str] = (),
    key_params: Sequence[str] = (),
) -> Credentials:
    """The key in a header, in the sub-protocols ``offered`` or in the query's ``params``.

    Names of ``headers`` are in lower case. ``extra_headers`` and ``key_params`` are where else the
    wire format has its key: no parameter unless it is named.
    """
    offer = _of_subprotocols(offered)
    scheme, _, value = headers.get("authorization", "").partition(" ")
    named = value.strip() if scheme.lower() in _SCHEMES else ""
    candidates = (
        named,
        *(headers.get(name, "").strip() for name in ("x-api-key", *extra_headers)),
        offer.secret,
        *((params or {}).get(name, "") for name in key_params),
    )
    return Credentials(next(filter(None, candidates), None), offer.labels)


def _of_subprotocols(offered: Sequence[str]) -> Credentials:
    """Deepgram's ``token, KEY`` or ``bearer, KEY``, or a key behind OpenAI's prefix."""
    if len(offered) > 1 and offered[0].lower() in _SCHEMES:
        return Credentials(offered[1], (offered[0], *offered[2:]))
    labels = tuple(name for name in offered if not name.startswith(_OPENAI_PREFIX))
    keys = [
        name.removeprefix(_OPENAI_PREFIX) for name in offered if name.startswith(_OPENAI_PREFIX)
    ]
    return Credentials(keys[0] if keys else None, labels)


class TokenBucket:
    """A rate limiter: ``per_minute`` tokens in the long run, ``burst`` at once after a rest.

    It is full at first. ``burst`` is a minute's tokens unless it is given.
    """

    def __init__(self, per_minute: float, burst: float | None = None) -> None:
        self._per_s = per_minute / 60
        self._capacity = max(1.0, per_minute if burst is None else burst)
        self._tokens = self._capacity
        self._filled_at: float | None = None

    def wait_s(self, now: float) -> float:
        """How long until there is a token; 0 if there is one."""
        self._fill(now)
        return max(0.0, (1.0 - self._tokens) / self._per_s)

    def take(self, now: float, tokens: float = 1.0) -> None:
        """Remove tokens; there may be less than none, which lengthens the next wait."""
        self._fill(now)
        self._tokens -= tokens

    def _fill(self, now: float) -> None:
        if self._filled_at is not None:
            added = (now - self._filled_at) * self._per_s
            self._tokens = min(self._capacity, self._tokens + added)
        self._filled_at = now


class WrongKeys:
    """A token bucket for the wrong keys of each address, of the latest ``max_addresses``.

    IPv6 addresses share one in each /64 network, which is what one client has.
    """

    def __init__(self, max_addresses: int = MAX_ADDRESSES) -> None:
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def wait_s(self, address: str, now: float) -> float:
        """Count a wrong key. Seconds to wait; 0 if this one is within the limit."""
        network = _network(address)
        bucket = self._buckets.get(network)
        if bucket is None:
            bucket = TokenBucket(WRONG_KEYS_PER_MINUTE, WRONG_KEY_BURST)
            self._buckets[network] = bucket
        self._buckets.move_to_end(network)
        if len(self._buckets) > self._max_addresses:
            self._buckets.popitem(last=False)
        wait_s = bucket.wait_s(now)
        if wait_s <= 0:
            bucket.take(now)
        return wait_s


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if parsed.version == 6 and not parsed.ipv4_mapped:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


class RedactingFilter(logging.Filter):
    """Replaces what stands where a key may stand, in addresses and in headers, with an ellipsis."""

    def filter(self, record: logging.LogRecord) -> bool:
        """True: every record is kept, with its message redacted."""
        message = record.getMessage()
        redacted = _KEY_HEADER.sub(r"\1…", _KEY_PARAMETER.sub(r"\1…", message))
        if redacted != message:
            record.msg, record.args = redacted, ()
        return True


def redact_logs() -> None:
    """Redact keys in everything that the server's libraries log from now on."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(RedactingFilter())
