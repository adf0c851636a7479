"""Joins two texts of audio that overlaps: a word that both have stands once. Pure.

The last words of the first text are laid on the first of the second where most of them are the
same. Beyond that place the first text ends, before it the second begins: what is cut off there are
the words that a stretch's edge cut in two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from voxlive.values import SAMPLE_RATE, SPACELESS, Segment, Word, split_words

WORDS_PER_S = 8  # more than anybody speaks; characters, in scripts without spaces
_SLACK = SAMPLE_RATE // 2  # a model's word times are about so exact
_SPACELESS_END = re.compile(rf"[{SPACELESS}、。，？！：；]$")  # noqa: RUF001
_SPACELESS_START = re.compile(rf"^[{SPACELESS}、。，？！：；]")  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class _Piece:
    """A word of a text, with times or without."""

    text: str
    key: str
    timed: Word | None
    segment: int


@dataclass(frozen=True, slots=True)
class _Run:
    """``length`` words from ``first`` in the one list equal those from ``second`` in the other."""

    first: int
    second: int
    length: int


def join(
    before: Sequence[Segment], after: Sequence[Segment], start: int, end: int
) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """Both texts without what they have twice; the audio from ``start`` to ``end`` is in both.

    Where they have no word in common there, words with times are parted in its middle. Words
    without times all stay: one that stands twice can be seen, a lost one cannot.
    """
    first, second = _words(before), _words(after)
    most = math.ceil((end - start) * WORDS_PER_S / SAMPLE_RATE)
    tail = [word for word in first[-most:] if not word.timed or word.timed.end > start - _SLACK]
    head = [word for word in second[:most] if not word.timed or word.timed.start < end + _SLACK]
    kept, dropped = len(first), 0
    if run := _common(tail, head):
        kept += run.first + run.length - len(tail)
        dropped = run.second + run.length
    elif all(word.timed for word in (*tail, *head)):
        middle = (start + end) / 2
        kept -= sum(_middle(word) >= middle for word in tail)
        dropped = sum(_middle(word) < middle for word in head)
    return _rebuilt(before, first[:kept]), _rebuilt(after, second[dropped:])


def needs_space(before: str, after: str) -> bool:
    """Whether a space belongs between two pieces of text that bring none."""
    if not before or not after or before[-1].isspace() or after[0].isspace():
        return False
    return not (_SPACELESS_END.search(before) and _SPACELESS_START.search(after))


def _common(tail: Sequence[_Piece], head: Sequence[_Piece]) -> _Run | None:
    """The run of equal words that explains most: long, and with little cut off beside it."""
    best, most = None, (0, 1)
    lengths = [0] * (len(head) + 1)
    for i, word in enumerate(tail, 1):
        row = [0] * (len(head) + 1)
        for j, other in enumerate(head, 1):
            if word.key != other.key:
                continue
            length = row[j] = lengths[j - 1] + 1
            worth = _worth(length, len(tail) - i, j - length)
            if worth > most:
                best, most = _Run(i - length, j - length, length), worth
        lengths = row
    return best


def _worth(length: int, after: int, before: int) -> tuple[int, int]:
    """Of a run beside which so many words are cut off. One on each side is what an edge does."""
    beyond = max(after - 1, 0) + max(before - 1, 0)
    return 2 * (length - beyond), -after - before


def _words(segments: Sequence[Segment]) -> list[_Piece]:
    return [
        _Piece(text, _key(text), timed, number)
        for number, segment in enumerate(segments)
        for text, timed in _pieces(segment)
    ]


def _pieces(segment: Segment) -> list[tuple[str, Word | None]]:
    if segment.words:
        return [(word.text, word) for word in segment.words]
    return [(text, None) for text in split_words(segment.text)]


def _key(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold())) or text.strip()


def _middle(word: _Piece) -> float:
    return (word.timed.start + word.timed.end) / 2 if word.timed else 0.0


def _rebuilt(segments: Sequence[Segment], words: Sequence[_Piece]) -> tuple[Segment, ...]:
    """The segments with these of their words; those that lost all are gone."""
    rebuilt = []
    for number, segment in enumerate(segments):
        own = [word for word in words if word.segment == number]
        if len(own) == len(_pieces(segment)):
            rebuilt.append(segment)
        elif own:
            rebuilt.append(_cut(segment, own))
    return tuple(rebuilt)


def _cut(segment: Segment, own: Sequence[_Piece]) -> Segment:
    text = "".join(word.text for word in own)
    timed = tuple(word.timed for word in own if word.timed)
    if not timed:
        return replace(segment, text=text)
    return replace(segment, text=text, words=timed, start=timed[0].start, end=timed[-1].end)
