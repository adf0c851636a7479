"""What is heard of one of a client's sources: what still may change, and what is final."""

from __future__ import annotations

from collections.abc import Sequence

from ...streaming.clock import SAMPLE_RATE, seconds
from ...streaming.events import Word

Said = dict[str, object]

# A final that a speaker does not end by a pause.
_LONGEST = 10 * SAMPLE_RATE
_SAMPLE = 2


class Source:
    """One source, whose first sample is sample ``begin`` of the connection."""

    def __init__(self, name: str, begin: int) -> None:
        self.name = name
        self._begin = begin
        self.behind_s = 0.0
        self._bytes = 0
        self._open: list[Word] = []
        self._draft = ""
        self._upto = 0
        self._changed = False

    @property
    def received(self) -> int:
        """Where its audio ends on the connection's clock."""
        return self._begin + self._bytes // _SAMPLE

    def hear(self, audio: bytes) -> None:
        """Count audio that was received."""
        self._bytes += len(audio)

    def draft(self, text: str) -> None:
        """What may still change after the words."""
        self._changed |= text != self._draft
        self._draft = text

    def commit(self, words: Sequence[Word]) -> list[Said]:
        """Add words; the finals that have become long enough."""
        finals: list[Said] = []
        for word in words:
            if self._open and word.end - self._open[0].start > _LONGEST:
                finals += self.close()
            self._open.append(word)
        self._changed = True
        return finals

    def close(self) -> list[Said]:
        """The open words as a final, if there are any."""
        if not self._open:
            return []
        words, self._open = self._open, []
        self._upto = words[-1].end
        known = [word.p for word in words if word.p is not None]
        sure = round(sum(known) / len(known), 4) if len(known) == len(words) else None
        start, end = self._begin + words[0].start, self._begin + words[-1].end
        return [self._said(_text(words), start, end, sure)]

    def partial(self) -> Said | None:
        """What is not final, if it has changed. It ends with the audio: a draft has no times."""
        if not self._changed:
            return None
        self._changed = False
        start = self._begin + (self._open[0].start if self._open else self._upto)
        return self._said(_text(self._open) + self._draft, start, max(start, self.received), None)

    def _said(self, text: str, start: int, end: int, confidence: float | None) -> Said:
        return {
            "text": text.strip(),
            "t0": seconds(start),
            "t1": seconds(end),
            "confidence": confidence,
            "source": self.name,
        }


def _text(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)
