"""What a live session says, for any number of readers. Every feed is bounded, and so is a reader.

A reader gets a snapshot first and then every event; one that does not keep up is let go, and
catches up with a new snapshot when it comes back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...streaming.events import Draft, Event, SegmentClosed, Word, Words
from ..access.access import ANYONE
from ..access.refusal import Refusal

MAX_SEGMENTS = 100
MAX_UNREAD = 256
MAX_READERS = 200
LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Closed:
    """A segment that is complete. Times are samples on the session's clock.

    ``received``: how much audio there was then, if that is known.
    """

    id: int
    start: int
    end: int
    text: str
    words: tuple[Word, ...]
    received: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a new reader needs: the last closed segments, the open one, and the draft."""

    segments: tuple[Closed, ...]
    words: tuple[Word, ...]
    draft: str


Caption = Snapshot | Words | Draft | Closed

# Words as they are kept: plain tuples, which the garbage collector does not walk through.
_Row = tuple[str, int, int, float | None]
_Kept = tuple[int, int, int, str, tuple[_Row, ...], int | None]


class TooManyReaders(Exception):
    """The feed has as many readers as it serves."""


@dataclass(eq=False)
class _Reader:
    """``ended`` is set when nothing more will come, or when the reader fell behind."""

    unread: deque[Caption] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


class Feed:
    """One session's captions. ``name`` is what its client called it, or its id.

    ``owner`` is the name of its client's key.
    """

    def __init__(self, session: str, name: str, path: str, owner: str = ANYONE) -> None:
        self.session = session
        self.name = name
        self.owner = owner
        self.path = path
        self._segments: deque[_Kept] = deque(maxlen=MAX_SEGMENTS)
        self._rows: list[_Row] = []
        self._draft = ""
        self._readers: set[_Reader] = set()

    @property
    def readers(self) -> int:
        """How many read it now."""
        return len(self._readers)

    def tell(self, event: Event) -> None:
        """Pass on what is said; other events are nobody's business."""
        match event:
            case Words(_, words):
                self._rows.extend((word.text, word.start, word.end, word.p) for word in words)
                self._send(event)
            case Draft(_, text):
                self._draft = text
                self._send(event)
            case SegmentClosed(ident, start, end, text, received):
                kept = ident, start, end, text, tuple(self._rows), received
                self._segments.append(kept)
                self._rows.clear()
                self._draft = ""
                if self._readers:
                    self._send(_closed(*kept))

    def close(self) -> None:
        """Nothing more will be said: the readers read to the end."""
        for reader in self._readers:
            reader.ended = True
            reader.news.set()

    async def read(self, keep_alive_s: float | None = None) -> AsyncGenerator[Caption | None, None]:
        """A snapshot, then what is said, until the session is over or the reader fell behind.

        None says that there was nothing for ``keep_alive_s``. Raises TooManyReaders.
        """
        if len(self._readers) >= MAX_READERS:
            raise TooManyReaders
        reader = _Reader(deque([self._snapshot()]))
        self._readers.add(reader)
        try:
            while True:
                while reader.unread:
                    yield reader.unread.popleft()
                if reader.ended:
                    return
                reader.news.clear()
                try:
                    async with asyncio.timeout(keep_alive_s):
                        await reader.news.wait()
                except TimeoutError:
                    yield None
        finally:
            self._readers.discard(reader)

    def _snapshot(self) -> Snapshot:
        segments = tuple(_closed(*kept) for kept in self._segments)
        return Snapshot(segments, _words(self._rows), self._draft)

    def _send(self, caption: Caption) -> None:
        for reader in self._readers:
            if len(reader.unread) >= MAX_UNREAD:
                reader.ended = True
            elif not reader.ended:
                reader.unread.append(caption)
            reader.news.set()


class Feeds:
    """The feeds of all live sessions, by id and by name.

    A name belongs to one key for as long as a connection of it has it; of its sessions the newest
    is read by it.
    """

    def __init__(self) -> None:
        self._feeds: dict[str, Feed] = {}
        self._claims: dict[str, tuple[str, int]] = {}  # an owner, and how often

    @contextmanager
    def claimed(self, name: str | None, owner: str) -> Iterator[None]:
        """Keep a name for a key. Raises Refusal where it is another's."""
        if name is None:
            yield
            return
        holder, times = self._claims.get(name, (owner, 0))
        if holder != owner:
            message = "a session of another key has this captions name now: choose another"
            raise Refusal("name_in_use", message)
        self._claims[name] = owner, times + 1
        try:
            yield
        finally:
            _, times = self._claims.pop(name)
            if times > 1:
                self._claims[name] = owner, times - 1

    def open(self, session: str, name: str | None, path: str, owner: str = ANYONE) -> Feed:
        """A feed for a session that begins; ``path`` is where its client connected."""
        feed = Feed(session, name or session, path, owner)
        self._feeds[session] = feed
        return feed

    def close(self, feed: Feed) -> None:
        """The session is over."""
        del self._feeds[feed.session]
        feed.close()

    def find(self, name: str) -> Feed | None:
        """The feed of a session's id, or of the newest session with this name."""
        by_name = (feed for feed in reversed(self._feeds.values()) if feed.name == name)
        return self._feeds.get(name) or next(by_name, None)

    def __iter__(self) -> Iterator[Feed]:
        return iter(tuple(self._feeds.values()))


def _closed(
    ident: int, start: int, end: int, text: str, rows: tuple[_Row, ...], received: int | None
) -> Closed:
    return Closed(ident, start, end, text, _words(rows), received)


def _words(rows: Iterable[_Row]) -> tuple[Word, ...]:
    return tuple(Word(*row) for row in rows)


def is_name(text: str) -> bool:
    """Whether a session may be called so: anything that can be printed and stands in a path."""
    return 0 < len(text) <= LONGEST_NAME and text.isprintable() and "/" not in text
