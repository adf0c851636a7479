"""Ten minutes of held-out sentences in one stream, and where what is heard of them differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import jiwer
import numpy as np
from numpy.typing import NDArray
from support.held_out import VOICES, recording

RATE = 16_000
TEN_MINUTES = 600 * RATE
SHORTEST_GAP, LONGEST_GAP, NO_GAP = 0.2, 20.0, 0.05  # seconds
TAIL = 0.08  # seconds of a sentence's recording past its end


@dataclass(frozen=True)
class HeldOutClip:
    """One held-out sentence in one voice; float32 [n] at 16 kHz."""

    name: str
    text: str
    samples: NDArray[np.float32]

    def alone(self) -> NDArray[np.float32]:
        """With half a second of silence before it and a second after it."""
        return np.pad(self.samples, (RATE // 2, RATE))


@dataclass(frozen=True)
class LongStream:
    """Clips one after another; ``ends`` are the samples at which the gaps after them are over."""

    samples: NDArray[np.float32]
    clips: tuple[HeldOutClip, ...]
    ends: tuple[int, ...]

    @property
    def text(self) -> str:
        return " ".join(clip.text for clip in self.clips)


def held_out_clips() -> list[HeldOutClip]:
    """Every sentence of the recordings, cut out."""
    return [
        HeldOutClip(
            f"{one.name} {n}", said.text, one.samples[_at(said.start) : _at(said.end + TAIL)]
        )
        for one in map(recording, (f"{voice}.opus" for voice in VOICES))
        for n, said in enumerate(one.sentences)
    ]


def stream(clips: list[HeldOutClip], seed: int, *, pauses: bool) -> LongStream:
    """Ten minutes in random order; pauses are even in their logarithm."""
    rng = np.random.default_rng(seed)
    lead, end = np.zeros(RATE // 2, np.float32), np.zeros(RATE, np.float32)
    said, parts, lengths = [], [lead], [len(lead)]
    while sum(lengths) < TEN_MINUTES:
        clip = clips[rng.integers(len(clips))]
        gap = np.exp(rng.uniform(np.log(SHORTEST_GAP), np.log(LONGEST_GAP))) if pauses else NO_GAP
        said.append(clip)
        parts += [clip.samples, np.zeros(_at(gap), np.float32)]
        lengths.append(len(clip.samples) + len(parts[-1]))
    ends = tuple(accumulate(lengths))[1:]
    return LongStream(np.concatenate([*parts, end]), tuple(said), ends)


@dataclass(frozen=True)
class Seams:
    """Words lost and added where one sentence meets the next, where flushes and resets fall."""

    lost: tuple[str, ...]
    added: tuple[str, ...]


def at_seams(sentences: list[str], heard: str) -> Seams:
    """Align what was heard with all that was said; count only beside the joints."""
    words, said = " ".join(sentences).split(), heard.split()
    joints = {0, *accumulate(len(sentence.split()) for sentence in sentences)}
    lost: list[str] = []
    added: list[str] = []
    for chunk in jiwer.process_words(" ".join(words), heard).alignments[0]:
        if chunk.type == "delete":
            gone = range(chunk.ref_start_idx, chunk.ref_end_idx)
            lost += [words[i] for i in gone if not joints.isdisjoint((i, i + 1))]
        elif chunk.type == "insert" and chunk.ref_start_idx in joints:
            added += said[chunk.hyp_start_idx : chunk.hyp_end_idx]
    return Seams(tuple(lost), tuple(added))


def as_clips(one: LongStream, alone: Mapping[str, str]) -> tuple[float, Seams]:
    """Word error rate and seams of the same sentences, each heard as a session of its own."""
    truth = [clip.text for clip in one.clips]
    heard = [alone[clip.name] for clip in one.clips]
    edges = [at_seams([text], said) for text, said in zip(truth, heard, strict=True)]
    seams = Seams(sum((e.lost for e in edges), ()), sum((e.added for e in edges), ()))
    return jiwer.wer(truth, heard), seams


def _at(seconds: float) -> int:
    return int(seconds * RATE)
