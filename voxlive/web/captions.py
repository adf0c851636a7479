"""What a live session says, for any number of readers. Every feed is bounded, and so is a reader.

A reader gets a snapshot first and then every event; one that does not keep up is let go, and
catches up with a new snapshot when it comes back.

A session's captions as server-sent events. Pure.

A session's words as WebVTT cues, each as soon as it is complete. Pure.

``GET /captions``, ``GET /captions/{session}`` and ``GET /overlay/{session}``.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from voxlive.errors import RequestRefused
from voxlive.runners.outputs.subtitles import Cue, CueStyle, cues, vtt_cue
from voxlive.streaming.events import Draft, Event, SegmentClosed, Words
from voxlive.values import Segment, Word, seconds
from voxlive.web.access.access import ANYONE
from voxlive.web.access.middleware import granted
from voxlive.web.pages import Pages

MAX_SEGMENTS = 100
MAX_UNREAD = 256
MAX_READERS = 200
LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class ClosedCaption:
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
class CaptionSnapshot:
    """All that a new reader needs: the last closed segments, the open one, and the draft."""

    segments: tuple[ClosedCaption, ...]
    words: tuple[Word, ...]
    draft: str


Caption = CaptionSnapshot | Words | Draft | ClosedCaption

# Words as they are kept: plain tuples, which the garbage collector does not walk through.
_Row = tuple[str, int, int, float | None]
_Kept = tuple[int, int, int, str, tuple[_Row, ...], int | None]


class TooManyReaders(RequestRefused):
    """The feed has as many readers as it serves."""

    def __init__(self) -> None:
        message = "this session has as many readers as it serves; try again later"
        super().__init__("too_many_readers", message)


@dataclass(eq=False)
class _Reader:
    """``ended`` is set when nothing more will come, or when the reader fell behind."""

    unread: deque[Caption] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


class CaptionFeed:
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
                self._rows.extend(
                    (word.text, word.start, word.end, word.probability) for word in words
                )
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

    def _snapshot(self) -> CaptionSnapshot:
        segments = tuple(_closed(*kept) for kept in self._segments)
        return CaptionSnapshot(segments, _words(self._rows), self._draft)

    def _send(self, caption: Caption) -> None:
        for reader in self._readers:
            if len(reader.unread) >= MAX_UNREAD:
                reader.ended = True
            elif not reader.ended:
                reader.unread.append(caption)
            reader.news.set()


class CaptionFeeds:
    """The feeds of all live sessions, by id and by name.

    A name belongs to one key for as long as a connection of it has it; of its sessions the newest
    is read by it.
    """

    def __init__(self) -> None:
        self._feeds: dict[str, CaptionFeed] = {}
        self._claims: dict[str, tuple[str, int]] = {}  # an owner, and how often

    @contextmanager
    def claimed(self, name: str | None, owner: str) -> Iterator[None]:
        """Keep a name for a key. Raises RequestRefused where it is another's."""
        if name is None:
            yield
            return
        holder, times = self._claims.get(name, (owner, 0))
        if holder != owner:
            message = "a session of another key has this captions name now: choose another"
            raise RequestRefused("name_in_use", message)
        self._claims[name] = owner, times + 1
        try:
            yield
        finally:
            _, times = self._claims.pop(name)
            if times > 1:
                self._claims[name] = owner, times - 1

    def open(self, session: str, name: str | None, path: str, owner: str = ANYONE) -> CaptionFeed:
        """A feed for a session that begins; ``path`` is where its client connected."""
        feed = CaptionFeed(session, name or session, path, owner)
        self._feeds[session] = feed
        return feed

    def close(self, feed: CaptionFeed) -> None:
        """The session is over."""
        del self._feeds[feed.session]
        feed.close()

    def find(self, name: str) -> CaptionFeed | None:
        """The feed of a session's id, or of the newest session with this name."""
        by_name = (feed for feed in reversed(self._feeds.values()) if feed.name == name)
        return self._feeds.get(name) or next(by_name, None)

    def __iter__(self) -> Iterator[CaptionFeed]:
        return iter(tuple(self._feeds.values()))


def _closed(
    ident: int, start: int, end: int, text: str, rows: tuple[_Row, ...], received: int | None
) -> ClosedCaption:
    return ClosedCaption(ident, start, end, text, _words(rows), received)


def _words(rows: Iterable[_Row]) -> tuple[Word, ...]:
    return tuple(Word(*row) for row in rows)


def is_name(text: str) -> bool:
    """Whether a session may be called so: anything that can be printed and stands in a path."""
    return 0 < len(text) <= LONGEST_NAME and text.isprintable() and "/" not in text


KEEP_ALIVE = ": still here\n\n"
DONE = "event: done\ndata: {}\n\n"


def sse_event(caption: Caption) -> str:
    """One event; times are seconds on the session's clock."""
    match caption:
        case CaptionSnapshot(segments, words, draft):
            closed = [_closed_event(segment) for segment in segments]
            return _event("snapshot", segments=closed, words=_words_event(words), draft=draft)
        case Words(segment, words):
            return _event("words", segment=segment, text=caption.text, words=_words_event(words))
        case Draft(segment, text):
            return _event("draft", segment=segment, text=text)
        case ClosedCaption():
            return _event("segment", **_closed_event(caption))


