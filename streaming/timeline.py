"""Where on the session's clock an engine's audio stands, silence having been left out of it."""

from __future__ import annotations

from bisect import bisect_right


class Timeline:
    """Offsets into the audio fed to an engine, mapped to the session's clock. Pure."""

    def __init__(self) -> None:
        self._offsets: list[int] = []
        self._clocks: list[int] = []
        self.length = 0

    def extend(self, at: int, samples: int) -> None:
        """Samples were fed that begin at ``at`` on the clock."""
        if not samples:
            return
        if not self._offsets or self.clock(self.length) != at:
            self._offsets.append(self.length)
            self._clocks.append(at)
        self.length += samples

    def clock(self, offset: int, *, end: bool = True) -> int:
        """The clock of an offset; as an ``end`` it belongs to the audio before it.

        Offsets beyond the audio fed are taken for its end. Raises IndexError before any audio.
        """
        offset = min(offset, self.length)
        piece = bisect_right(self._offsets, offset - 1 if end else offset) - 1
        piece = max(0, piece)
        return self._clocks[piece] + offset - self._offsets[piece]

    def forget(self, offset: int) -> None:
        """No offset before this one will be asked for again."""
        piece = bisect_right(self._offsets, offset) - 1
        if piece > 0:
            del self._offsets[:piece], self._clocks[:piece]
