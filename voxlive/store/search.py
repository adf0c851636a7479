"""Searching a store: what of a text is searched, what is looked for, and the pages of results.

``indexed`` cuts text into tokens and ``SearchQuery`` is what is looked for; both are pure, and the
same for every database. ``scan`` goes through the texts that match, the newest first, and
``make_snippets`` shows them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby, islice
from typing import Any

import sqlalchemy as sa

from voxlive.errors import RequestRefused
from voxlive.store import schema
from voxlive.store.contract import (
    MAX_SNIPPET,
    SessionFilter,
    Snippet,
    StoredTranscript,
)
from voxlive.store.schema import sessions
from voxlive.values import SPACELESS

SCAN = 400
"""How many texts a search looks at in one go."""
ONE_SEGMENT = 1 << schema.SEGMENT_BITS
"""The numbers of a session's texts begin at its key times this."""
_MAX_SCANS = 50
_MAX_TOKENS = 50_000  # of one text: what follows is not found
_MAX_TOKEN = 64
_MAX_QUERY = 200
_PARTLY = rf"{SPACELESS}\uac00-\ud7a3\U00020000-\U0003ffff"
"""Scripts of which a part of a run is found: those without spaces, and Hangul with its endings."""
_RUN = re.compile(rf"[{_PARTLY}]+|[^\W{_PARTLY}]+(?:['\u2019][^\W{_PARTLY}]+)*")
_PART = re.compile(f"[{_PARTLY}]")
_FOLDED = re.compile("[\u0300-\u036f]")


@dataclass(frozen=True, slots=True)
class TextToken:
    """A piece of a text that is searched, and where it is: characters [start, end)."""

    text: str
    start: int
    end: int


def _fold(text: str) -> str:
    """Without case and width, and without accents that are characters of their own."""
    if text.isascii():
        return text.lower()[:_MAX_TOKEN]
    parts = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", _FOLDED.sub("", parts))[:_MAX_TOKEN]


def _is_partly_found(run: str) -> bool:
    return not run.isascii() and bool(_PART.match(run))


def text_tokens(text: str) -> Iterator[TextToken]:
    """A text as it is searched: words, and pairs of characters where any part is found.

    The last character of a run of pairs comes alone too, so that each begins a token.
    """
    for match in _RUN.finditer(text):
        run, at = match[0], match.start()
        if not _is_partly_found(run):
            yield TextToken(_fold(run), at, match.end())
        else:
            for place in range(len(run)):
                pair = run[place : place + 2]
                yield TextToken(_fold(pair), at + place, at + place + len(pair))


def indexed(text: str) -> list[str]:
    """The tokens of a text, in order."""
    return [token.text for token in islice(text_tokens(text), _MAX_TOKENS) if token.text]


def owner_token(owner: str) -> str:
    """A word that stands for an owner in what is searched; no text has it by itself."""
    return f"owner{sha256(owner.encode()).hexdigest()[:24]}"