def _closed_event(segment: ClosedCaption) -> dict[str, object]:
    start, end = seconds(segment.start), seconds(segment.end)
    return {"id": segment.id, "start": start, "end": end, "text": segment.text}


def _words_event(words: tuple[Word, ...]) -> list[dict[str, object]]:
    return [{"text": w.text, "start": seconds(w.start), "end": seconds(w.end)} for w in words]


def _event(kind: str, **values: object) -> str:
    # JSON on one line: a line break in the data would be read as another field.
    return f"event: {kind}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n"


HEADER = "WEBVTT\n\n"


class LiveCues:
    """Words in, cues out. A cue is said once the words after it can no longer join it."""

    def __init__(self, style: CueStyle | None = None) -> None:
        self._style = style
        self._words: list[Word] = []
        self._said = 0  # words of the open segment that are in cues already
        self._until_ms = 0

    def heard(self, caption: Caption) -> str:
        """The cues that this completes, as WebVTT blocks."""
        match caption:
            case CaptionSnapshot(segments, words, _):
                return "".join(map(self.heard, segments)) + self._more(words)
            case Words(_, words):
                return self._more(words)
            case ClosedCaption(_, _, _, _, words, received):
                self._words = [*words]
                return self._cut(None if received is None else seconds(received), whole=True)
            case _:
                return ""

    def _more(self, words: Iterable[Word]) -> str:
        self._words += words
        return self._cut(whole=False)

    def _cut(self, heard_s: float | None = None, *, whole: bool) -> str:
        """The complete cues of what is left; the last one is complete with its segment alone.

        ``heard_s``: the seconds of audio that there are, which no cue outlasts.
        """
        left = tuple(self._words[self._said :])
        text = "".join(word.text for word in left)
        found = cues([Segment(0, text, words=left)], self._style, heard_s) if left else []
        if not whole:
            found = found[:-1]
            self._said += sum(cue.words for cue in found)
        else:
            self._words, self._said = [], 0
        return "".join(map(self._written, found))

    def _written(self, cue: Cue) -> str:
        """A cue that begins when the one before is gone, as its block."""
        start = max(cue.start_ms, self._until_ms)
        self._until_ms = max(cue.end_ms, start + 1)
        return vtt_cue(replace(cue, start_ms=start, end_ms=self._until_ms))


_Captions = AsyncGenerator["Caption | None", None]

_KEEP_ALIVE_S = 15.0
_VTT = ".vtt"
_HEADERS = {
    "cache-control": "no-store",
    # A reverse proxy must not collect what is meant to be read at once.
    "x-accel-buffering": "no",
}


class CaptionEndpoints:
    """What live sessions say, to be read and not to be changed."""

    def __init__(self, feeds: CaptionFeeds, pages: Pages) -> None:
        self._feeds = feeds
        self._pages = pages

    async def index(self, request: Request) -> JSONResponse:
        """The sessions that the client can read now, the oldest first."""
        reader = granted(request)
        listed = [
            {"session": feed.session, "name": feed.name, "path": feed.path}
            for feed in self._feeds
            if reader.may_read(feed.owner)
        ]
        return JSONResponse({"sessions": listed}, headers={"cache-control": "no-store"})

    async def follow(self, request: Request) -> Response:
        """Server-sent events, or WebVTT for ``.vtt`` or an Accept header that asks for it."""
        name = request.path_params["session"]
        feed = self._readable(request, name)
        as_vtt = "text/vtt" in request.headers.get("accept", "")
        if feed is None and name.endswith(_VTT):
            feed, as_vtt = self._readable(request, name.removesuffix(_VTT)), True
        if feed is None:
            message = "no live session has this id or name now; GET /captions lists those there are"
            raise RequestRefused("no_such_session", message)
        captions = feed.read(None if as_vtt else _KEEP_ALIVE_S)
        first = await anext(captions)
        write, media_type = _WRITERS[as_vtt]
        return StreamingResponse(write(first, captions), media_type=media_type, headers=_HEADERS)

    def _readable(self, request: Request, name: str) -> CaptionFeed | None:
        """What a client may not read is not there."""
        feed = self._feeds.find(name)
        return feed if feed and granted(request).may_read(feed.owner) else None

    async def overlay(self, request: Request) -> Response:
        """The overlay's page; its script reads the address."""
        return await self._pages.get_response("overlay.html", request.scope)


async def _vtt(first: Caption | None, captions: _Captions) -> AsyncIterator[str]:
    cues = LiveCues()
    async with aclosing(captions):
        yield HEADER + (cues.heard(first) if first else "")
        async for caption in captions:
            if caption and (written := cues.heard(caption)):
                yield written


async def _events(first: Caption | None, captions: _Captions) -> AsyncIterator[str]:
    async with aclosing(captions):
        yield sse_event(first) if first else KEEP_ALIVE
        async for caption in captions:
            yield sse_event(caption) if caption else KEEP_ALIVE
    yield DONE


_WRITERS = {True: (_vtt, "text/vtt"), False: (_events, "text/event-stream")}
