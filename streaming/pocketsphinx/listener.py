"""One stream as its worker hears it: audio in, messages out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..clock import SAMPLE_RATE
from ..engine import Committed, Drafted, Message, Progressed, Reached
from ..events import Word
from ..timeline import Timeline
from .decode import Pcm, Recognizer

MAX_UTTERANCE = 20 * SAMPLE_RATE
"""Speech without a pause is cut when it has become this long."""
CUT_WITHIN = 6 * SAMPLE_RATE
"""It is cut at its quietest point in this much of its end."""
STEP = SAMPLE_RATE // 5
"""A draft follows the audio in steps of at least this."""
HEAD = 7 * SAMPLE_RATE // 10
"""What a cepstral mean takes: a stream's first draft waits for it (its word error rate on clean
speech is 0.18 with PocketSphinx's initial mean, 0.15 with that of 0.4 s, 0.09 with that of 0.7 s,
0.07 with that of a whole utterance)."""
_QUIET = SAMPLE_RATE // 10


class Listener:
    """The utterance under way and, from the last one, its cepstral mean.

    It holds at most ``MAX_UTTERANCE`` samples.
    """

    def __init__(self, recognizer: Recognizer, *, drafts: bool) -> None:
        self._recognizer = recognizer
        self._drafts = drafts
        self._pcm = np.empty(MAX_UTTERANCE, np.int16)
        # Where the fed audio stands; the utterance begins at offset ``_base`` of it.
        self._timeline = Timeline()
        self._base = 0
        self._drafted = 0
        self._draft = ""
        self._mean: str | None = None
        recognizer.drop_draft()

    def audio(self, pcm: Pcm, at: int) -> Iterator[Message]:
        """Hear int16 samples [n], the first of which stands at ``at`` on the session's clock."""
        while len(pcm):
            room = MAX_UTTERANCE - self._length
            part, pcm = pcm[:room], pcm[room:]
            self._pcm[self._length : self._length + len(part)] = part
            self._timeline.extend(at, len(part))
            at += len(part)
            yield from self._sketch()
            if self._length == MAX_UTTERANCE:
                yield from self._commit(quietest(self._pcm))
                yield from self._sketch()

    def end(self, marker: int) -> Iterator[Message]:
        """The utterance is over: its words, then the marker."""
        if self._length:
            yield from self._commit(self._length)
        yield Reached(marker)

    @property
    def _length(self) -> int:
        return self._timeline.length - self._base

    def _sketch(self) -> Iterator[Message]:
        """Let the draft catch up, once there is a step to take."""
        drafting = self._recognizer.drafting
        new = self._pcm[self._drafted : self._length]
        if not self._drafts or len(new) < (STEP if drafting or self._mean else HEAD):
            return
        self._drafted = self._length
        if not drafting:
            self._mean = self._mean or self._recognizer.mean(new)
            if self._mean:
                self._recognizer.start_draft(self._mean)
        if self._recognizer.drafting:
            text = self._recognizer.draft(new)
            yield from self._say(" " + text if text else "")
        yield Progressed(self._timeline.clock(self._timeline.length))

    def _commit(self, samples: int) -> Iterator[Message]:
        """The words of the utterance's first ``samples``; the rest begins the next one."""
        heard, mean = self._recognizer.words(self._pcm[:samples])
        if mean and (samples >= HEAD or not self._mean):
            self._mean = mean
        base, clock = self._base, self._timeline.clock
        words = tuple(
            Word(f" {w.text}", clock(base + w.start, end=False), clock(base + w.end), w.p)
            for w in heard
        )
        if words:
            yield Committed(words)
        yield from self._say("")
        yield Progressed(clock(base + samples))
        rest = self._length - samples
        self._pcm[:rest] = self._pcm[samples : samples + rest].copy()
        self._base += samples
        self._timeline.forget(self._base)
        self._drafted = 0

    def _say(self, draft: str) -> Iterator[Message]:
        if draft != self._draft:
            self._draft = draft
            yield Drafted(draft)


def quietest(pcm: Pcm) -> int:
    """The middle of the 100 ms of least energy in the last ``CUT_WITHIN`` of int16 [n]."""
    energy = np.concatenate([[0.0], np.cumsum(pcm.astype(np.float64) ** 2)])
    first = max(0, len(pcm) - CUT_WITHIN)
    windows = energy[first + _QUIET :] - energy[first:-_QUIET]
    return first + int(np.argmin(windows)) + _QUIET // 2
