"""Captions as values, of a live session or a stored one, and as server-sent events. Pure.

Times are samples on a session's clock, and seconds on the wire.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from voxlive.speakers.labels import SpeakerNamed
from voxlive.store.contract import Layer, StoredTranscript, StoredWord
from voxlive.streaming.events import Draft, Words
from voxlive.values import Word, seconds

KEEP_ALIVE = ": still here\n\n"
DONE = "event: done\ndata: {}\n\n"

_PLACE = re.compile(r"([\w:-]{1,64})/(\d{1,9})\.(\d{1,9})", re.ASCII)


class SpokenText(NamedTuple):
    """What one speaker says of a segment."""

    speaker: int | None
    text: str


@dataclass(frozen=True, slots=True)
class ClosedCaption:
    """A segment that is complete. ``start``, ``end`` and ``received`` are in samples.

    ``received``: how much audio the session had received then, None if that is not known.
    ``speakers``: of each word, and ``parts`` the text by them, where any are known.
    """

    id: int
    start: int
    end: int
    text: str
    words: tuple[Word, ...]
    received: int | None = None
    source: str = ""
    speakers: tuple[int | None, ...] = ()
    parts: tuple[SpokenText, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenCaption:
    """The open segment of a source: its words, and the draft behind them.

    ``text`` is that of the words with people's corrections, ``segment`` its id if it has any.
    ``speakers`` and ``parts`` are as in ``ClosedCaption``.
    """

    words: tuple[Word, ...]
    draft: str
    source: str = ""
    segment: int | None = None
    text: str = ""
    speakers: tuple[int | None, ...] = ()
    parts: tuple[SpokenText, ...] = ()


@dataclass(frozen=True, slots=True)
class CaptionSnapshot:
    """What a new reader starts from: the last closed segments, the open one's words, the draft.

    In a session with several sources each has an open segment, in ``sources``. ``opened`` are those
    that have words. ``complete``: no segment that was asked for is missing. ``names``: what people
    call the speakers.
    """

    segments: tuple[ClosedCaption, ...]
    words: tuple[Word, ...]
    draft: str
    sources: tuple[OpenCaption, ...] = ()
    opened: tuple[OpenCaption, ...] = ()
    session: str = ""
    complete: bool = True
    names: tuple[SpeakerNamed, ...] = ()


@dataclass(frozen=True, slots=True)
class CorrectedCaption:
    """The text that a segment has now, since people have corrected it."""

    segment: int
    text: str


@dataclass(frozen=True, slots=True)
class SpokenCaption:
    """Whose the words of a segment are so far: ``speakers`` of each, ``parts`` the text by them."""

    segment: int
    speakers: tuple[int | None, ...]
    parts: tuple[SpokenText, ...]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader is: it has so many words of a session, with so many corrections."""

    session: str
    words: int
    corrections: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """From the id of an event; None for anything else."""
        found = _PLACE.fullmatch(text)
        return cls(found[1], int(found[2]), int(found[3])) if found else None

    def __str__(self) -> str:
        return f"{self.session}/{self.words}.{self.corrections}"


Caption = (
    CaptionSnapshot
    | Words
    | Draft
    | ClosedCaption
    | CorrectedCaption
    | SpokenCaption
    | SpeakerNamed
)


def sse_event(caption: Caption, place: str = "") -> str:
    """A caption as one server-sent event; times are seconds on the session's clock.

    ``place`` is the event's id, by which a reader goes on.
    """
    match caption:
        case CaptionSnapshot(segments, words, draft, sources, opened, session, complete):
            closed = [_closed_event(segment) for segment in segments]
            values = {"session": session, "segments": closed, "words": _words_event(words)}
            several = [
                {"source": each.source, "words": _words_event(each.words), "draft": each.draft}
                for each in sources
            ]
            texts = [
                {
                    "segment": each.segment,
                    "start": seconds(each.words[0].start),
                    "text": each.text,
                    **_parts(each.parts),
                    **_of(each.source),
                }
                for each in opened
            ]
            if caption.names:
                values["speakers"] = [_name(one) for one in caption.names]
            values |= {"draft": draft, **({"sources": several} if several else {})}
            return event("snapshot", {**values, "open": texts, "complete": complete}, place)
        case Words(segment, words, source):
            spoken = {"text": caption.text, "words": _words_event(words)}
            return event("words", {"segment": segment, **spoken, **_of(source)}, place)
        case Draft(segment, text, source):
            return event("draft", {"segment": segment, "text": text, **_of(source)}, place)
        case ClosedCaption():
            return event("segment", _closed_event(caption), place)
        case CorrectedCaption(segment, text):
            return event("corrected", {"segment": segment, "text": text}, place)
        case SpokenCaption(segment, _, parts, source):
            return event("speakers", {"segment": segment, **_parts(parts), **_of(source)}, place)
        case SpeakerNamed():
            return event("named", _name(caption), place)


def _of(source: str) -> dict[str, str]:
    return {"source": source} if source else {}


def _parts(parts: tuple[SpokenText, ...]) -> dict[str, object]:
    return {"parts": [part._asdict() for part in parts]} if parts else {}


def _name(named: SpeakerNamed) -> dict[str, object]:
    return {"speaker": named.speaker, "name": named.name, **_of(named.source)}


def _closed_event(segment: ClosedCaption) -> dict[str, object]:
    start, end = seconds(segment.start), seconds(segment.end)
    times = {"start": start, "end": end}
    spoken = {"text": segment.text, **_parts(segment.parts), **_of(segment.source)}
    return {"id": segment.id, **times, **spoken}


def _words_event(words: tuple[Word, ...]) -> list[dict[str, object]]:
    return [{"text": w.text, "start": seconds(w.start), "end": seconds(w.end)} for w in words]


def event(kind: str, values: Mapping[str, object], place: str = "") -> str:
    """A server-sent event; ``place`` is its id."""
    # JSON on one line: a line break in the data would be read as another field.
    ident = f"id: {place}\n" if place else ""
    return f"event: {kind}\n{ident}data: {json.dumps(values, ensure_ascii=False)}\n\n"


def closed_captions(
    transcript: StoredTranscript, layer: Layer = "corrected"
) -> tuple[ClosedCaption, ...]:
    """The segments of a session in the store without their words, in order; open ones too."""
    spoken: dict[int, list[StoredWord]] = {}
    for word in transcript.shown(layer):
        spoken.setdefault(word.segment, []).append(word)
    closed = {one.id: one for one in transcript.segments}
    found = []
    for segment, words in spoken.items():
        start, end = words[0].start, words[-1].end
        if segment in closed:
            start, end = closed[segment].start, closed[segment].end
        text = "".join(word.text for word in words)
        found.append(ClosedCaption(segment, start, end, text, (), source=words[0].source))
    return tuple(found)


def corrected_segments(transcript: StoredTranscript) -> dict[int, tuple[str, int]]:
    """The texts of the segments in which people have corrected words, and how many words of each.

    A segment that is open may get more words behind those.
    """
    if not transcript.corrections:
        return {}
    changed = {n for one in transcript.corrections for n in range(one.first, one.stop)}
    texts = {word.segment: "" for word in transcript.words if word.number in changed}
    count = Counter(word.segment for word in transcript.words)
    for word in transcript.corrected():
        if word.segment in texts:
            texts[word.segment] += word.text
    return {segment: (text, count[segment]) for segment, text in texts.items()}
