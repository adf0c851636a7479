"""A session's words as WebVTT cues, each as soon as it is complete. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...runners.contract import Segment, TimedWord
from ...runners.subtitles import Cue, CueStyle, cues, vtt_cue
from ...streaming.clock import seconds
from ...streaming.events import Word, Words
from .feed import Caption, Closed, Snapshot

HEADER = "WEBVTT\n\n"


class LiveCues:
    """Words in, cues out. A cue is said once the words after it can no longer join it."""

    def __init__(self, style: CueStyle | None = None) -> None:
        self._style = style
        self._words: list[TimedWord] = []
        self._said = 0  # words of the open segment that are in cues already
        self._until_ms = 0

    def heard(self, caption: Caption) -> str:
        """The cues that this completes, as WebVTT blocks."""
        match caption:
            case Snapshot(segments, words, _):
                return "".join(map(self.heard, segments)) + self._more(words)
            case Words(_, words):
                return self._more(words)
            case Closed(_, _, _, _, words, received):
                self._words = [_timed(word) for word in words]
                return self._cut(None if received is None else seconds(received), whole=True)
            case _:
                return ""

    def _more(self, words: Iterable[Word]) -> str:
        self._words += [_timed(word) for word in words]
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


def _timed(word: Word) -> TimedWord:
    return TimedWord(word.text, seconds(word.start), seconds(word.end), word.p)
