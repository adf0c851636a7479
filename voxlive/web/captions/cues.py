"""Captions as WebVTT cues, each as soon as it is complete. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import groupby

from voxlive.runners.outputs.subtitles import Cue, CueStyle, cues, vtt_cue
from voxlive.speakers.labels import SpeakerNamed, speaker_name
from voxlive.streaming.events import Words
from voxlive.values import Segment, Word, seconds
from voxlive.web.captions.events import (
    Caption,
    CaptionSnapshot,
    ClosedCaption,
    CorrectedCaption,
    SpokenCaption,
    SpokenText,
)

HEADER = "WEBVTT\n\n"


class LiveCues:
    """Words in, WebVTT cues out. A cue is complete once the words after it cannot join it.

    Those of several sources or speakers have these as their voices; sources may overlap. What
    people have corrected stands in the cues that are complete after it, and so do the names of
    speakers; a cue that was written stays.
    """

    def __init__(self, style: CueStyle | None = None) -> None:
        self._style = style
        self._sources: dict[str, _SourceCues] = {}
        self._names: dict[tuple[str, int], str] = {}

    def on_caption(self, caption: Caption) -> str:
        """The cues that a caption completes, as WebVTT blocks."""
        match caption:
            case CaptionSnapshot(segments, _, _, _, opened, names=names):
                for named in names:
                    self.on_caption(named)
                closed = "".join(map(self.on_caption, segments))
                more = (
                    self._of(each.source).add_words(
                        each.segment, each.words, each.text, each.speakers
                    )
                    for each in opened
                )
                return closed + "".join(more)
            case SpokenCaption(segment, speakers, _, source):
                return self._of(source).label(segment, speakers)
            case SpeakerNamed(speaker, name, source):
                self._names[source, speaker] = name
                return ""
            case Words(segment, words, source):
                return self._of(source).add_words(segment, words)
            case ClosedCaption(_, _, _, text, words, received, source, speakers):
                return self._of(source).close(words, text, received, speakers)
            case CorrectedCaption(segment, text):
                for one in self._sources.values():
                    one.correct(segment, text)
                return ""
            case _:
                return ""

    def _of(self, source: str) -> _SourceCues:
        if source not in self._sources:
            self._sources[source] = _SourceCues(source, self._style, self._names)
        return self._sources[source]


class _SourceCues:
    """The cues of one source."""

    def __init__(
        self, source: str, style: CueStyle | None, names: Mapping[tuple[str, int], str]
    ) -> None:
        self._source = source
        self._style = style
        self._names = names
        self._segment: int | None = None
        # Of the open segment.
        self._words: list[Word] = []
        self._speakers: tuple[int | None, ...] = ()  # of the first words; none: none are known
        self._diarized = False  # words wait for their speaker
        self._corrected: tuple[str, int] | None = None  # the text of so many of the words
        self._in_cues = 0  # words that are in cues already
        self._until_ms = 0

    def add_words(
        self,
        segment: int | None,
        words: Iterable[Word],
        text: str = "",
        speakers: tuple[int | None, ...] = (),
    ) -> str:
        """Add words to the open segment.

        ``text`` is what all of its words have become, if any, and ``speakers`` whose they are.
        """
        self._segment = segment
        self._words += words
        if text:
            self.correct(segment, text)
        return self.label(segment, speakers)

    def label(self, segment: int | None, speakers: tuple[int | None, ...]) -> str:
        """Whose the first words of a segment are; its cues are complete once that is known."""
        if speakers and segment == self._segment:
            self._speakers, self._diarized = speakers, True
        return self._take_cues(whole=False)

    def correct(self, segment: int | None, text: str) -> None:
        """The words of a segment so far have become this text."""
        if segment == self._segment:
            self._corrected = text, len(self._words)

    def close(
        self,
        words: Iterable[Word],
        text: str,
        received: int | None,
        speakers: tuple[int | None, ...] = (),
    ) -> str:
        """The segment is closed; ``words`` are all of it, ``text`` is what they have become."""
        self._words, self._speakers = [*words], speakers
        self._diarized |= bool(speakers)
        self._corrected = text, len(self._words)
        blocks = self._take_cues(None if received is None else seconds(received), whole=True)
        self._words, self._in_cues, self._segment, self._corrected = [], 0, None, None
        self._speakers = ()
        return blocks

    def _take_cues(self, received_s: float | None = None, *, whole: bool) -> str:
        """The complete cues of the words that are in none; ``whole``: the segment is closed.

        The last cue is complete with its segment. ``received_s``: seconds of audio received, which
        no cue outlasts.
        """
        left = [one for one in self._shown() if one.stop > self._in_cues]
        if self._diarized and not whole:
            left = [one for one in left if one.stop <= len(self._speakers)]
        voices = [self._voice(one.stop - 1) for one in left]
        parts = []
        for _, group in groupby(zip(left, voices, strict=True), key=lambda pair: pair[1]):
            words = tuple(one.word for one, _ in group)
            parts.append(Segment(0, "".join(word.text for word in words), words=words))
        found = cues(parts, self._style, received_s)
        found = found if whole else found[:-1]
        taken, blocks = 0, ""
        for cue in found:
            taken += cue.words
            blocks += self._write(cue, voices[taken - 1])
        if taken and not whole:
            self._in_cues = left[taken - 1].stop
        return blocks

    def _voice(self, word: int) -> str:
        return speaker_name(self._source, _speaker_of(word, self._speakers), self._names)

    def _shown(self) -> list[_ShownWord]:
        text, covered = self._corrected or ("", 0)
        shown = _retold(self._words[:covered], text)
        rest = range(covered, len(self._words))
        return shown + [_ShownWord(self._words[at], at + 1) for at in rest]

    def _write(self, cue: Cue, voice: str) -> str:
        """A cue as its block; it begins no earlier than the one before it ends."""
        start = max(cue.start_ms, self._until_ms)
        self._until_ms = max(cue.end_ms, start + 1)
        placed = replace(cue, start_ms=start, end_ms=self._until_ms, voice=voice)
        return vtt_cue(placed)


def spoken_texts(
    words: Sequence[Word], speakers: Sequence[int | None], text: str
) -> tuple[SpokenText, ...]:
    """The text that words have become, by their ``speakers``: those of the first words, or none."""
    if not speakers:
        return ()
    shown = groupby(_retold(words, text), key=lambda one: _speaker_of(one.stop - 1, speakers))
    return tuple(
        SpokenText(speaker, "".join(one.word.text for one in said)) for speaker, said in shown
    )


def _speaker_of(word: int, speakers: Sequence[int | None]) -> int | None:
    """The speaker of a word; behind those that are known it is the last one's."""
    return speakers[min(word, len(speakers) - 1)] if speakers else None


