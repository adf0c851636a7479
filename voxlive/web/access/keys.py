"""How much one client may have.

Keys: their names, what they open, and how a secret is recognised.

The keys file: a TOML table per key, under the key's name.

[kitchen]
sha256 = "…"                  # of the key, as "voxlive key" prints it; or key = "…" itself
scopes = ["live", "captions"] # all but captions:all, unless given
for = ["hall"]                # other keys, whose sessions' captions it reads too
sessions = 2                  # and the other limits

Where clients put their keys.

A token bucket: so many a minute in the long run, and as many at once after a rest.

Wrong keys: how many an address may try. Pure: times are handed in.

Keys out of what libraries log: at level debug uvicorn says whole addresses and headers.
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

_T = TypeVar("_T")


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


SCOPES = {
    "live": "live sessions, and short-lived keys for browsers",
    "files": "transcription of files",
    "captions": "reading along in sessions of this key, and of those that it is for",
    "captions:all": "reading along in everybody's sessions",
    "metrics": "the server's counters",
}
"""What a key may open. That it is known at all opens the list of models."""
EVERYBODYS = "captions:all"
USUAL = frozenset(SCOPES) - {EVERYBODYS}
"""What a key opens unless it says something else."""

# What may stand after Bearer (RFC 9110, 11.2): it needs no quoting wherever clients put it.
_SECRET = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_SHORTEST, _LONGEST = 16, 512


class BadKey(ConfigError):
    """A key that cannot be in force; the message says what to do, and not the key."""

    code = "bad_key"


@dataclass(frozen=True, slots=True)
class Key:
    """One key. Logs say its name; of the secret only a digest is kept.

    ``reads``: names of the keys whose sessions' captions it reads besides its own.
    """

    name: str
    digest: bytes = field(repr=False)
    scopes: frozenset[str] = USUAL
    limits: Limits = field(default_factory=Limits)
    reads: frozenset[str] = frozenset()


def digest(secret: str) -> bytes:
    """SHA-256. Long random secrets need no slower one."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def checked(secret: str) -> str:
    """A secret that every client can send and nobody guesses. Raises BadKey."""
    if not _SHORTEST <= len(secret) <= _LONGEST or not _SECRET.fullmatch(secret):
        raise BadKey(
            f"a key has {_SHORTEST} to {_LONGEST} letters, digits and . _ ~ + / - "
            '(make one with "voxlive key")'
        )
    return secret


def made() -> str:
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
        """The key with this secret; how long that takes says nothing about any."""
        presented = digest(secret)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, presented):
                found = key
        return found


_NAME = re.compile(r"[\w.@ -]{1,60}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_LIMITS = {
    "sessions": "sessions",
    "session-minutes": "session_minutes",
    "idle-seconds": "idle_s",
    "message-kb": "message_kb",
    "upload-mb": "upload_mb",
    "file-minutes": "file_minutes",
    "rate": "rate",
}
assert set(_LIMITS.values()) == {field.name for field in fields(Limits)}
_FIELDS = ("key", "sha256", "scopes", "for", *_LIMITS)


