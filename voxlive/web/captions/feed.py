"""The captions of one live session, with a snapshot and events for its readers.

A feed keeps ``MAX_SEGMENTS`` closed segments, of those before them only the text and only once a
reader asks (``MAX_EARLIER``), and serves ``MAX_READERS``. An event is encoded once for all. Many
readers get the events of up to a quarter of a second together, some of them in each turn of the
event loop, so that sessions are not kept waiting. A reader that leaves ``MAX_UNREAD`` events unread
is ended, and gets a new snapshot when it connects again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, TypeGuard

from voxlive.errors import RequestRefused
from voxlive.speakers.labels import SpeakerNamed, SpeakerRange, SpeakersFound
from voxlive.store.contract import StoredTranscript, StoredWord
from voxlive.streaming.events import Draft, Event, SegmentClosed, SessionClosed, Words
from voxlive.values import Word
from voxlive.web.access.access import ANYONE
from voxlive.web.captions.cues import spoken_texts
from voxlive.web.captions.events import (
    DONE,
    KEEP_ALIVE,
    Caption,
    CaptionSnapshot,
    ClosedCaption,
    CorrectedCaption,
    OpenCaption,
    Place,
    SpokenCaption,
    corrected_segments,
    sse_event,
)

MAX_SEGMENTS = 100
MAX_EARLIER = 20_000
MAX_UNREAD = 256
MAX_READERS = 1000

_KEEP_ALIVE_S = 15.0
_READER_PACE_S = 0.0005  # more between two batches of events for every reader
_LABELLED = 16  # segments before a reader's place whose words' speakers may have changed since
_AT_ONCE = 50  # readers that are woken in one turn of the event loop

# Words and segments as they are kept: plain tuples, which the garbage collector does not visit.
_WordRow = tuple[str, int, int, float | None, int | None]  # the last is the speaker
# Behind those of a ClosedCaption: how many words the session had by its end.
_SegmentRow = tuple[int, int, int, str, tuple[_WordRow, ...], int | None, str, int]


class TooManyReaders(RequestRefused):
    """The feed has as many readers as it serves."""

    def __init__(self) -> None:
        message = "this session has as many readers as it serves; try again later"
        super().__init__("too_many_readers", message)


class SentCaption:
    """A caption, and where its reader is with it; it is encoded once for all readers."""

    __slots__ = ("_text", "caption", "place")

    def __init__(self, caption: Caption, place: Place) -> None:
        self.caption = caption
        self.place = place
        self._text: str | None = None

    @property
    def text(self) -> str:
        """As a server-sent event."""
        if self._text is None:
            draft = isinstance(self.caption, Draft)
            self._text = sse_event(self.caption, "" if draft else str(self.place))
        return self._text


@dataclass(eq=False)
class CaptionReader:
    """The events that one reader has not read.

    ``ended``: the feed is closed or, with ``behind``, the reader too slow. ``stopped``: it may read
    no more.
    """

    unread: deque[SentCaption] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    behind: bool = False
    stopped: bool = False

    def take(self) -> str:
        """All that is unread, as server-sent events."""
        texts = [sent.text for sent in self.unread]
        self.unread.clear()
        return "".join(texts)

    async def wait(self, timeout_s: float | None) -> bool:
        """Wait until something has changed; False if nothing has for so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.changed.wait()
        except TimeoutError:
            return False
        self.changed.clear()
        return True


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
        self.on_closed: Callable[[CaptionFeed], object] = lambda _: None
        """Called when the session is over: its client may still ask for what it was sent."""
        self.on_caption: Callable[[Caption], object] | None = None
        """Called with what readers get, whether there are any or not."""
        self.loading = asyncio.Lock()
        """Held while what the feed does not have any more is read from the store."""
        self._segments: deque[_SegmentRow] = deque()
        self._earlier: deque[ClosedCaption] | None = None
        self._dropped = 0  # words of segments that are not kept
        # Of the open segment of each source.
        self._rows: defaultdict[str, list[_WordRow]] = defaultdict(list)
        self._open: dict[str, int] = {}
        self._drafts: dict[str, str] = {}
        self._number = 0  # words so far
        self._restored = 0  # words of another server
        self._corrections = 0
        # By segment: the text that people have given to its first words, and how many those are.
        self._corrected: dict[int, tuple[str, int]] = {}
        self._names: dict[tuple[str, int], str] = {}
        self._readers: set[CaptionReader] = set()
        self._pending: list[SentCaption] = []
        self._flushing: asyncio.TimerHandle | None = None
        self._flushed_at = float("-inf")
        self._snapshots: dict[tuple[bool, Place | None], SentCaption] = {}

    @property
    def readers(self) -> int:
        """How many readers there are now."""
        return len(self._readers)

    @property
    def place(self) -> Place:
        """Where a reader is that has everything."""
        return Place(self.session, self._number, self._corrections)

    def on_event(self, event: Event) -> None:
        """Pass words, drafts, segments and speakers on to readers, and that the session is over.

        Other events are ignored.
        """
        match event:
            case SessionClosed():
                self.on_closed(self)
            case Words(segment, words, source):
                self._number += len(words)
                self._open[source] = segment
                self._rows[source].extend(
                    (word.text, word.start, word.end, word.probability, None) for word in words
                )
                self._send(event)
            case SpeakersFound(ranges, _, source):
                for segment in dict.fromkeys(one.segment for one in ranges):
                    self._label(segment, [one for one in ranges if one.segment == segment], source)
            case SpeakerNamed(speaker, name, source, by_voice):
                if by_voice and (source, speaker) in self._names:
                    return  # people have said so
                self._names[source, speaker] = name
                if not name:
                    del self._names[source, speaker]
                self._send(event)
            case Draft(_, text, source):
                self._drafts[source] = text
                self._send(event)
            case SegmentClosed(ident, start, end, text, received, source):
                rows = tuple(self._rows.pop(source, ()))
                if ident in self._corrected:
                    text = self._text(ident, rows)
                self._open.pop(source, None)
                self._drafts.pop(source, None)
                row = ident, start, end, text, rows, received, source, self._number
                self._segments.append(row)
                if len(self._segments) > MAX_SEGMENTS:
                    self._drop(self._segments.popleft())
                self._send(_closed(*row))

    def _label(self, segment: int, ranges: Sequence[SpeakerRange], source: str) -> None:
        """Words of a segment have these speakers, unless it is not kept any more."""
        if self._open.get(source) == segment:
            self._rows[source] = _labelled(self._rows[source], ranges)
        for place, row in enumerate(self._segments):
            if row[0] == segment:
                self._segments[place] = (*row[:4], tuple(_labelled(row[4], ranges)), *row[5:])
        self._tell_speakers(segment)

    def _tell_speakers(self, segment: int) -> None:
        """Readers get whose words those of a segment are, where that is known."""
        kept = [(row[4], row[3], row[6]) for row in self._segments if row[0] == segment]
        for source, ident in self._open.items():
            if ident == segment:
                rows = tuple(self._rows[source])
                kept.append((rows, self._text(segment, rows), source))
        for rows, text, source in kept:
            if speakers := _speakers(rows):
                self._send(_spoken(segment, rows, speakers, text, source))

    def _drop(self, row: _SegmentRow) -> None:
        self._dropped = row[-1]
        if self._earlier is not None:
            self._earlier.append(replace(_closed(*row), words=()))

    def _text(self, segment: int, rows: Iterable[_WordRow]) -> str:
        text, covered = self._corrected.get(segment, ("", 0))
        return text + "".join([row[0] for row in rows][covered:])

    def restore(self, transcript: StoredTranscript) -> None:
        """Go on with a session of another server: readers begin with what was said there.

        Called again with more of it, readers get what is new.
        """
        self.correct(corrected_segments(transcript), len(transcript.corrections))
        for one in transcript.names:
            if self._names.get((one.source, one.speaker)) != one.name:
                self.on_event(SpeakerNamed(one.speaker, one.name, one.source))
        last = sorted(transcript.segments, key=lambda one: one.end)
        last, before = last[-MAX_SEGMENTS:], last[:-MAX_SEGMENTS]
        self._dropped = max(self._dropped, before[-1].stop if before else 0)
        said: defaultdict[int, list[StoredWord]] = defaultdict(list)
        for word in transcript.words:
            said[word.segment].append(word)
        shown = {row[0] for row in self._segments}
        for closed in (one for one in last if one.id not in shown):
            words = said[closed.id]
            self._add_words(words)
            text, source = "".join(one.text for one in words), words[0].source if words else ""
            self._number = closed.stop
            self.on_event(SegmentClosed(closed.id, closed.start, closed.end, text, source=source))
        self._add_words(transcript.open_words)
        self._restored = self._number = transcript.words[-1].number + 1 if transcript.words else 0

    def _add_words(self, words: Iterable[StoredWord]) -> None:
        """Those that were not restored before."""
        for one in words:
            if one.number >= self._restored:
                self._number = one.number
                word = Word(one.text, one.start, one.end, one.probability)
                self.on_event(Words(one.segment, (word,), one.source))
                if one.speaker is not None:
                    at = len(self._rows[one.source]) - 1
                    named = SpeakerRange(one.segment, at, at, one.speaker)
                    self._label(one.segment, [named], one.source)

    def correct(self, corrected: Mapping[int, tuple[str, int]], corrections: int) -> None:
        """People have made so many corrections; ``corrected`` is of ``corrected_segments``."""
        if corrections < self._corrections:
            return  # of an older state
        changed = {s: one for s, one in corrected.items() if self._corrected.get(s) != one}
        self._corrections, self._corrected = corrections, dict(corrected)
        for segment, (text, _) in changed.items():
            for source, ident in self._open.items():
                if ident == segment:
                    text = self._text(segment, self._rows[source])
            self._segments = deque(
                (*row[:3], text, *row[4:]) if row[0] == segment else row for row in self._segments
            )
            if self._earlier is not None:
                earlier = (
                    replace(one, text=text) if one.id == segment else one for one in self._earlier
                )
                self._earlier = deque(earlier, MAX_EARLIER)
            self._send(CorrectedCaption(segment, text))
            self._tell_speakers(segment)

    def amend(self, segment: int, count: int, text: str) -> bool:
        """The client of a session that nothing stores has corrected the segment of this id.

        ``text`` stands for its first ``count`` words. Of a segment that is not kept any more only
        the readers of now are told. False where there has been none.
        """
        words = {ident: self._rows[source] for source, ident in self._open.items()}
        closed = {row[0]: row[4] for row in self._segments}
        known = {*words, *closed}
        if not 0 <= segment <= max(known, default=-1):
            return False
        if segment in closed:
            text += "".join(row[0] for row in closed[segment][count:])
            count = len(closed[segment])
        if self._corrected.get(segment) == (text, count):
            return True
        if segment in known:
            kept = {ident: one for ident, one in self._corrected.items() if ident in known}
            self.correct({**kept, segment: (text, count)}, self._corrections + 1)
        else:
            self._corrections += 1
            self._send(CorrectedCaption(segment, text))
        return True

    def correction_of(self, segment: int) -> tuple[int, int, str, int]:
        """How many corrections there are, and what ``correct`` gets for this one."""
        return (self._corrections, segment, *self._corrected.get(segment, ("", 0)))

    @property
    def state(self) -> dict[str, Any]:
        """All that readers may need, in JSON's values; ``restore_state`` has another feed have it.

        What was said before the segments that are kept is not in it.
        """
        return {
            "segments": list(self._segments),
            "dropped": self._dropped,
            "open": [[source, self._open.get(source), rows] for source, rows in self._rows.items()],
            "drafts": self._drafts,
            "number": self._number,
            "corrections": self._corrections,
            "corrected": [[segment, *one] for segment, one in self._corrected.items()],
            "names": [[*speaker, name] for speaker, name in self._names.items()],
        }

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """See ``state``. Those who read already get all of it."""
        self._segments = deque(
            (*row[:4], tuple(_row(word) for word in row[4]), *row[5:]) for row in state["segments"]
        )
        self._dropped, self._earlier = state["dropped"], None
        self._rows.clear()
        self._open.clear()
        for source, segment, rows in state["open"]:
            self._rows[source] = [_row(word) for word in rows]
            if segment is not None:
                self._open[source] = segment
        self._drafts = dict(state["drafts"])
        self._number, self._corrections = state["number"], state["corrections"]
        self._corrected = {segment: (text, count) for segment, text, count in state["corrected"]}
        self._names = {(source, speaker): name for source, speaker, name in state["names"]}
        self._send(self._captions(None, start=True))

    def lacks(self, place: Place | None, *, start: bool) -> bool:
        """Whether a reader who is there, or begins at the start, needs more than is kept."""
        if self._earlier is not None or not self._dropped:
            return False
        return place.words < self._dropped if self._goes_on(place) else start

    def add_earlier(self, segments: Iterable[ClosedCaption]) -> None:
        """What the store has of the session: of this are the segments that are not kept here."""
        kept = {row[0] for row in self._segments} | {*self._open.values()}
        self._earlier = deque((one for one in segments if one.id not in kept), MAX_EARLIER)
        self._snapshots.clear()

    def close(self, *, over: bool = True) -> None:
        """The session is over, or left to another server: readers get what is unread, and end."""
        self.left = not over
        self._flush()
        for reader in self._readers:
            reader.ended = True
            reader.changed.set()

    async def read(self, keep_alive_s: float | None = None) -> AsyncGenerator[Caption | None, None]:
        """A snapshot, then captions, until the session is over or the reader falls behind.

        None stands for ``keep_alive_s`` seconds without any. Raises TooManyReaders.
        """
        with self.reading(CaptionReader()) as reader:
            while True:
                while reader.unread:
                    yield reader.unread.popleft().caption
                if reader.ended:
                    return
                if not await reader.wait(keep_alive_s):
                    yield None

    async def events(self) -> AsyncGenerator[str, None]:
        """As ``read``, as server-sent events."""
        with self.reading(CaptionReader()) as reader:
            while True:
                while reader.unread:  # more may come, and the end, while this is sent
                    yield reader.take()
                if reader.ended:
                    break
                if not await reader.wait(_KEEP_ALIVE_S):
                    yield KEEP_ALIVE
            if not self.left:
                yield DONE

    @contextmanager
    def reading(
        self, reader: CaptionReader, place: Place | None = None, *, start: bool = True
    ) -> Iterator[CaptionReader]:
        """Have a reader get a snapshot and then all captions. Raises TooManyReaders.

        ``place``: where it was, ``start``: whether one that was nowhere gets what was said before.
        """
        if len(self._readers) >= MAX_READERS:
            raise TooManyReaders
        self._flush()
        reader.ended = reader.behind = False
        went_on = place if self._goes_on(place) else None
        reader.unread = deque([self._snapshot(went_on, start)])
        if went_on:
            reader.unread.extend(SentCaption(one, self.place) for one in self._labels_of(went_on))
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def _goes_on(self, place: Place | None) -> TypeGuard[Place]:
        """Whether a reader who was there needs nothing again of what it has."""
        return (
            place is not None
            and (place.session, place.corrections) == (self.session, self._corrections)
            and place.words <= self._number
        )

    def _labels_of(self, place: Place) -> Iterator[SpokenCaption]:
        """Whose the last words are that a reader had there: it may have become known since."""
        before = [row for row in self._segments if row[-1] <= place.words]
        for ident, _, _, text, rows, _, source, _ in before[-_LABELLED:]:
            if speakers := _speakers(rows):
                yield _spoken(ident, rows, speakers, text, source)

    def _snapshot(self, place: Place | None, start: bool) -> SentCaption:
        found = self._snapshots.get((start, place))
        if found is None:
            found = SentCaption(self._captions(place, start=start), self.place)
            self._snapshots[start, place] = found
        return found

    def _captions(self, place: Place | None, *, start: bool) -> CaptionSnapshot:
        segments: tuple[ClosedCaption, ...] = ()
        complete = True
        if place or start:
            after = place.words if place else -1
            segments = tuple(_closed(*row) for row in self._segments if row[-1] > after)
            if after < self._dropped:
                segments = (*(self._earlier or ()), *segments)
                complete = self._earlier is not None or not self._dropped
        found = {}
        for source in sorted({*self._rows, *self._drafts}):
            rows, segment = self._rows.get(source, ()), self._open.get(source)
            text = "" if segment is None else self._text(segment, rows)
            draft = self._drafts.get(source, "")
            words, speakers = _words(rows), _speakers(rows)
            parts = spoken_texts(words, speakers, text)
            found[source] = OpenCaption(words, draft, source, segment, text, speakers, parts)
        opened = tuple(one for one in found.values() if one.words)
        alone = found.pop("", OpenCaption((), ""))
        several, names = (*found.values(),), self._names.items()
        return CaptionSnapshot(
            segments,
            alone.words,
            alone.draft,
            several,
            opened,
            self.session,
            complete,
            tuple(SpeakerNamed(speaker, name, source) for (source, speaker), name in names),
        )

    def _send(self, caption: Caption) -> None:
        self._snapshots.clear()
        if self.on_caption:
            self.on_caption(caption)
        if not self._readers:
            return
        self._pending.append(SentCaption(caption, self.place))
        if len(self._readers) <= _AT_ONCE or len(self._pending) >= MAX_UNREAD // 4:
            self._flush()
        elif self._flushing is None:
            loop = asyncio.get_running_loop()
            pace_s = min(0.25, _READER_PACE_S * len(self._readers))
            at = max(loop.time(), self._flushed_at + pace_s)
            self._flushing = loop.call_at(at, self._flush)

    def _flush(self) -> None:
        """Pass on what is pending, but for drafts that something newer has replaced."""
        if self._flushing:
            self._flushing.cancel()
            self._flushing = None
        pending, self._pending = self._pending, []
        sent = [one for at, one in enumerate(pending) if not _is_replaced(one, pending[at + 1 :])]
        if not sent:
            return
        for reader in self._readers:
            if len(reader.unread) + len(sent) > MAX_UNREAD:
                reader.ended = reader.behind = True
            elif not reader.ended:
                reader.unread.extend(sent)
        if len(self._readers) <= _AT_ONCE:
            _wake([*self._readers])
        else:
            self._flushed_at = asyncio.get_running_loop().time()
            wake_in_turns([*self._readers])


