"""A recogniser without a model: the audio itself says which words are in it.

A word is WORD samples of one level from a half to one; zeros are silence. So what should be
recognised is known for any piece of audio, and a script may have passes err in the ways that models
do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from voxlive.recognisers.contract import PADDED, PassOptions, RecogniserInfo, Recognition
from voxlive.values import SAMPLE_RATE, Samples, Segment, Word

WORD = SAMPLE_RATE // 2
LEVELS = 500
Script = Callable[[list[Word], int, PassOptions], list[Word]]
"""From the right words, the number of the pass and its options: what the pass says."""


def spoken(*words: int) -> Samples:
    """Audio of words by their numbers; 0 is half a second of silence."""
    levels = [(LEVELS + number) / (2 * LEVELS) if number else 0 for number in words]
    return np.repeat(np.array(levels, np.float32), WORD)


def words_in(samples: Samples) -> list[Word]:
    """The whole words in audio, with their places in it."""
    found: list[Word] = []
    edges = [0, *(np.flatnonzero(np.diff(samples)) + 1), len(samples)]
    for start, end in pairwise(edges):
        number = round(float(samples[start]) * 2 * LEVELS) - LEVELS if end > start else 0
        places = range(int(start), int(end) - WORD // 2 + 1, WORD) if number > 0 else ()
        found += [Word(f" w{number}", at, min(at + WORD, int(end)), 0.9) for at in places]
    return found


class ScriptedRecogniser:
    """Finds what is in the audio, changed by ``script``. ``gate``: passes wait until it is set.

    ``longest``: a pass that has a limit of tokens is cut short by it from so many words on.
    """

    def __init__(self, script: Script | None = None) -> None:
        self._script = script
        self._lock = threading.Lock()
        self.longest: int | None = None
        self.passes = 0
        self.lengths: list[int] = []
        self.languages: list[str | None] = []
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    @property
    def info(self) -> RecogniserInfo:
        """English only."""
        return RecogniserInfo("scripted", ("en",), 30.0, "cpu", "none", continues=True)

    def recognise(
        self,
        samples: Samples,
        language: str | None = None,
        task: str = "transcribe",
        vocabulary: tuple[str, ...] = (),
        how: PassOptions = PADDED,
    ) -> Recognition:
        """As the contract."""
        self.gate.wait()
        with self._lock:
            number = self.passes
            self.passes += 1
            self.lengths.append(len(samples))
            self.languages.append(language)
        words = words_in(samples)
        if how.before:
            words = [word for word in words if word.start + word.end >= 2 * how.before.end]
        if self._script:
            words = self._script(words, number, how)
        text = "".join(word.text for word in words)
        segment = Segment(0, text, 0, len(samples), tuple(words))
        found = None if language else "de"
        limited = self.longest is not None and how.max_tokens is not None
        cut_short = limited and len(words) > self.longest
        return Recognition((segment,) if words else (), found, cut_short=cut_short)

    def languages_of(self, samples: Samples) -> tuple[tuple[str, float], ...]:
        """As the contract."""
        return (("en", 1.0),)

    def close(self) -> None:
        """As the contract."""
        self.closed = True
