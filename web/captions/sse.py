"""A session's captions as server-sent events. Pure."""

from __future__ import annotations

import json

from ...streaming.clock import seconds
from ...streaming.events import Draft, Word, Words
from .feed import Caption, Closed, Snapshot

KEEP_ALIVE = ": still here\n\n"
DONE = "event: done\ndata: {}\n\n"


def event(caption: Caption) -> str:
    """One event; times are seconds on the session's clock."""
    match caption:
        case Snapshot(segments, words, draft):
            closed = [_closed(segment) for segment in segments]
            return _event("snapshot", segments=closed, words=_words(words), draft=draft)
        case Words(segment, words):
            return _event("words", segment=segment, text=caption.text, words=_words(words))
        case Draft(segment, text):
            return _event("draft", segment=segment, text=text)
        case Closed():
            return _event("segment", **_closed(caption))


def _closed(segment: Closed) -> dict[str, object]:
    start, end = seconds(segment.start), seconds(segment.end)
    return {"id": segment.id, "start": start, "end": end, "text": segment.text}


def _words(words: tuple[Word, ...]) -> list[dict[str, object]]:
    return [{"text": w.text, "start": seconds(w.start), "end": seconds(w.end)} for w in words]


def _event(kind: str, **values: object) -> str:
    # JSON on one line: a line break in the data would be read as another field.
    return f"event: {kind}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n"