@dataclass(frozen=True, slots=True)
class _ShownWord:
    """A word, and behind which of those that were recognised it ends."""

    word: Word
    stop: int


def _retold(words: Sequence[Word], text: str) -> list[_ShownWord]:
    """What words have become: those that are still there with their times.

    What stands in place of others has the time of these, each word of it a part by its length.
    """
    said = [word.text for word in words]
    if not words or text.strip() == "".join(said).strip():
        return [_ShownWord(word, at + 1) for at, word in enumerate(words)]
    same = SequenceMatcher(None, said, now := _pieces(said, text), autojunk=False)
    shown = []
    for kind, first, stop, low, high in same.get_opcodes():
        if kind == "equal":
            shown += [_ShownWord(words[at], at + 1) for at in range(first, stop)]
            continue
        start = words[first].start if first < len(words) else words[-1].end
        end = words[stop - 1].end if stop > first else start
        length, before = sum(map(len, now[low:high])), 0
        for piece in now[low:high]:
            after = before + len(piece)
            begin, over = (start + (end - start) * part // length for part in (before, after))
            at = first + -(-(stop - first) * after // length)
            shown.append(_ShownWord(Word(piece, begin, over), max(at, first + 1)))
            before = after
    return shown


def _pieces(said: Sequence[str], text: str) -> list[str]:
    """A text as words: where it begins and ends as was said, in those; else by its spaces."""
    front: list[str] = []
    head = 0
    for word in said:
        if not text.startswith(word, head):
            break
        front.append(word)
        head += len(word)
    spaced = len(said) == 1 or any(word[0].isspace() for word in said)
    if front and spaced and text[head:] and not text[head].isspace():
        head -= len(front.pop())  # the last one is the beginning of another word
    back: list[str] = []
    stop = len(text)
    for word in reversed(said[len(front) :]):
        if stop - len(word) < head or not text.endswith(word, 0, stop):
            break
        back.insert(0, word)
        stop -= len(word)
    return [*front, *re.findall(r"\s*\S+", text[head:stop]), *back]
