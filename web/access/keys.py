"""Keys: their names, what they open, and how a secret is recognised."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from .limits import Limits

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


class BadKey(ValueError):
    """A key that cannot be in force; the message says what to do, and not the key."""


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