@dataclass(frozen=True, slots=True)
class Phrase:
    """Tokens that follow each other; ``prefix``: a single one, with which a token begins."""

    tokens: tuple[str, ...]
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What is looked for: all of these phrases."""

    phrases: tuple[Phrase, ...]

    @classmethod
    def parse(cls, text: str) -> SearchQuery:
        """Words, and phrases in quotes. Raises RequestRefused for a text without a word."""
        phrases: list[Phrase] = []
        for place, part in enumerate(text[:_MAX_QUERY].split('"')):
            quoted = place % 2 == 1
            for piece in [part] if quoted else part.split():
                phrases += _phrases(piece)
        if not phrases:
            message = "nothing to look for: give a word, or several"
            raise RequestRefused("bad_parameter", message, "q")
        return cls(tuple(dict.fromkeys(phrases)))

    def found(self, text: str) -> list[tuple[int, int]]:
        """Where in a text any of the phrases is: ranges of characters, in order, joined."""
        tokens = [token for token in text_tokens(text) if token.text]
        ranges: list[tuple[int, int]] = []
        for at in range(len(tokens)):
            for phrase in self.phrases:
                window = tokens[at : at + len(phrase.tokens)]
                if phrase.prefix:
                    if window[0].text.startswith(phrase.tokens):
                        ranges.append((window[0].start, window[0].start + 1))
                elif tuple(token.text for token in window) == phrase.tokens:
                    ranges.append((window[0].start, window[-1].end))
        joined: list[tuple[int, int]] = []
        for start, end in sorted(ranges):
            if joined and start <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(end, joined[-1][1])
            else:
                joined.append((start, end))
        return joined

    def cut(self, text: str) -> tuple[str, tuple[tuple[int, int], ...]]:
        """A text of at most ``MAX_SNIPPET`` characters around the first find, and all finds."""
        found = self.found(text)
        first = found[0][0] if found else 0
        begin = max(0, min(first - MAX_SNIPPET // 3, len(text) - MAX_SNIPPET))
        if begin and (space := text.find(" ", begin, first)) >= 0:
            begin = space
        piece = text[begin : begin + MAX_SNIPPET]
        begin += len(piece) - len(piece.lstrip())
        piece = piece.strip()
        inside = ((start - begin, end - begin) for start, end in found)
        return piece, tuple(one for one in inside if one[0] >= 0 and one[1] <= len(piece))


def _phrases(piece: str) -> Iterator[Phrase]:
    """The phrases of a piece of a query; a lone character of a run has to begin a token."""
    tokens: list[str] = []
    for match in _RUN.finditer(piece):
        run = match[0]
        if not _is_partly_found(run):
            tokens += filter(None, [_fold(run)])
        elif len(run) == 1:
            if tokens:
                yield Phrase(tuple(tokens))
                tokens = []
            yield Phrase((_fold(run),), prefix=True)
        else:
            tokens += [_fold(run[at : at + 2]) for at in range(len(run) - 1)]
            # A longer run goes on here: what follows does not follow the pair.
            yield Phrase(tuple(tokens))
            tokens = []
    if tokens:
        yield Phrase(tuple(tokens))


@dataclass(slots=True)
class FoundTexts:
    """The sessions of a page by their keys, with the segments that match; ``more``: its cursor."""

    rows: dict[int, sa.Row[Any]] = field(default_factory=dict)
    places: dict[int, list[int]] = field(default_factory=dict)
    more: str | None = None


def scan(
    connection: sa.Connection,
    matching: Callable[[int], list[int]],
    chosen: SessionFilter,
    limit: int,
    below: int,
) -> FoundTexts:
    """Go through the texts that match, from the number ``below`` downwards, for a page.

    ``matching`` gives the numbers below one, the highest first, ``SCAN`` at most.
    """
    found = FoundTexts()
    places = found.places
    for _ in range(_MAX_SCANS):
        numbers = matching(below)
        listed = groupby(numbers, lambda number: number // ONE_SEGMENT)
        by_session = {key: [number % ONE_SEGMENT for number in some] for key, some in listed}
        keys = list(by_session)
        for at in range(0, len(keys), limit + 1):
            some = keys[at : at + limit + 1]
            fitting = sa.select(sessions).where(
                sessions.c.key.in_(some), *schema.conditions(chosen)
            )
            found.rows |= {row.key: row for row in connection.execute(fitting)}
            for key in some:
                if key in found.rows and (key in places or len(places) <= limit):
                    places.setdefault(key, []).extend(by_session[key])
            if len(places) > limit:
                del places[min(places)]
                found.more = str(min(places))
                return found
        if len(numbers) < SCAN:
            return found
        # Of a session that fills a scan, enough was seen.
        below = numbers[-1] if len(keys) > 1 else keys[0] * ONE_SEGMENT
    found.more = str(below // ONE_SEGMENT)
    return found


def make_snippets(
    connection: sa.Connection,
    query: SearchQuery,
    rows: Mapping[int, sa.Row[Any]],
    places: Mapping[int, list[int]],
) -> dict[int, list[Snippet]]:
    """Snippets of the segments in ``places`` of the sessions ``rows``, by the sessions' keys."""
    pairs = [(key, one) for key, listed in places.items() for one in listed]
    spoken = schema.segment_words(connection, pairs)
    changed = schema.corrections_of(connection, list(places))
    refinements = schema.refinements_of(connection, list(places))
    again = schema.refined_words(
        connection,
        [key for key, one in refinements.items() if one.layer],
        schema.refined.c.segment.in_({segment for _, segment in pairs}),
    )
    made: dict[int, list[Snippet]] = defaultdict(list)
    for key, segment in pairs:
        if segment == schema.TITLE:
            made[key].append(Snippet(None, 0, 0, *query.cut(rows[key].title or "")))
        elif heard := spoken[key, segment]:
            shown = said = "".join(word.text for word in heard)
            refined = tuple(word for word in again[key] if word.segment == segment)
            if changed[key] or key in refinements:
                best = StoredTranscript(
                    schema.session_of(rows[key]),
                    (),
                    tuple(map(schema.word_of, heard)),
                    tuple(changed[key]),
                    refined=refined,
                    refinement=refinements.get(key),
                ).shown()
                shown = "".join(word.text for word in best)
            text, found = query.cut(shown)
            for other in (said, "".join(word.text for word in refined)):
                if not found and shown != other:
                    text, found = query.cut(other)
            made[key].append(Snippet(segment, heard[0].start, heard[-1].end, text, found))
    return made
