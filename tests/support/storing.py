"""Sessions for tests of stores: ``spoken("s", ["one two", "three"])`` is what a session writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from voxlive.store.contract import (
    AddSession,
    AddWords,
    CloseSegment,
    Operation,
    SetState,
    StoredSegment,
    StoredSession,
    StoredWord,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def session(ident: str, owner: str = "ann", minute: int = 0, **more: object) -> StoredSession:
    at = START + timedelta(minutes=minute)
    return StoredSession(ident, owner, at, "live", "/v1/live", "whisper", **more)


def word(number: int, text: str, segment: int = 0) -> StoredWord:
    return StoredWord(number, segment, text, 1600 * number, 1600 * number + 1500, 0.9)


def spoken(
    ident: str, segments: Sequence[str], owner: str = "ann", minute: int = 0, **more: object
) -> list[Operation]:
    """A session with these segments, which has ended."""
    operations: list[Operation] = [AddSession(session(ident, owner, minute, **more))]
    number = 0
    for place, text in enumerate(segments):
        first = number
        words = []
        for piece in re.findall(r"\s*\S+", text if not place else f" {text}"):
            words.append(word(number, piece, place))
            number += 1
        closed = StoredSegment(place, 1600 * first, 1600 * number - 100, first, number)
        operations += [AddWords(ident, tuple(words)), CloseSegment(ident, closed, 1600 * number)]
    at = START + timedelta(minutes=minute + 1)
    return [*operations, SetState(ident, "ended", 1600 * number, at)]
