"""Live captions: what sessions transcribe, for any number of readers over HTTP.

A ``CaptionFeed`` keeps the captions of one session; ``CaptionFeeds`` has the feeds of all live
sessions. A reader gets a snapshot and then every event, as server-sent events (``sse_event``) or as
WebVTT cues (``LiveCues``), both of which are pure. ``CaptionEndpoints`` serves ``GET /captions``,
``GET /captions/{session}`` and ``GET /overlay/{session}``. Times are samples on a session's clock,
and seconds on the wire.

A feed keeps ``MAX_SEGMENTS`` closed segments and serves ``MAX_READERS``. A reader that leaves
``MAX_UNREAD`` events unread is ended, and gets a new snapshot when it connects again.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from voxlive.errors import RequestRefused
from voxlive.runners.outputs.subtitles import Cue, CueStyle, cues, vtt_cue
from voxlive.store.contract import StoredTranscript, StoredWord
from voxlive.streaming.events import Draft, Event, SegmentClosed, Words
from voxlive.values import Segment, Word, seconds
from voxlive.web.access.access import ANYONE
from voxlive.web.access.middleware import require_grant
from voxlive.web.pages import Pages

if TYPE_CHECKING:
    from voxlive.web.recorder import Recorder

MAX_SEGMENTS = 100
MAX_UNREAD = 256
MAX_READERS = 200
MAX_NAME_LENGTH = 64

KEEP_ALIVE = ": still here\n\n"
DONE = "event: done\ndata: {}\n\n"
HEADER = "WEBVTT\n\n"

_KEEP_ALIVE_S = 15.0
_VTT = ".vtt"
_HEADERS = {
    "cache-control": "no-store",
    # A reverse proxy must not buffer what is meant to be read at once.
    "x-accel-buffering": "no",
}


@dataclass(frozen=True, slots=True)
class ClosedCaption:
    """A segment that is complete. ``start``, ``end`` and ``received`` are in samples.

    ``received``: how much audio the session had received then, None if that is not known.
    """

    id: int
    start: int
    end: int
    text: str
    words: tuple[Word, ...]
    received: int | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class OpenCaption:
    """The open segment of a source: its words, and the draft behind them."""

    words: tuple[Word, ...]
    draft: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class CaptionSnapshot:
    """What a new reader starts from: the last closed segments, the open one's words, the draft.

    In a session with several sources each has an open segment, in ``sources``.
    """

    segments: tuple[ClosedCaption, ...]
    words: tuple[Word, ...]
    draft: str
    sources: tuple[OpenCaption, ...] = ()


Caption = CaptionSnapshot | Words | Draft | ClosedCaption
_Captions = AsyncGenerator[Caption | None, None]

# Words and segments as they are kept: plain tuples, which the garbage collector does not visit.
_WordRow = tuple[str, int, int, float | None]
_SegmentRow = tuple[int, int, int, str, tuple[_WordRow, ...], int | None, str]


class TooManyReaders(RequestRefused):
    """The feed has as many readers as it serves."""

    def __init__(self) -> None:
        message = "this session has as many readers as it serves; try again later"
        super().__init__("too_many_readers", message)


@dataclass(eq=False)
class _Reader:
    """The events that one reader has not read. ``ended``: the feed is closed or it fell behind."""

    unread: deque[Caption] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


class CaptionFeed:
    """The captions of one session, for ``MAX_READERS`` readers at most.

    ``name`` is the name that its client gave it, or its id; ``path`` is where its client connected;
    ``owner`` is the name of its client's key.
    """

    def __init__(self, session: str, name: str, path: str, owner: str = ANYONE) -> None:
        self.session = session
        self.name = name
        self.owner = owner
        self.path = path
        self.waits = False
        """Whether its session is another server's, and waits for its client."""
        self.left = False
        """Whether it is left to another server."""
        self._segments: deque[_SegmentRow] = deque(maxlen=MAX_SEGMENTS)
        # Of the open segment of each source.
        self._rows: defaultdict[str, list[_WordRow]] = defaultdict(list)
        self._drafts: dict[str, str] = {}
        self._restored = 0  # words of another server
        self._readers: set[_Reader] = set()

    @property
    def readers(self) -> int:
        """How many readers there are now."""
        return len(self._readers)

    def on_event(self, event: Event) -> None:
        """Pass words, drafts and closed segments on to the readers; other events are ignored."""
        match event:
            case Words(_, words, source):
                self._rows[source].extend(
                    (word.text, word.start, word.end, word.probability) for word in words
                )
                self._send(event)
            case Draft(_, text, source):
                self._drafts[source] = text
                self._send(event)
            case SegmentClosed(ident, start, end, text, received, source):
                rows = tuple(self._rows.pop(source, ()))
                row = ident, start, end, text, rows, received, source
                self._segments.append(row)
                self._drafts.pop(source, None)
                if self._readers:
                    self._send(_closed(*row))

    def restore(self, transcript: StoredTranscript) -> None:
        """Go on with a session of another server: readers begin with what was said there.

        Called again with more of it, readers get what is new.
        """
        last = sorted(transcript.segments, key=lambda one: one.end)[-MAX_SEGMENTS:]
        said: defaultdict[int, list[StoredWord]] = defaultdict(list)
        for word in transcript.words:
            said[word.segment].append(word)
        shown = {ident for ident, *_ in self._segments}
        for closed in (one for one in last if one.id not in shown):
            words = said[closed.id]
            self._add_words(words)
            text, source = "".join(one.text for one in words), words[0].source if words else ""
            self.on_event(SegmentClosed(closed.id, closed.start, closed.end, text, source=source))
        self._add_words(transcript.open_words)
        self._restored = transcript.words[-1].number + 1 if transcript.words else 0

    def _add_words(self, words: Iterable[StoredWord]) -> None:
        """Those that were not restored before."""
        for one in words:
            if one.number >= self._restored:
                word = Word(one.text, one.start, one.end, one.probability)
                self.on_event(Words(one.segment, (word,), one.source))

    def close(self, *, over: bool = True) -> None:
        """The session is over, or left to another server: readers get what is unread, and end."""
        self.left = not over
        for reader in self._readers:
            reader.ended = True
            reader.changed.set()

    async def read(self, keep_alive_s: float | None = None) -> AsyncGenerator[Caption | None, None]:
        """A snapshot, then captions, until the session is over or the reader falls behind.

        None stands for ``keep_alive_s`` seconds without any. Raises TooManyReaders.
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
                reader.changed.clear()
                try:
                    async with asyncio.timeout(keep_alive_s):
                        await reader.changed.wait()
                except TimeoutError:
                    yield None
        finally:
            self._readers.discard(reader)

    def _snapshot(self) -> CaptionSnapshot:
        segments = tuple(_closed(*row) for row in self._segments)
        found = {
            source: OpenCaption(
                _words(self._rows.get(source, ())), self._drafts.get(source, ""), source
            )
            for source in sorted({*self._rows, *self._drafts})
        }
        alone = found.pop("", OpenCaption((), ""))
        return CaptionSnapshot(segments, alone.words, alone.draft, tuple(found.values()))

    def _send(self, caption: Caption) -> None:
        for reader in self._readers:
            if len(reader.unread) >= MAX_UNREAD:
                reader.ended = True
            elif not reader.ended:
                reader.unread.append(caption)
            reader.changed.set()


class CaptionFeeds:
    """The feeds of all live sessions, by session id and by name.

    A name is reserved for one key while a connection of that key uses it; it stands for the newest
    session that has it.
    """

    def __init__(self) -> None:
        self._feeds: dict[str, CaptionFeed] = {}
        self._claims: dict[str, tuple[str, int]] = {}  # by name: the owner and its connections

    @contextmanager
    def claimed(self, name: str | None, owner: str) -> Iterator[None]:
        """Reserve a name for a key. Raises RequestRefused if another key has it."""
        if name is None:
            yield
            return
        holder, uses = self._claims.get(name, (owner, 0))
        if holder != owner:
            message = "a session of another key has this captions name now: choose another"
            raise RequestRefused("name_in_use", message)
        self._claims[name] = owner, uses + 1
        try:
            yield
        finally:
            _, uses = self._claims.pop(name)
            if uses > 1:
                self._claims[name] = owner, uses - 1

    def open(self, session: str, name: str | None, path: str, owner: str = ANYONE) -> CaptionFeed:
        """Make a feed for a session that begins."""
        feed = CaptionFeed(session, name or session, path, owner)
        self._feeds[session] = feed
        return feed

    def wait(self, transcript: StoredTranscript, wait_s: float) -> CaptionFeed:
        """A feed for a session that another server has left, until it comes or is given up."""
        session = transcript.session
        feed = self.open(session.id, session.name, session.path, session.owner)
        feed.restore(transcript)
        feed.waits = True
        asyncio.get_running_loop().call_later(wait_s, self._give_up, feed)
        return feed

    def _give_up(self, feed: CaptionFeed) -> None:
        if feed.waits:
            self.close(feed)

    def go_on(self, transcript: StoredTranscript) -> CaptionFeed:
        """The feed of a session that comes from another server; its readers may wait for it."""
        session = transcript.session
        feed = self._feeds.get(session.id)
        if feed is None or not feed.waits:
            feed = self.open(session.id, session.name, session.path, session.owner)
        feed.restore(transcript)
        feed.waits = False
        return feed

    def close(self, feed: CaptionFeed, *, over: bool = True) -> None:
        """Remove and close the feed of a session that is over, or left to another server."""
        if self._feeds.get(feed.session) is feed:
            del self._feeds[feed.session]
        feed.close(over=over)

    def find(self, name: str) -> CaptionFeed | None:
        """The feed of a session's id, or of the newest session with this name."""
        by_name = (feed for feed in reversed(self._feeds.values()) if feed.name == name)
        return self._feeds.get(name) or next(by_name, None)

    def __iter__(self) -> Iterator[CaptionFeed]:
        return iter(tuple(self._feeds.values()))


