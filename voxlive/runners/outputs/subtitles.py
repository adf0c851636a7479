"""Words to subtitle cues that can be read, and cues to SRT and WebVTT. Pure.

Unless set otherwise a cue has at most two lines of 42 characters, of which wide ones count twice.
It stays for 1 to 7 s, long enough to be read at 20 characters a second where the next one leaves
time for that, and is gone 80 ms before the next: the usual limits of subtitling (BBC Subtitle
Guidelines; Netflix Timed Text Style Guide). Cues break where a sentence, a clause or a breath ends,
if that costs no more cues than it is worth.

The page lays out its subtitles by the same rules, in web/static/subtitles.js; cues that both make
are in tests/golden/subtitles.json.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from voxlive.values import Segment, Word, seconds

_PAUSE_MS = 1000
_BREATH_MS = 250
_GAP_MS = 80  # two frames at 25 a second, by which an eye sees that a cue is another one
_READ_MS = 50  # a character, at 20 a second
_SENTENCE_END = tuple(".!?…。！？؟।")  # noqa: RUF001
_CLAUSE_END = tuple(",;:—、，；：،")  # noqa: RUF001
_QUOTES = "\"'”’»)]"  # noqa: RUF001
# Python's and JavaScript's idea of white space together.
_SPACE = re.compile(r"[\s\x1c-\x1f\x85\ufeff]+")
_ARROW = re.compile("-{2,}>")
_WIDE = re.compile(
    "[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6"
    "\U0001f300-\U0001faff\U00020000-\U0003fffd]"
)
# What a cue and the place where it breaks cost when they are weighed against each other.
_CUE, _BRIEF, _CLAUSE, _ANYWHERE = 10, 10, 3, 15


@dataclass(frozen=True, slots=True)
class CueStyle:
    """How much a cue may hold, in lines and columns, and how long it stays.

    A wide character, as in Chinese, takes two columns.
    """

    line: int = 42
    lines: int = 2
    shortest_ms: int = 1000
    longest_ms: int = 7000

    def __post_init__(self) -> None:
        if self.line < 1 or self.lines < 1 or not 0 < self.shortest_ms <= self.longest_ms:
            raise ValueError("a cue needs a line of a character and must not end before it starts")


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle of ``words`` words, with blank ones before it.

    Times are in milliseconds and never overlap the next cue's, but for that of another ``voice``.
    """

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    words: int = 1
    voice: str = ""


def voiced_cues(
    segments: Iterable[Segment], style: CueStyle | None = None, duration: float | None = None
) -> list[Cue]:
    """The ``cues`` of each speaker with its name as their voice, in the order of their starts."""
    by_speaker: dict[str, list[Segment]] = {}
    for segment in segments:
        by_speaker.setdefault(segment.speaker or "", []).append(segment)
    found = [
        replace(cue, voice=speaker)
        for speaker, spoken in by_speaker.items()
        for cue in cues(spoken, style, duration)
    ]
    return sorted(found, key=lambda cue: cue.start_ms)


def cues(
    segments: Iterable[Segment], style: CueStyle | None = None, duration: float | None = None
) -> list[Cue]:
    """Cues for every segment; a cue never spans two segments or a pause of 1 s.

    None is held beyond the end of the audio where its ``duration`` in seconds is given.

    A segment whose words have no times is one cue, however long: to cut it, times would have to be
    made up. Raises ValueError for a segment that has no times at all.
    """
    layout = _CueLayout(style or CueStyle())
    groups = [
        (group, bool(segment.words))
        for segment in segments
        for run in _split_at_pauses(_timed(segment))
        for group in layout.cut(run)
    ]
    starts = [_ms(group[0].start) for group, _ in groups]
    whole = None if duration is None else int(duration * 1000)
    found: list[Cue] = []
    blank = 0
    for (group, timed), start, following in zip(groups, starts, [*starts[1:], None], strict=False):
        begin = max(start, found[-1].end_ms) if found else start
        lines = layout.lines(group)
        if not any(lines):
            blank += len(group)
            continue
        end = layout.until(begin, _ms(group[-1].end), lines, capped=timed)
        # A cue that has no time to spare lasts until the next one comes.
        roomy = following is not None and following - begin > 2 * _GAP_MS
        for last in (following - _GAP_MS if following and roomy else following, whole):
            end = end if last is None else max(min(end, last), begin + 1)
        found.append(Cue(begin, end, lines, blank + len(group)))
        blank = 0
    return found


def srt(found: Iterable[Cue]) -> str:
    """The cues as a SubRip file. Its text knows no escapes: an arrow in it loses its length."""
    return "".join(
        f"{number}\n{stamp(cue.start_ms, ',')} --> {stamp(cue.end_ms, ',')}\n"
        f"{_ARROW.sub('->', _voice(cue) + _text(cue))}\n\n"
        for number, cue in enumerate(found, 1)
    )


