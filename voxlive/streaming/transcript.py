"""The transcript of a session: committed words in order, the segments they form, and the draft.

``LiveTranscript`` turns an engine's words into events. Times are samples at 16 kHz on the session's
clock. It grows with the text, about 1 KB for a minute of speech, and with nothing else.
"""

from __future__ import annotations

from dataclasses import replace

from voxlive.streaming.events import Draft, SegmentClosed, Words
from voxlive.values import Word


class LongText:
    """A text that grows for as long as a session lasts, kept as one object of bytes.

    An object for each word, in many sessions, would cost the garbage collector long passes.
    """

    def __init__(self) -> None:
        self._utf8 = bytearray()

    def append(self, text: str) -> None:
        """Add text at the end."""
        self._utf8 += text.encode("utf-8", "surrogatepass")

    def __str__(self) -> str:
        return self._utf8.decode("utf-8", "surrogatepass")


class LiveTranscript:
    """Turns an engine's words into events. Pure: no clock, no I/O.

    Every word keeps its own leading space, but for the first of the session: the joined texts of
    all words are the transcript, and those of a segment's words are the segment.
    """

    def __init__(self) -> None:
        self._closed = LongText()
        self._open: list[str] = []
        self._start = self._end = 0
        self._segment = 0
        self._draft = ""
        self._begun = False

    @property
    def text(self) -> str:
        """Everything committed so far."""
        return "".join((str(self._closed), *self._open))

    def commit(self, words: tuple[Word, ...]) -> Words | None:
        """Add words to the open segment; None if there are none."""
        if not words:
            return None
        if not self._begun:
            words = (replace(words[0], text=words[0].text.lstrip()), *words[1:])
            self._begun = True
        if not self._open:
            self._start = words[0].start
        self._end = words[-1].end
        self._open.extend(word.text for word in words)
        return Words(self._segment, words)

    def set_draft(self, text: str) -> Draft | None:
        """Replace the draft; None if it is the same as before."""
        text = text if self._begun else text.lstrip()
        if text == self._draft:
            return None
        self._draft = text
        return Draft(self._segment, text)

    def close_segment(self, received: int | None = None) -> SegmentClosed | None:
        """Close the open segment, with the samples ``received``; None if it has no words."""
        if not self._open:
            return None
        text = "".join(self._open)
        closed = SegmentClosed(self._segment, self._start, self._end, text, received)
        self._closed.append(closed.text)
        self._open.clear()
        self._segment += 1
        return closed