def _closed(
    ident: int,
    start: int,
    end: int,
    text: str,
    rows: tuple[_WordRow, ...],
    received: int | None,
    source: str,
) -> ClosedCaption:
    return ClosedCaption(ident, start, end, text, _words(rows), received, source)


def _words(rows: Iterable[_WordRow]) -> tuple[Word, ...]:
    return tuple(Word(*row) for row in rows)


def is_valid_name(text: str) -> bool:
    """Whether a session may have this name: 1 to 64 printable characters without a slash."""
    return 0 < len(text) <= MAX_NAME_LENGTH and text.isprintable() and "/" not in text


def sse_event(caption: Caption) -> str:
    """A caption as one server-sent event; times are seconds on the session's clock."""
    match caption:
        case CaptionSnapshot(segments, words, draft, sources):
            closed = [_closed_event(segment) for segment in segments]
            one = {"segments": closed, "words": _words_event(words), "draft": draft}
            several = [
                {"source": each.source, "words": _words_event(each.words), "draft": each.draft}
                for each in sources
            ]
            return _event("snapshot", **one, **({"sources": several} if several else {}))
        case Words(segment, words, source):
            text, listed = caption.text, _words_event(words)
            return _event("words", segment=segment, text=text, words=listed, **_of(source))
        case Draft(segment, text, source):
            return _event("draft", segment=segment, text=text, **_of(source))
        case ClosedCaption():
            return _event("segment", **_closed_event(caption))