def vtt(found: Iterable[Cue]) -> str:
    """The cues as a WebVTT file."""
    return "WEBVTT\n\n" + "".join(map(vtt_cue, found))


def vtt_cue(cue: Cue) -> str:
    """One cue as a block of a WebVTT file."""
    text = _escaped(_text(cue))
    text = f"<v {_escaped(cue.voice)}>{text}" if cue.voice else text
    return f"{stamp(cue.start_ms, '.')} --> {stamp(cue.end_ms, '.')}\n{text}\n\n"


def _voice(cue: Cue) -> str:
    return f"{cue.voice}: " if cue.voice else ""


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def stamp(ms: int, point: str) -> str:
    """Milliseconds as ``hh:mm:ss`` with thousandths after ``point``."""
    whole, ms = divmod(ms, 1000)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{ms:03}"


def _timed(segment: Segment) -> Sequence[Word]:
    if segment.words:
        return segment.words
    if not segment.text.strip():
        return ()
    if segment.start is None or segment.end is None:
        raise ValueError("a segment without times cannot be a subtitle")
    return (Word(segment.text, segment.start, segment.end),)


def _split_at_pauses(words: Sequence[Word]) -> list[Sequence[Word]]:
    cuts = [n for n, pair in enumerate(pairwise(words), 1) if _gap_ms(*pair) >= _PAUSE_MS]
    return [words[a:b] for a, b in pairwise([0, *cuts, len(words)]) if a < b]


class _CueLayout:
    """Words into cues and lines of one style."""

    def __init__(self, style: CueStyle) -> None:
        self._style = style

    def until(self, begin: int, end: int, lines: Iterable[str], *, capped: bool) -> int:
        """When a cue goes: its last word's end within the style's bounds, or its segment's end.

        It stays until it can have been read.
        """
        held = max(end, begin + self._style.shortest_ms, begin + _READ_MS * sum(map(_width, lines)))
        return min(held, begin + self._style.longest_ms) if capped else held

    def cut(self, words: Sequence[Word]) -> list[Sequence[Word]]:
        """The cheapest way to cut a run of words into cues (shortest path over the word gaps)."""
        ends = [0, *accumulate(_width(word.text) for word in words)]
        best = [(0, 0)]
        for stop in range(1, len(words) + 1):
            ways = []
            for start in range(stop - 1, -1, -1):
                if start < stop - 1 and not self._fits(words, ends, start, stop):
                    break
                ways.append((best[start][0] + self._cost(words, start, stop), start))
            best.append(min(ways))
        groups: list[Sequence[Word]] = []
        stop = len(words)
        while stop:
            start = best[stop][1]
            groups.append(words[start:stop])
            stop = start
        return groups[::-1]

    def lines(self, words: Sequence[Word]) -> tuple[str, ...]:
        """One line, or two of about the same length, broken after a clause if one ends there."""
        whole, width = _join(words), self._style.line
        if _width(whole) <= width:
            return (whole,)
        ways = []
        for at in range(1, len(words)):
            pair = (_join(words[:at]), _join(words[at:]))
            longest = max(map(_width, pair))
            if longest <= width:
                ways.append((5 * longest + 4 * _break_cost(words, at), at, pair))
        if ways and self._style.lines > 1:
            return min(ways)[2]
        return _wrap(whole, width)

    def _fits(self, words: Sequence[Word], ends: Sequence[int], start: int, stop: int) -> bool:
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

    def _cost(self, words: Sequence[Word], start: int, stop: int) -> int:
        """The price of the cue, more if it is brief, and of the place where it breaks."""
        lasts = _ms(words[stop - 1].end) - _ms(words[start].start)
        brief = _BRIEF if lasts < self._style.shortest_ms else 0
        return _CUE + brief + (_break_cost(words, stop) if stop < len(words) else 0)


def _break_cost(words: Sequence[Word], at: int) -> int:
    before = words[at - 1].text.rstrip(_QUOTES)
    if before.endswith(_SENTENCE_END):
        return 0
    if before.endswith(_CLAUSE_END) or _gap_ms(words[at - 1], words[at]) >= _BREATH_MS:
        return _CLAUSE
    return _ANYWHERE


def _wrap(text: str, width: int) -> tuple[str, ...]:
    """Greedy lines; a run without a place to break, as in an unspaced script, is cut anywhere."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}".strip(" ")
        if _width(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for character in word:
            if lines[-1] and _width(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return tuple(line for line in lines if line)


def _width(text: str) -> int:
    return len(text) + len(_WIDE.findall(text))


def _join(words: Iterable[Word]) -> str:
    return _SPACE.sub(" ", "".join(word.text for word in words)).strip(" ")


def _text(cue: Cue) -> str:
    return "\n".join(cue.lines)


def _lead(word: Word) -> int:
    found = _SPACE.match(word.text)
    return _width(found[0]) if found else 0


def _gap_ms(before: Word, after: Word) -> int:
    return _ms(after.start) - _ms(before.end)


def _ms(at: int) -> int:
    return round(1000 * seconds(at))
