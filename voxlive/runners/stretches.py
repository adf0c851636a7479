"""Long audio in stretches that a model can take at once: cut in pauses, their texts joined. Pure.

Windows and their speech probabilities go in, stretches on the file's clock come out. Silence is
left out, since models hallucinate there. Where no pause comes in time, the next stretch begins a
little before the end of the last one, and ``join`` finds the words of both, which then stand once.

The last words of the first text are laid on the first of the second where most of them are the
same. Beyond that place the first text ends, before it the second begins: what is cut off there are
the words that a stretch's edge cut in two.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from voxlive.vad.gate import WINDOW, Gate, GateOptions, Started, Stopped
from voxlive.values import SAMPLE_RATE, SPACELESS, Segment, Word, split_words

if TYPE_CHECKING:
    from voxlive.values import Samples


# Audio is left out only where speech is most unlikely: what is left out is lost, what is kept in
# vain costs a moment. Three windows below the exit are the shortest pause that is worth a cut.
_GATE = GateOptions(threshold=0.35, exit_threshold=0.2, min_speech_ms=64, min_silence_ms=96)
_MARGIN = SAMPLE_RATE * 3 // 10  # kept of the silence on each side of speech: first syllables
# Beside the speech before it: in a pause so quiet there is not even the tone of a room, in one so
# loud a detector does not hear speech.
_EMPTY_DB, _LOUD_DB = -40.0, -10.0
_TINY = 1e-12
_HOLD = 2 * WINDOW  # the gate is sure of a window this much later


@dataclass(frozen=True, slots=True)
class CutOptions:
    """``longest_s`` bounds a stretch. A pause of ``longest_pause_s`` always ends one.

    One of ``pause_s`` does where there is nothing at all in it, as between recordings: what a model
    hears in such silence are words that nobody said, and in any other it hears how the sentence
    goes on. Where a pause is loud, as much of it is kept behind the speech. ``overlap_s`` is in
    two stretches where one has to end in the middle of speech.
    """

    longest_s: float
    pause_s: float = 2.0
    overlap_s: float = 2.0
    longest_pause_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.overlap_s <= self.longest_s / 4 or self.pause_s * SAMPLE_RATE <= _MARGIN:
            raise ValueError(f"no audio can be cut like this: {self}")


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Audio for one call of a model: float32 mono [n] at 16 kHz from sample ``start`` of the file.

    The stretch before it ends with its first ``lead`` samples, the one after it begins with its
    last ``trail``.
    """

    start: int
    samples: Samples
    lead: int = 0
    trail: int = 0

    @property
    def end(self) -> int:
        """One past its last sample, on the file's clock."""
        return self.start + len(self.samples)

    def halves(self, overlap: int) -> tuple[Stretch, Stretch]:
        """Itself in two, which share ``overlap`` samples in the middle."""
        at = (len(self.samples) - overlap) // 2
        return (
            Stretch(self.start, self.samples[: at + overlap], self.lead, overlap),
            Stretch(self.start + at, self.samples[at:], overlap, self.trail),
        )