def _is_replaced(sent: SentCaption, later: Iterable[SentCaption]) -> bool:
    draft = sent.caption
    return isinstance(draft, Draft) and any(
        isinstance(one.caption, Draft | Words | ClosedCaption)
        and one.caption.source == draft.source
        for one in later
    )


def _wake(readers: Iterable[CaptionReader]) -> None:
    for reader in readers:
        reader.changed.set()


def wake_in_turns(readers: list[CaptionReader]) -> None:
    """Have readers look for what is new, some of them in each turn of the event loop."""
    _wake(readers[:_AT_ONCE])
    if len(readers) > _AT_ONCE:
        asyncio.get_running_loop().call_soon(wake_in_turns, readers[_AT_ONCE:])


def _closed(
    ident: int,
    start: int,
    end: int,
    text: str,
    rows: tuple[_WordRow, ...],
    received: int | None,
    source: str,
    _stop: int,
) -> ClosedCaption:
    words, speakers = _words(rows), _speakers(rows)
    parts = spoken_texts(words, speakers, text)
    return ClosedCaption(ident, start, end, text, words, received, source, speakers, parts)


def _row(word: Sequence[Any]) -> _WordRow:
    text, start, end, probability, speaker = word
    return text, start, end, probability, speaker


def _words(rows: Iterable[_WordRow]) -> tuple[Word, ...]:
    return tuple(Word(*row[:4]) for row in rows)


def _labelled(rows: Sequence[_WordRow], ranges: Iterable[SpeakerRange]) -> list[_WordRow]:
    labelled = [*rows]
    for _, first, last, speaker in ranges:
        for number in range(first, min(last + 1, len(labelled))):
            labelled[number] = (*labelled[number][:4], speaker)
    return labelled


def _spoken(
    segment: int, rows: Iterable[_WordRow], speakers: tuple[int | None, ...], text: str, source: str
) -> SpokenCaption:
    return SpokenCaption(segment, speakers, spoken_texts(_words(rows), speakers, text), source)


def _speakers(rows: Sequence[_WordRow]) -> tuple[int | None, ...]:
    """Those of the words up to the last that has one; where one is not known, the one before."""
    told = [number for number, row in enumerate(rows) if row[4] is not None]
    if not told:
        return ()
    first = rows[told[0]][4]
    known = (row[4] for row in rows[: told[-1] + 1])
    carried = accumulate(known, lambda before, now: before if now is None else now, initial=first)
    return tuple(carried)[1:]
