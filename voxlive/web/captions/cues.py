"""Captions as WebVTT cues, each as soon as it is complete. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from voxlive.runners.outputs.subtitles import Cue, CueStyle, cues, vtt_cue
from voxlive.streaming.events import Words
from voxlive.values import Segment, Word, seconds
from voxlive.web.captions.events import Caption, CaptionSnapshot, ClosedCaption

HEADER = "WEBVTT\n\n"


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
