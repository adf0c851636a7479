"""The keys file: a TOML table per key, under the key's name.

[kitchen]
sha256 = "…"                  # of the key, as "voxlive key" prints it; or key = "…" itself
scopes = ["live", "captions"] # all but captions:all, unless given
for = ["hall"]                # other keys, whose sessions' captions it reads too
sessions = 2                  # and the other limits
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields

from .keys import SCOPES, USUAL, BadKey, Key, checked, digest
from .limits import Limits

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
