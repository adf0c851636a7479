"""The silence after a word that Deepgram's ``UtteranceEnd`` tells."""

from __future__ import annotations

from collections import deque

from ...streaming.clock import SAMPLE_RATE

_MOST_ONSETS = 100


class Gap:
    """When to say ``UtteranceEnd``: the first time that ``ms`` pass after a final word in silence.

    The sample clock decides wherever speech or the end of the audio tells it, and the time that
    passes while nothing is heard.
    """

    def __init__(self, ms: int | None) -> None:
        self._wanted = ms
        self._samples = (ms or 0) * SAMPLE_RATE // 1000
        self._last: int | None = None
        self._left_s: float | None = None  # None: the speech of the last word goes on
        # Speech whose end has not been told. Only a stream without any pause could fill this up.
        self._onsets: deque[int] = deque(maxlen=_MOST_ONSETS)

    def said(self, end: int) -> None:
        """A final word ends at this sample."""
        self._last = end if self._wanted else None
        self._left_s = None

    def started(self, at: int) -> None:
        """Speech, or the end of all audio."""
        self._onsets.append(at)

    def ended(self, upto: int) -> None:
        """A pause, the beginning of which lies before ``upto``."""
        while self._onsets and self._onsets[0] < upto:
            self._onsets.popleft()
        if self._last is not None:
            self._left_s = (self._samples - (upto - self._last)) / SAMPLE_RATE

    def over(self, passed_s: float) -> int | None:
        """The end of the last word if it is time to say so, ``passed_s`` after the last call."""
        last = self._last
        if last is None:
            return None
        if self._onsets:
            due = self._onsets[0] - last >= self._samples
        elif self._left_s is None:
            due = False
        else:
            self._left_s -= passed_s
            due = self._left_s <= 0
        if not due:
            return None
        self._last = self._left_s = None
        return last