def _of(source: str) -> dict[str, str]:
    return {"source": source} if source else {}


def _closed_event(segment: ClosedCaption) -> dict[str, object]:
    start, end = seconds(segment.start), seconds(segment.end)
    times = {"start": start, "end": end}
    return {"id": segment.id, **times, "text": segment.text, **_of(segment.source)}


def _words_event(words: tuple[Word, ...]) -> list[dict[str, object]]:
    return [{"text": w.text, "start": seconds(w.start), "end": seconds(w.end)} for w in words]


def _event(kind: str, **values: object) -> str:
    # JSON on one line: a line break in the data would be read as another field.
    return f"event: {kind}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n"


class LiveCues:
    """Words in, WebVTT cues out. A cue is complete once the words after it cannot join it.

    Those of several sources have the source as their voice, and may overlap.
    """

    def __init__(self, style: CueStyle | None = None) -> None:
        self._style = style
        self._sources: dict[str, _SourceCues] = {}

    def on_caption(self, caption: Caption) -> str:
        """The cues that a caption completes, as WebVTT blocks."""
        match caption:
            case CaptionSnapshot(segments, words, _, sources):
                closed = "".join(map(self.on_caption, segments))
                more = (self._of(each.source).add_words(each.words) for each in sources)
                return closed + self._of("").add_words(words) + "".join(more)
            case Words(_, words, source):
                return self._of(source).add_words(words)
            case ClosedCaption(_, _, _, _, words, received, source):
                return self._of(source).close(words, received)
            case _:
                return ""

    def _of(self, source: str) -> _SourceCues:
        if source not in self._sources:
            self._sources[source] = _SourceCues(source, self._style)
        return self._sources[source]


