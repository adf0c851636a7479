"""One stream as its worker hears it: audio in, messages out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from voxlive.engines.contract import Committed, Drafted, Message, Progressed, Reached
from voxlive.engines.pocketsphinx.decode import Pcm, Recognizer
from voxlive.engines.pocketsphinx.passes import Passes, Result
from voxlive.values import SAMPLE_RATE, Timeline, Word

MAX_UTTERANCE = 20 * SAMPLE_RATE
"""Speech without a pause is cut when it has become this long."""
CUT_WITHIN = 6 * SAMPLE_RATE
"""It is cut at its quietest point in this much of its end."""
MAX_WAITING = 20 * SAMPLE_RATE
"""When this much waits for its final pass, the listener is ``full``."""
STEP = SAMPLE_RATE // 5
"""A draft follows the audio in steps of at least this."""
HEAD = 7 * SAMPLE_RATE // 10
"""What a cepstral mean takes that lasts: until then a stream's first draft begins anew with every
step (word error rates of drafts of clean speech are 0.18 with PocketSphinx's initial mean, 0.15
with that of 0.4 s, 0.09 with that of 0.7 s, 0.07 with that of a whole utterance)."""
_QUIET = SAMPLE_RATE // 10


@dataclass(frozen=True, slots=True)
class _Utterance:
    """One that is over, from offset ``base`` of the audio fed; what it shows, and what it owes."""

    pcm: Pcm
    base: int
    draft: str
    markers: list[int]


class PocketSphinxListener:
    """The utterance under way, those in their final pass or before it, and the newest mean.

    The draft goes on while final passes are made elsewhere: what is shown is what was drafted of
    all utterances without words. A search for drafts begins where an utterance does, or in
    mid-speech where one was cut: what was drafted behind the cut is kept.
    """

    def __init__(self, recognizer: Recognizer, passes: Passes, *, drafts: bool) -> None:
        self._recognizer = recognizer
        self._passes = passes
        self._drafts = drafts
        self._pcm = np.empty(MAX_UTTERANCE, np.int16)
        # Where the fed audio stands; the utterance begins at offset ``_base`` of it.
        self._timeline = Timeline()
        self._base = 0
        # The first is in its final pass.
        self._over: deque[_Utterance] = deque()
        # Into the utterance: where the search began, and up to where it has come.
        self._began = 0
        self._drafted = 0
        self._kept = ""
        self._live = ""
        self._said = ""
        self._progressed = 0
        self._mean: str | None = None
        recognizer.drop_draft()

    @property
    def full(self) -> bool:
        """Whether no more audio should come before a final pass is through."""
        return sum(len(utterance.pcm) for utterance in list(self._over)[1:]) >= MAX_WAITING

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
                yield from self._finish(quietest(self._pcm))

    def end(self, marker: int) -> Iterator[Message]:
        """The utterance is over: its words, once they are there, and then the marker."""
        if self._length:
            if self._recognizer.drafting:
                yield from self._sketch(least=1)
            yield from self._finish(self._length, marker)
        elif self._over:
            self._over[-1].markers.append(marker)
        else:
            yield Reached(marker)

    def collect(self) -> Iterator[Message]:
        """What follows from a final pass, if one is through."""
        while result := self._passes.take():
            utterance = self._over.popleft()
            if self._over:
                self._passes.start(self._over[0].pcm)
            yield from self._commit(utterance, result)

    @property
    def _length(self) -> int:
        return self._timeline.length - self._base

    @property
    def _shown(self) -> str:
        return "".join(utterance.draft for utterance in self._over) + self._kept + self._live

    def _sketch(self, least: int = STEP) -> Iterator[Message]:
        """Let the draft catch up, once there are so many samples to do."""
        if not self._drafts or self._length - self._drafted < least:
            return
        if not self._mean or not self._recognizer.drafting:
            self._search()
        if self._recognizer.drafting:
            new = self._pcm[self._drafted : self._length]
            self._live = _spaced(self._recognizer.draft(new))
            yield from self._say(self._shown)
        self._drafted = self._length
        yield from self._progress(self._timeline.length)

    def _search(self) -> None:
        """Begin behind what was drafted or, without a mean that lasts, where the last one did."""
        mean = self._mean
        if not mean:
            heard = self._pcm[self._began : self._length]
            mean = self._recognizer.mean(heard)
            enough = len(heard) >= HEAD
            self._mean = mean if enough else None
            # So much without a mean is nothing but silence.
            self._drafted = self._length if enough and not mean else self._began
        self._began = self._drafted
        if mean:
            self._recognizer.start_draft(mean)

    def _finish(self, samples: int, *markers: int) -> Iterator[Message]:
        """The utterance's first ``samples`` are over; the rest begins the next one."""
        draft, kept = self._kept + self._live, ""
        if samples < self._length and self._recognizer.drafting:
            before, after = self._recognizer.drafted(samples - self._began)
            draft, kept = self._kept + _spaced(before), _spaced(after)
        self._recognizer.drop_draft()
        self._kept, self._live = kept, ""
        pcm = self._pcm[:samples].copy()
        self._over.append(_Utterance(pcm, self._base, draft, list(markers)))
        rest = self._length - samples
        self._pcm[:rest] = self._pcm[samples : samples + rest].copy()
        self._base += samples
        self._began = self._drafted = max(0, self._drafted - samples)
        if len(self._over) == 1:
            self._passes.start(pcm)
        yield from self.collect()

    def _commit(self, utterance: _Utterance, result: Result) -> Iterator[Message]:
        heard, mean = result
        base, samples, clock = utterance.base, len(utterance.pcm), self._timeline.clock
        if mean and (samples >= HEAD or not self._mean):
            self._mean = mean
        words = tuple(
            Word(f" {w.text}", clock(base + w.start, end=False), clock(base + w.end), w.probability)
            for w in heard
        )
        if words:
            yield Committed(words)
        # A marker ends the segment, and with it what is shown of the next.
        yield from self._say("" if utterance.markers else self._shown)
        yield from self._progress(base + samples)
        self._timeline.forget(base + samples)
        for marker in utterance.markers:
            yield Reached(marker)
        yield from self._say(self._shown)

    def _progress(self, offset: int) -> Iterator[Message]:
        if offset > self._progressed:
            self._progressed = offset
            yield Progressed(self._timeline.clock(offset))

    def _say(self, draft: str) -> Iterator[Message]:
        if draft != self._said:
            self._said = draft
            yield Drafted(draft)


def quietest(pcm: Pcm) -> int:
    """The middle of the 100 ms of least energy in the last ``CUT_WITHIN`` of int16 [n]."""
    energy = np.concatenate([[0.0], np.cumsum(pcm.astype(np.float64) ** 2)])
    first = max(0, len(pcm) - CUT_WITHIN)
    windows = energy[first + _QUIET :] - energy[first:-_QUIET]
    return first + int(np.argmin(windows)) + _QUIET // 2


def _spaced(text: str) -> str:
    return " " + text if text else ""
