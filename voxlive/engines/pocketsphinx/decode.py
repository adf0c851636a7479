"""PocketSphinx in two passes over one utterance: a live draft, then the words that count.

Both passes are searches of one decoder, which share its acoustic model, dictionary and language
model. The draft leaves out the second and third search over the lattice. The final pass normalises
the whole utterance by its own cepstral mean and begins with fresh features, so that its words
depend on nothing but the utterance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from pocketsphinx import Decoder

Pcm = NDArray[np.int16]

FRAME = 160
"""Samples per frame: 100 frames a second."""
# Active HMMs per frame. 30000 is PocketSphinx's own; measured on clean and noisy speech, 5000
# costs no accuracy and halves the time in noise, and 3000 is enough for a draft.
_FINAL_HMMS = 5000
_DRAFT_HMMS = 3000
_DRAFT = "draft"
_MEAN = "mean"
_VARIANT = re.compile(r"\(\d+\)$")
_FILLERS = ("<", "[", "+")


@dataclass(frozen=True, slots=True)
class Heard:
    """A word with the samples it spans and its posterior in the lattice, if there is one."""

    text: str
    start: int
    end: int
    probability: float | None


class Recognizer:
    """One decoder. Its state is the draft that may be under way, and nothing else."""

    def __init__(self) -> None:
        self._decoder = Decoder(loglevel="FATAL", maxhmmpf=_FINAL_HMMS)
        config = self._decoder.config
        config["maxhmmpf"] = _DRAFT_HMMS
        config["fwdflat"] = config["bestpath"] = False
        self._decoder.add_lm(_DRAFT, self._decoder.get_lm())
        # Every pass searches, at its end if not before: for a mean alone in next to nothing.
        grammar = self._decoder.create_fsg(_MEAN, 0, 1, [(0, 1, 1.0, "yes")])
        self._decoder.add_fsg(_MEAN, grammar)
        self.drafting = False

    def start_draft(self, mean: str) -> None:
        """Begin a live pass over an utterance with this cepstral mean."""
        self.drop_draft()
        self._decoder.activate_search(_DRAFT)
        self._decoder.reinit_feat()
        self._decoder.set_cmn(mean)
        self._decoder.start_utt()
        self.drafting = True

    def draft(self, pcm: Pcm) -> str:
        """Hear more of the utterance, at least one sample; the text of all of it so far."""
        self._decoder.process_raw(pcm.tobytes())
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""

    def drafted(self, samples: int) -> tuple[str, str]:
        """The draft before and behind this many of its samples, a word by its middle."""
        texts: tuple[list[str], list[str]] = [], []
        for segment in self._decoder.seg() or ():
            if not segment.word.startswith(_FILLERS):
                middle = (segment.start_frame + segment.end_frame + 1) * FRAME // 2
                texts[middle >= samples].append(_VARIANT.sub("", segment.word))
        return " ".join(texts[0]), " ".join(texts[1])

    def drop_draft(self) -> None:
        """End the live pass, if there is one."""
        if self.drafting:
            self.drafting = False
            self._decoder.end_utt()

    def mean(self, pcm: Pcm) -> str | None:
        """The cepstral mean of audio; None if PocketSphinx finds nothing but silence in it."""
        self._pass(pcm, _MEAN)
        return self._mean()

    def words(self, pcm: Pcm) -> tuple[list[Heard], str | None]:
        """The words of a whole utterance in one pass, and its mean as ``mean`` gives it."""
        self._pass(pcm)
        mean = self._mean()
        # Without a mean every feature is NaN, and so the words are chance.
        segments = list(self._decoder.seg() or ()) if mean else []
        # Where the lattice has no path to the end every posterior is 1: that says nothing.
        known = any(segment.prob != 1.0 for segment in segments)
        return [
            Heard(
                _VARIANT.sub("", segment.word),
                min(segment.start_frame * FRAME, len(pcm)),
                min((segment.end_frame + 1) * FRAME, len(pcm)),
                min(segment.prob, 1.0) if known else None,
            )
            for segment in segments
            if not segment.word.startswith(_FILLERS)
        ], mean

    def probe(self) -> None:
        """Decode a built-in sound; RuntimeError if nothing comes of it."""
        self._pass(_buzz())
        if not list(self._decoder.seg() or ()):
            raise RuntimeError("PocketSphinx decodes nothing")

    def _pass(self, pcm: Pcm, search: str | None = None) -> None:
        self.drop_draft()
        self._decoder.activate_search(search)
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.tobytes(), full_utt=True)
        self._decoder.end_utt()

    def _mean(self) -> str | None:
        mean: str = self._decoder.get_cmn()
        return None if "nan" in mean else mean


@cache
def _buzz() -> Pcm:
    """0.3 s of a 120 Hz buzz that falls off like a voice."""
    t = np.arange(4800) / 16_000
    wave = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20))
    return (np.asarray(wave) * 4000).astype(np.int16)
