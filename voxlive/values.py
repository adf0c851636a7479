"""The values that all of voxlive shares: the sample clock, words, segments, audio in memory.

Every time is a count of 16 kHz samples since the first sample of its session or file. Seconds stand
only at the edges: ``seconds`` and ``samples`` convert.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE_RATE = 16_000

PAUSE_MS = 500
"""A pause this long ends an utterance, where neither the client nor the engine says another."""

SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Characters of scripts that put no spaces between words, for a regular expression."""
_WORD = re.compile(rf"\s*(?:[{SPACELESS}]|[^\s{SPACELESS}]+)")


@dataclass(frozen=True, slots=True)
class CodedWarning:
    """What a user should know of audio or a job: audio that was lost, an option without effect.

    ``code`` is stable, ``message`` is for people.
    """

    code: str
    message: str


if TYPE_CHECKING:
    Samples = NDArray[np.float32]
else:
    # Annotations are not evaluated, and a command that needs no audio does not wait for numpy.
    Samples = "NDArray[np.float32]"
"""Mono audio at 16 kHz, float32 [n] in -1..1."""


def seconds(samples: int) -> float:
    """Samples on the session's clock as seconds, rounded to the millisecond."""
    return round(samples / SAMPLE_RATE, 3)


def seconds_or_none(samples: int | None) -> float | None:
    """As ``seconds``; None for a time that is not known."""
    return None if samples is None else seconds(samples)


def samples(seconds: float) -> int:
    """Seconds as the nearest whole number of samples."""
    return round(seconds * SAMPLE_RATE)


class QuicklyPickled:
    """A base of frozen dataclasses with slots that pass between processes by the thousand.

    Their own way to be pickled looks their fields up anew each time and takes five times as long.
    """

    __slots__: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        """Made again by its class, from its fields in order."""
        return type(self), tuple([getattr(self, name) for name in self.__slots__])


@dataclass(frozen=True, slots=True)
class Word(QuicklyPickled):
    """One word that will not change; ``probability`` is 0 to 1, None where it is not known.

    ``text`` carries its own leading space, if its script has any. ``original`` is what was
    recognised where a dictionary has replaced it.
    """

    text: str
    start: int
    end: int
    probability: float | None = None
    original: str | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a file's text. What the model does not know is None: times, words, speaker.

    ``text`` carries its own leading space. ``details`` holds the model's own figures under OpenAI's
    names (``avg_logprob``, ``no_speech_prob``, ...).
    """

    id: int
    text: str
    start: int | None = None
    end: int | None = None
    words: tuple[Word, ...] | None = None
    speaker: str | None = None
    details: tuple[tuple[str, float | int | list[int]], ...] = ()

    def moved(self, by: int) -> Segment:
        """The segment ``by`` samples later; nothing begins before the first sample."""
        words = self.words and tuple(
            replace(word, start=max(0, word.start + by), end=max(0, word.end + by))
            for word in self.words
        )
        start = None if self.start is None else max(0, self.start + by)
        end = None if self.end is None else max(0, self.end + by)
        return replace(self, start=start, end=end, words=words)


def split_words(text: str) -> list[str]:
    """A text's words, each with the space before it; without spaces every character is one."""
    return _WORD.findall(text)


class Timeline:
    """Maps offsets into the audio fed to an engine to the session's clock. Pure.

    It keeps two numbers for each gap since the last offset that was forgotten.
    """

    def __init__(self) -> None:
        self._offsets: list[int] = []
        self._clocks: list[int] = []
        self.length = 0

    def extend(self, at: int, samples: int) -> None:
        """So many ``samples`` were fed, of which the first is sample ``at`` of the session."""
        if not samples:
            return
        if not self._offsets or self.clock(self.length) != at:
            self._offsets.append(self.length)
            self._clocks.append(at)
        self.length += samples

    def clock(self, offset: int, *, end: bool = True) -> int:
        """The session's sample at this offset; as an ``end`` it belongs to the audio before it.

        Offsets beyond the audio fed are taken for its end. Raises IndexError before any audio.
        """
        offset = min(offset, self.length)
        piece = bisect_right(self._offsets, offset - 1 if end else offset) - 1
        piece = max(0, piece)
        return self._clocks[piece] + offset - self._offsets[piece]

    def forget(self, offset: int) -> None:
        """Drop what is needed for earlier offsets only: none of them is looked up again."""
        piece = bisect_right(self._offsets, offset) - 1
        if piece > 0:
            del self._offsets[:piece], self._clocks[:piece]

    def cut(self, offset: int) -> None:
        """Forget what lies before this offset, at most the length; offsets count from there."""
        piece = bisect_right(self._offsets, offset) - 1
        if piece >= 0:
            clock = self._clocks[piece] + offset - self._offsets[piece]
            self._offsets = [0, *(at - offset for at in self._offsets[piece + 1 :])]
            self._clocks = [clock, *self._clocks[piece + 1 :]]
        self.length -= offset