class Cutter:
    """One file's cuts. It holds no more than a stretch, what was pushed last, and a margin."""

    def __init__(self, options: CutOptions) -> None:
        self._longest = int(options.longest_s * SAMPLE_RATE)
        self._pause = int(options.pause_s * SAMPLE_RATE)
        self._overlap = int(options.overlap_s * SAMPLE_RATE)
        self._longest_pause = max(self._pause, int(options.longest_pause_s * SAMPLE_RATE))
        self._gate = Gate(_GATE, trail=0)
        self._held = _Held()
        self._spans: deque[_Span] = deque()  # speech that was not given out yet; only the last open
        self._given = 0  # end of the last stretch, or of what was left out
        self._lead = 0

    def push(self, samples: Samples, probabilities: Iterable[float]) -> Iterator[Stretch]:
        """Take whole windows with their probabilities; what is complete comes out."""
        self._held.add(samples)
        at = self._held.end - len(samples)
        for probability in probabilities:
            self._follow(self._gate.push(probability))
            at += WINDOW
            yield from self._decide(at - _HOLD)

    def finish(self, rest: Samples) -> Iterator[Stretch]:
        """Take the samples after the last whole window; everything left comes out."""
        self._held.add(rest)
        total = self._held.end
        self._follow(self._gate.finish(total))
        yield from self._decide(total)
        if self._spans:
            yield self._give(self._begin(), self._end_of(total))

    def _end_of(self, known: int) -> int:
        """Where a stretch ends behind the last speech: in what is loud there may be more."""
        end = self._spans[-1].end
        margin = self._longest_pause if self._loudness(end, known) > _LOUD_DB else _MARGIN
        return min(known, end + margin)

    def _is_empty(self, known: int) -> bool:
        """Whether there is nothing at all in the last second of the pause."""
        begin = max(self._spans[-1].end, known - SAMPLE_RATE)
        return self._loudness(begin, known) < _EMPTY_DB

    def _loudness(self, begin: int, end: int) -> float:
        """Of a part of the pause behind the last speech, in dB beside that speech."""
        speech = self._spans[-1].power
        return 10 * math.log10((self._held.power(begin, end) + _TINY) / (speech + _TINY))

    def _follow(self, actions: Iterable[object]) -> None:
        for action in actions:
            match action:
                case Started(at):
                    self._spans.append(_Span(max(at, self._given)))
                case Stopped(at):
                    span = self._spans[-1]
                    span.end, span.open = at, False
                    span.power = self._held.power(span.start, at)

    def _decide(self, known: int) -> Iterator[Stretch]:
        """Give out what must or may end before ``known``, up to which speech is decided."""
        if not self._spans:
            self._leave_out(known - _MARGIN)
            return
        if self._spans[-1].open:
            self._spans[-1].end = max(self._spans[-1].end, known)
        while self._spans and known - self._begin() > self._longest:
            yield self._cut(self._begin(), known)
        if self._spans and not self._spans[-1].open:
            pause = known - self._spans[-1].end
            if pause >= self._longest_pause or (pause >= self._pause and self._is_empty(known)):
                yield self._give(self._begin(), self._end_of(known))

    def _begin(self) -> int:
        if self._lead:
            return self._given - self._lead
        return max(self._given, self._spans[0].start - _MARGIN)

    def _cut(self, begin: int, known: int) -> Stretch:
        """End a stretch in its longest pause, the later half first; without one, in speech.

        One that goes on to the most a stretch may have counts, however early it begins.
        """
        top = begin + self._longest
        pauses = list(self._pauses(begin, top, known))
        for least in (begin + self._longest // 2, begin + self._longest // 8):
            if late := [pause for pause in pauses if pause[0] >= least or pause[1] >= top]:
                start, end = max(late, key=lambda pause: pause[1] - pause[0])
                return self._give(begin, min(start + min(_MARGIN, (end - start + 1) // 2), top))
        return self._give(begin, top, self._overlap)

    def _pauses(self, begin: int, top: int, known: int) -> Iterator[tuple[int, int]]:
        """Start and end of each pause that begins before ``top``; the last may have no end yet."""
        spans = list(self._spans)
        for span, following in zip(spans, [*spans[1:], None], strict=True):
            if begin < span.end <= top and (following or not span.open):
                yield span.end, following.start if following else known

    def _give(self, begin: int, end: int, trail: int = 0) -> Stretch:
        """The stretch from ``begin`` to ``end``; speech before its end is done with."""
        stretch = Stretch(begin, self._held.copy(begin, end), self._lead, trail)
        self._given, self._lead = end, trail
        while self._spans and self._spans[0].end <= end and not self._spans[0].open:
            self._spans.popleft()
        if self._spans:
            self._spans[0].start = max(self._spans[0].start, end - trail)
        self._held.drop(end - trail)
        return stretch

    def _leave_out(self, upto: int) -> None:
        self._given = max(self._given, upto)
        self._held.drop(self._given)


@dataclass(slots=True)
class _Span:
    """Speech from ``start`` to ``end``; ``open`` while it goes on, then it has a mean ``power``."""

    start: int
    end: int = 0
    open: bool = True
    power: float = 0.0


class _Held:
    """Samples that were pushed and not dropped yet, by their place on the clock."""

    def __init__(self) -> None:
        self._pieces: deque[Samples] = deque()
        self._start = 0
        self.end = 0

    def add(self, samples: Samples) -> None:
        if len(samples):
            self._pieces.append(samples)
            self.end += len(samples)

    def drop(self, upto: int) -> None:
        while self._pieces and self._start + len(self._pieces[0]) <= upto:
            self._start += len(self._pieces.popleft())

    def power(self, begin: int, end: int) -> float:
        """The mean square of the samples that are held from ``begin`` to ``end``."""
        total, count, at = 0.0, 0, self._start
        for piece in self._pieces:
            part = piece[max(begin - at, 0) : max(end - at, 0)]
            total, count, at = total + float(part @ part), count + len(part), at + len(piece)
        return total / max(count, 1)

    def copy(self, begin: int, end: int) -> Samples:
        return np.concatenate(self._pieces)[begin - self._start : end - self._start]


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
