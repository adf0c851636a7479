"""Words to subtitle cues that can be read, and cues to SRT and WebVTT. Pure.

Unless told otherwise a cue has at most two lines of 42 characters and stays for 1 to 7 s: the usual
limits of subtitling (BBC Subtitle Guidelines; Netflix Timed Text Style Guide). Cues break where a
sentence, a clause or a breath ends, if that costs no more cues than it is worth.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from .contract import Segment, TimedWord

_PAUSE_MS = 1000
_BREATH_MS = 250
_SENTENCE_END = tuple(".!?…。！？؟।")  # noqa: RUF001
_CLAUSE_END = tuple(",;:—、，；：،")  # noqa: RUF001
_QUOTES = "\"'”’»)]"  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class CueStyle:
    """How much a cue may hold, in lines and characters, and how long it stays."""

    line: int = 42
    lines: int = 2
    shortest_ms: int = 1000
    longest_ms: int = 7000

    def __post_init__(self) -> None:
        if self.line < 1 or self.lines < 1 or not 0 < self.shortest_ms <= self.longest_ms:
            raise ValueError("a cue needs a line of a character and must not end before it starts")


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle of ``words`` words; times in milliseconds, never overlapping the next cue's."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    words: int = 1


def cues(segments: Iterable[Segment], style: CueStyle | None = None) -> list[Cue]:
    """Cues for every segment; a cue never spans two segments or a pause of 1 s.

    A segment whose words have no times is one cue, however long: to cut it, times would have to be
    made up. Raises ValueError for a segment that has no times at all.
    """
    layout = _Layout(style or CueStyle())
    groups = [
        (group, bool(segment.words))
        for segment in segments
        for run in _split_at_pauses(_timed(segment))
        for group in layout.cut(run)
    ]
    starts = [_ms(group[0].start) for group, _ in groups]
    found: list[Cue] = []
    for (group, timed), start, following in zip(groups, starts, [*starts[1:], None], strict=False):
        begin = max(start, found[-1].end_ms) if found else start
        end = layout.until(begin, _ms(group[-1].end), capped=timed)
        if following is not None:
            end = max(min(end, following), begin + 1)
        found.append(Cue(begin, end, layout.lines(group), len(group)))
    return found


def srt(found: Iterable[Cue]) -> str:
    """The cues as a SubRip file."""
    return "".join(
        f"{number}\n{stamp(cue.start_ms, ',')} --> {stamp(cue.end_ms, ',')}\n{_text(cue)}\n\n"
        for number, cue in enumerate(found, 1)
    )


def vtt(found: Iterable[Cue]) -> str:
    """The cues as a WebVTT file."""
    return "WEBVTT\n\n" + "".join(map(vtt_cue, found))


def vtt_cue(cue: Cue) -> str:
    """One cue as a block of a WebVTT file."""
    text = _text(cue).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{stamp(cue.start_ms, '.')} --> {stamp(cue.end_ms, '.')}\n{text}\n\n"


def stamp(ms: int, point: str) -> str:
    """Milliseconds as ``hh:mm:ss`` with thousandths after ``point``."""
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{ms:03}"


def _timed(segment: Segment) -> Sequence[TimedWord]:
    if segment.words:
        return segment.words
    if not segment.text.strip():
        return ()
    if segment.start is None or segment.end is None:
        raise ValueError("a segment without times cannot be a subtitle")
    return (TimedWord(segment.text, segment.start, segment.end),)


def _split_at_pauses(words: Sequence[TimedWord]) -> list[Sequence[TimedWord]]:
    cuts = [n for n, pair in enumerate(pairwise(words), 1) if _gap_ms(*pair) >= _PAUSE_MS]
    return [words[a:b] for a, b in pairwise([0, *cuts, len(words)]) if a < b]


class _Layout:
    """Words into cues and lines of one style."""

    def __init__(self, style: CueStyle) -> None:
        self._style = style

    def until(self, begin: int, end: int, *, capped: bool) -> int:
        """When a cue goes: its last word's end within the style's bounds, or its segment's end."""
        held = max(end, begin + self._style.shortest_ms)
        return min(held, begin + self._style.longest_ms) if capped else held

    def cut(self, words: Sequence[TimedWord]) -> list[Sequence[TimedWord]]:
        """The cheapest way to cut a run of words into cues (shortest path over the word gaps)."""
        ends = [0, *accumulate(len(word.text) for word in words)]
        best: list[tuple[float, int]] = [(0.0, 0)]
        for stop in range(1, len(words) + 1):
            ways = []
            for start in range(stop - 1, -1, -1):
                if start < stop - 1 and not self._fits(words, ends, start, stop):
                    break
                ways.append((best[start][0] + self._cost(words, start, stop), start))
            best.append(min(ways))
        groups: list[Sequence[TimedWord]] = []
        stop = len(words)
        while stop:
            start = best[stop][1]
            groups.append(words[start:stop])
            stop = start
        return groups[::-1]

    def lines(self, words: Sequence[TimedWord]) -> tuple[str, ...]:
        """One line, or two of about the same length, broken after a clause if one ends there."""
        whole, width = _join(words), self._style.line
        if len(whole) <= width:
            return (whole,)
        ways = []
        for at in range(1, len(words)):
            pair = (_join(words[:at]), _join(words[at:]))
            longest = max(map(len, pair))
            if longest <= width:
                ways.append((longest + 8 * _break_cost(words, at), pair))
        if ways and self._style.lines > 1:
            return min(ways)[1]
        return _wrap(whole, width)

    def _fits(self, words: Sequence[TimedWord], ends: Sequence[int], start: int, stop: int) -> bool:
        """Whether words[start:stop] are short enough for a cue and fill no more than its lines."""
        if _ms(words[stop - 1].end) - _ms(words[start].start) > self._style.longest_ms:
            return False
        for _ in range(self._style.lines):
            reach = ends[start] + _lead(words[start]) + self._style.line
            following = bisect_right(ends, reach, lo=start) - 1
            if following >= stop:
                return True
            if following == start:
                return False
            start = following
        return False

    def _cost(self, words: Sequence[TimedWord], start: int, stop: int) -> float:
        """One for the cue, one more for being brief, and the price of the place where it breaks."""
        lasts = _ms(words[stop - 1].end) - _ms(words[start].start)
        brief = lasts < self._style.shortest_ms
        return 1 + brief + (_break_cost(words, stop) if stop < len(words) else 0)


def _break_cost(words: Sequence[TimedWord], at: int) -> float:
    before = words[at - 1].text.rstrip(_QUOTES)
    if before.endswith(_SENTENCE_END):
        return 0
    if before.endswith(_CLAUSE_END) or _gap_ms(words[at - 1], words[at]) >= _BREATH_MS:
        return 0.3
    return 1.5


def _wrap(text: str, width: int) -> tuple[str, ...]:
    """Greedy lines; a run without a place to break, as in an unspaced script, is cut anywhere."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if len(joined) <= width:
            lines[-1] = joined
        else:
            lines += [word[at : at + width] for at in range(0, len(word), width)]
    return tuple(line for line in lines if line)


def _join(words: Iterable[TimedWord]) -> str:
    return " ".join("".join(word.text for word in words).split())


def _text(cue: Cue) -> str:
    return "\n".join(cue.lines)


def _lead(word: TimedWord) -> int:
    return len(word.text) - len(word.text.lstrip())


def _gap_ms(before: TimedWord, after: TimedWord) -> int:
    return _ms(after.start) - _ms(before.end)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