def read_keys(text: str) -> tuple[Key, ...]:
    """The keys of a file. Raises BadKey, which names the table and never the key."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The parser's words may quote the line, and a key with it.
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
    found = tuple(checked(line) for line in lines if line)
    if not found:
        raise BadKey("it has no key: write one on each line")
    return found


def keys_of(
    plain: Sequence[str],
    plain_file: Path | None,
    file: Path | None,
    warn: Callable[[str], object],
) -> tuple[Key, ...]:
    """All keys that a server is given in one way or the other; see ``ServeConfig``. Raises BadKey.

    ``warn`` is called for a file that others on this machine can read.
    """
    given = [checked(secret) for secret in plain]
    if plain_file:
        given += _read(plain_file, read_secrets, warn)
    named = [Key(f"key {n}", digest(secret)) for n, secret in enumerate(given, 1)]
    keys = (*named, *(_read(file, read_keys, warn) if file else ()))
    Keyring(keys)
    return keys


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
        # What stands outside of any table may be a key: it is not said.
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
        return digest(checked(secret))
    if not isinstance(hashed, str) or not _DIGEST.fullmatch(hashed):
        raise BadKey("sha256 has 64 hexadecimal digits; key is a string")
    return bytes.fromhex(hashed)


def _scopes(table: Mapping[str, object]) -> frozenset[str]:
    scopes = table.get("scopes", list(USUAL))
    if not isinstance(scopes, list) or not all(scope in SCOPES for scope in scopes):
        raise BadKey(f"scopes is a list of some of {', '.join(SCOPES)}")
    return frozenset(scopes)


def _reads(table: Mapping[str, object]) -> frozenset[str]:
    names = table.get("for", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadKey('for is a list of keys\' names, such as ["hall"]')
    return frozenset(names)


def _limits(table: Mapping[str, object]) -> Limits:
    given = {ours: table[theirs] for theirs, ours in _LIMITS.items() if theirs in table}
    for theirs, ours in _LIMITS.items():
        value = given.get(ours, 1)
        number = int if theirs == "sessions" else int | float
        if isinstance(value, bool) or not isinstance(value, number) or not 0 < value < math.inf:
            raise BadKey(f"{theirs} must be a number above 0")
    return Limits(**given)  # type: ignore[arg-type]


_SCHEMES = ("bearer", "token")
_OPENAI = "openai-insecure-api-key."


@dataclass(frozen=True, slots=True)
class Credentials:
    """``labels`` are the sub-protocols that were offered, without those that carry a key."""

    secret: str | None = field(repr=False)
    labels: tuple[str, ...] = ()


def find(
    headers: Mapping[str, str],
    offered: Sequence[str] = (),
    params: Mapping[str, str] | None = None,
    *,
    extra_headers: Sequence[str] = (),
    key_params: Sequence[str] = (),
) -> Credentials:
    """The key in a header, in the sub-protocols or, where the protocol has it so, in the query.

    Names of ``headers`` are in lower case.
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
    """``token, KEY`` and ``bearer, KEY`` as Deepgram has it, or OpenAI's prefix before the key."""
    if len(offered) > 1 and offered[0].lower() in _SCHEMES:
        return Credentials(offered[1], (offered[0], *offered[2:]))
    labels = tuple(name for name in offered if not name.startswith(_OPENAI))
    keys = [name.removeprefix(_OPENAI) for name in offered if name.startswith(_OPENAI)]
    return Credentials(keys[0] if keys else None, labels)


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

    def take(self, now: float, tokens: float = 1.0) -> None:
        """Remove a token; if there is none, the next one has to be waited for as well."""
        self._fill(now)
        self._level -= tokens

    def _fill(self, now: float) -> None:
        if self._at is not None:
            self._level = min(self._most, self._level + (now - self._at) * self._per_s)
        self._at = now


AT_ONCE, PER_MINUTE = 20, 20.0
MAX_ADDRESSES = 10_000
"""Those that were last heard of; who is forgotten begins anew."""


class WrongKeys:
    """A token bucket for each address; for IPv6 each network of 64 bits, which one client has."""

    def __init__(self, most: int = MAX_ADDRESSES) -> None:
        self._most = most
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def wait_s(self, address: str, now: float) -> float:
        """Count a wrong key: 0, or how long to wait before the next one is looked at."""
        name = _network(address)
        bucket = self._buckets.setdefault(name, TokenBucket(PER_MINUTE, AT_ONCE))
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._most:
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


_PARAMETER = re.compile(r"([?&](?:token|api_key|key)=)[^&\s\"']+")
_HEADER = re.compile(
    r"((?:authorization|x-api-key|x-echopanel-token|sec-websocket-protocol|cookie)\W+).*",
    re.IGNORECASE | re.DOTALL,
)
_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "websockets")


class Redact(logging.Filter):
    """Blanks what stands where a key may stand, in addresses and in headers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record stays, with its message made safe."""
        said = record.getMessage()
        safe = _HEADER.sub(r"\1…", _PARAMETER.sub(r"\1…", said))
        if safe != said:
            record.msg, record.args = safe, ()
        return True


def redact_logs() -> None:
    """Nothing that a server's libraries log holds a key from now on."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(Redact())