class _SourceCues:
    """The cues of one source."""

    def __init__(self, source: str, style: CueStyle | None) -> None:
        self._source = source
        self._style = style
        self._words: list[Word] = []
        self._in_cues = 0  # words of the open segment that are in cues already
        self._until_ms = 0

    def add_words(self, words: Iterable[Word]) -> str:
        """Add words to the open segment."""
        self._words += words
        return self._take_cues(whole=False)

    def close(self, words: Iterable[Word], received: int | None) -> str:
        """The segment is closed; ``words`` are all of it."""
        self._words = [*words]
        return self._take_cues(None if received is None else seconds(received), whole=True)

    def _take_cues(self, received_s: float | None = None, *, whole: bool) -> str:
        """The complete cues of the words that are in none; ``whole``: the segment is closed.

        The last cue is complete with its segment. ``received_s``: seconds of audio received, which
        no cue outlasts.
        """
        left = tuple(self._words[self._in_cues :])
        text = "".join(word.text for word in left)
        found = cues([Segment(0, text, words=left)], self._style, received_s) if left else []
        if not whole:
            found = found[:-1]
            self._in_cues += sum(cue.words for cue in found)
        else:
            self._words, self._in_cues = [], 0
        return "".join(map(self._write, found))

    def _write(self, cue: Cue) -> str:
        """A cue as its block; it begins no earlier than the one before it ends."""
        start = max(cue.start_ms, self._until_ms)
        self._until_ms = max(cue.end_ms, start + 1)
        placed = replace(cue, start_ms=start, end_ms=self._until_ms, voice=self._source)
        return vtt_cue(placed)


class CaptionEndpoints:
    """Read access to the captions of live sessions."""

    def __init__(
        self, feeds: CaptionFeeds, pages: Pages, recorder: Recorder | None = None, wait_s: float = 0
    ) -> None:
        """Sessions that another server has left in the store wait ``wait_s`` for their clients."""
        self._feeds = feeds
        self._pages = pages
        self._recorder = recorder
        self._wait_s = wait_s

    async def index(self, request: Request) -> JSONResponse:
        """The sessions that the client may read, the oldest first."""
        grant = require_grant(request)
        listed = [
            {"session": feed.session, "name": feed.name, "path": feed.path}
            for feed in self._feeds
            if grant.may_read(feed.owner)
        ]
        return JSONResponse({"sessions": listed}, headers={"cache-control": "no-store"})

    async def follow(self, request: Request) -> Response:
        """A session's captions as server-sent events, or WebVTT by ``.vtt`` or an Accept header."""
        name = request.path_params["session"]
        feed = self._readable(request, name)
        as_vtt = "text/vtt" in request.headers.get("accept", "")
        if feed is None and name.endswith(_VTT):
            feed, as_vtt = self._readable(request, name.removesuffix(_VTT)), True
        if feed is None:
            feed = await self._waiting(request, name.removesuffix(_VTT) if as_vtt else name)
        if feed is None:
            message = "no live session has this id or name now; GET /captions lists those there are"
            raise RequestRefused("no_such_session", message)
        captions = feed.read(None if as_vtt else _KEEP_ALIVE_S)
        first = await anext(captions)
        write, media_type = _WRITERS[as_vtt]
        return StreamingResponse(
            write(feed, first, captions), media_type=media_type, headers=_HEADERS
        )

    def _readable(self, request: Request, name: str) -> CaptionFeed | None:
        """The feed of a session id or name; None where the client may not read it, either."""
        feed = self._feeds.find(name)
        return feed if feed and require_grant(request).may_read(feed.owner) else None

    async def _waiting(self, request: Request, name: str) -> CaptionFeed | None:
        """The feed of a session that another server has left; None for none that may be read."""
        found = self._recorder and await self._recorder.find_named(name)
        if not self._recorder or not found or not require_grant(request).may_read(found.owner):
            return None
        transcript = await self._recorder.transcript(found.id)
        return self._feeds.find(found.id) or self._feeds.wait(transcript, self._wait_s)

    async def overlay(self, request: Request) -> Response:
        """The overlay's page, whose script reads the session from the URL."""
        return await self._pages.get_response("overlay.html", request.scope)


async def _vtt(
    _feed: CaptionFeed, first: Caption | None, captions: _Captions
) -> AsyncIterator[str]:
    live_cues = LiveCues()
    async with aclosing(captions):
        yield HEADER + (live_cues.on_caption(first) if first else "")
        async for caption in captions:
            if caption and (blocks := live_cues.on_caption(caption)):
                yield blocks


async def _events(
    feed: CaptionFeed, first: Caption | None, captions: _Captions
) -> AsyncIterator[str]:
    async with aclosing(captions):
        yield sse_event(first) if first else KEEP_ALIVE
        async for caption in captions:
            yield sse_event(caption) if caption else KEEP_ALIVE
    if not feed.left:
        yield DONE


_WRITERS = {True: (_vtt, "text/vtt"), False: (_events, "text/event-stream")}
