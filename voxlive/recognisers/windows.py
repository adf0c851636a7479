"""A Whisper's window: its tokens as segments; and where long audio is best parted. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxlive.values import Samples

WINDOW = 3000
"""Frames of a whole window: 30 s."""
FRAMES_PER_S = 100
OPENING = "\"'“¿([{-"
CLOSING = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001
"""Punctuation that belongs to the word behind it, and to the word before it."""

_TOKENS_PER_S = 50
_QUIET = SAMPLE_RATE // 20  # samples over which loudness is measured


def split_tokens(
    tokens: Sequence[int], first_time: int, seek: int, frames: int
) -> tuple[list[dict[str, Any]], int]:
    """A window's tokens as segments in seconds, and how many of its frames they settle.

    Tokens from ``first_time`` on are times, 20 ms apart. Two of them in a row end one segment and
    begin the next; what is behind the last such pair is unfinished, and recognised again by the
    next window. One time at the very end means that nobody speaks behind it (OpenAI's
    ``transcribe.py``).
    """
    pairs = [at for at in range(1, len(tokens)) if min(tokens[at - 1], tokens[at]) >= first_time]
    finished = len(tokens) > 1 and tokens[-2] < first_time <= tokens[-1]
    offset = seek / FRAMES_PER_S
    if not pairs:
        times = [token - first_time for token in tokens if token > first_time]
        end = times[-1] / _TOKENS_PER_S if times else frames / FRAMES_PER_S
        return [_piece(tokens, offset, offset + end, seek)], frames
    cuts = [0, *pairs, *([len(tokens)] if finished else [])]
    pieces = [
        _piece(
            tokens[begin:end],
            offset + (tokens[begin] - first_time) / _TOKENS_PER_S,
            offset + (tokens[end - 1] - first_time) / _TOKENS_PER_S,
            seek,
        )
        for begin, end in itertools.pairwise(cuts)
    ]
    if finished:
        return pieces, frames
    settled = (tokens[cuts[-1] - 1] - first_time) * FRAMES_PER_S // _TOKENS_PER_S
    return pieces, max(1, settled)


def _piece(tokens: Sequence[int], start: float, end: float, seek: int) -> dict[str, Any]:
    """As the library's alignment of words takes it, and writes the words into it."""
    return {"seek": seek, "start": start, "end": end, "tokens": list(tokens)}


def quietest(audio: Samples, start: int, end: int) -> int:
    """The sample between ``start`` and ``end`` around which the audio is quietest."""
    return start + int(loudness(audio[start:end], _QUIET).argmin()) * _QUIET + _QUIET // 2


def loudness(audio: Samples, frame: int) -> NDArray[np.float64]:
    """The mean power of frames of so many samples, each with its two neighbours: float64 [n]."""
    frames = audio[: len(audio) // frame * frame].reshape(-1, frame)
    return np.convolve(np.square(frames).mean(axis=1), np.ones(3), "same")


def in_windows(audio: Samples, longest: int) -> Iterator[tuple[int, Samples]]:
    """Audio in parts of at most ``longest`` samples with their places, cut where it is quiet."""
    start = 0
    while len(audio) - start > longest:
        end = quietest(audio, start + longest * 2 // 3, start + longest)
        yield start, audio[start:end]
        start = end
    yield start, audio[start:]
