"""Words to subtitle cues that can be read, and cues to SRT and WebVTT. Pure.

A cue has at most two lines of 42 characters and stays for 1 to 7 s: the usual limits of subtitling
(BBC Subtitle Guidelines; Netflix Timed Text Style Guide). Cues break where a sentence, a clause or
a breath ends, if that costs no more cues than it is worth.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from .clock import SAMPLE_RATE
from .events import Word

LINE = 42
SHORTEST_MS = 1000
LONGEST_MS = 7000

_PAUSE = SAMPLE_RATE
_BREATH = SAMPLE_RATE // 4
_SENTENCE_END = tuple(".!?…。！？؟।")  # noqa: RUF001
_CLAUSE_END = tuple(",;:—、，；：،")  # noqa: RUF001
_QUOTES = "\"'”’»)]"  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle; times in milliseconds, never overlapping the next cue's."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def cues(segments: Iterable[Sequence[Word]]) -> list[Cue]:
    """Cues for the words of each segment; a cue never spans two segments or a pause of 1 s."""
    groups = [group for words in segments for run in _split_at_pauses(words) for group in _cut(run)]
    starts = [_ms(group[0].start) for group in groups]
    found: list[Cue] = []
    for group, start, following in zip(groups, starts, [*starts[1:], None], strict=False):
        begin = max(start, found[-1].end_ms) if found else start
        end = min(max(_ms(group[-1].end), begin + SHORTEST_MS), begin + LONGEST_MS)
        if following is not None:
            end = max(min(end, following), begin + 1)
        found.append(Cue(begin, end, _lines(group)))
    return found


def srt(found: Iterable[Cue]) -> str:
    """The cues as a SubRip file."""
    return "".join(
        f"{number}\n{_stamp(cue.start_ms, ',')} --> {_stamp(cue.end_ms, ',')}\n{_text(cue)}\n\n"
        for number, cue in enumerate(found, 1)
    )


def vtt(found: Iterable[Cue]) -> str:
    """The cues as a WebVTT file."""
    body = "".join(
        f"{_stamp(cue.start_ms, '.')} --> {_stamp(cue.end_ms, '.')}\n{_escape(_text(cue))}\n\n"
        for cue in found
    )
    return f"WEBVTT\n\n{body}"


def _split_at_pauses(words: Sequence[Word]) -> list[Sequence[Word]]:
    cuts = [n for n, (a, b) in enumerate(pairwise(words), 1) if b.start - a.end >= _PAUSE]
    return [words[a:b] for a, b in pairwise([0, *cuts, len(words)])]


def _cut(words: Sequence[Word]) -> list[Sequence[Word]]:
    """The cheapest way to cut a run of words into cues (shortest path over the word gaps)."""
    ends = [0, *accumulate(len(word.text) for word in words)]
    best: list[tuple[float, int]] = [(0.0, 0)]
    for stop in range(1, len(words) + 1):
        ways = []
        for start in range(stop - 1, -1, -1):
            if start < stop - 1 and not _fits(words, ends, start, stop):
                break
            ways.append((best[start][0] + _cost(words, start, stop), start))
        best.append(min(ways))
    groups: list[Sequence[Word]] = []
    stop = len(words)
    while stop:
        start = best[stop][1]
        groups.append(words[start:stop])
        stop = start
    return groups[::-1]


def _fits(words: Sequence[Word], ends: Sequence[int], start: int, stop: int) -> bool:
    """Whether words[start:stop] are short enough for a cue and fill at most two lines."""
    if _ms(words[stop - 1].end - words[start].start) > LONGEST_MS:
        return False
    second = bisect_right(ends, ends[start] + _lead(words[start]) + LINE, lo=start) - 1
    return second >= stop or (
        second > start and ends[stop] - ends[second] - _lead(words[second]) <= LINE
    )


def _cost(words: Sequence[Word], start: int, stop: int) -> float:
    """One for the cue, one more for being brief, and the price of the place where it breaks."""
    brief = _ms(words[stop - 1].end - words[start].start) < SHORTEST_MS
    return 1 + brief + (_break_cost(words, stop) if stop < len(words) else 0)


def _break_cost(words: Sequence[Word], at: int) -> float:
    before = words[at - 1].text.rstrip(_QUOTES)
    if before.endswith(_SENTENCE_END):
        return 0
    if before.endswith(_CLAUSE_END) or words[at].start - words[at - 1].end >= _BREATH:
        return 0.3
    return 1.5


def _lines(words: Sequence[Word]) -> tuple[str, ...]:
    """One line, or two of about the same length, broken after a clause if one ends there."""
    whole = _join(words)
    if len(whole) <= LINE:
        return (whole,)
    ways = []
    for at in range(1, len(words)):
        pair = (_join(words[:at]), _join(words[at:]))
        longest = max(map(len, pair))
        if longest <= LINE:
            ways.append((longest + 8 * _break_cost(words, at), pair))
    if ways:
        return min(ways)[1]
    # One word without a place to break, as a long run of an unspaced script may be.
    return tuple(whole[at : at + LINE] for at in range(0, len(whole), LINE))


def _join(words: Iterable[Word]) -> str:
    return " ".join("".join(word.text for word in words).split())


def _text(cue: Cue) -> str:
    return "\n".join(cue.lines)


def _lead(word: Word) -> int:
    return len(word.text) - len(word.text.lstrip())


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _ms(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE


def _stamp(ms: int, point: str) -> str:
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{ms:03}"
