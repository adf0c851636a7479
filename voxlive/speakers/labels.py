"""Whose words they are, for those who show them: labels of words, and names of speakers. Pure.

A speaker is a number, from 0 as they are first heard, of one source. ``None`` is one that is not
known: nobody has asked, or not yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from voxlive.values import Word

MAX_SPEAKERS = 20
"""More are not told apart."""
MAX_NAME_CHARS = 64


class SpeakerRange(NamedTuple):
    """Words ``first`` to ``last`` of a segment, counted from 0, are ``speaker``'s."""

    segment: int
    first: int
    last: int
    speaker: int


@dataclass(frozen=True, slots=True)
class SpeakersFound:
    """Whose words these are. What was said of a word within the last 5 s may be changed once more.

    ``speakers``: how many there are so far. It follows from the audio before sample ``upto``.
    """

    ranges: tuple[SpeakerRange, ...]
    speakers: int
    source: str = ""
    upto: int = 0


class SpokenWords(NamedTuple):
    """Words that follow one another, all of one speaker."""

    speaker: int | None
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """Their texts joined."""
        return "".join(word.text for word in self.words)

    @property
    def start(self) -> int:
        """The sample at which the first begins."""
        return self.words[0].start

    @property
    def end(self) -> int:
        """The sample at which the last ends."""
        return self.words[-1].end


@dataclass(frozen=True, slots=True)
class SpeakerNamed:
    """A person has said who a speaker is; ``name`` "" takes that back.

    ``by_voice``: the voice was recognised, which gives way to what people say.
    """

    speaker: int
    name: str
    source: str = ""
    by_voice: bool = False


SpeakerNames = Mapping[tuple[str, int], str]
"""What people call speakers, by source and number."""


def speaker_name(source: str, speaker: int | None, names: SpeakerNames | None = None) -> str:
    """What a speaker is called: as people say, else by its source, else by its number from 1.

    "" where nothing is known.
    """
    if speaker is None:
        return source
    given = (names or {}).get((source, speaker))
    return given or f"{source or 'Speaker'} {speaker + 1}"


def by_speaker(words: Sequence[Word], speakers: Sequence[int | None]) -> list[SpokenWords]:
    """The words as stretches of one speaker each; ``speakers`` has one for every word, or none."""
    if not speakers:
        return [SpokenWords(None, tuple(words))] if words else []
    pairs = groupby(zip(words, speakers, strict=True), key=lambda pair: pair[1])
    return [SpokenWords(speaker, tuple(word for word, _ in group)) for speaker, group in pairs]


class WordLabels:
    """The speakers of the words whose speaker may still be said, one for each.

    One that is not known yet is the word's before; None where there is none.
    """

    def __init__(self) -> None:
        self._places: list[tuple[int, int]] = []  # segment, number in it
        self._known: dict[tuple[int, int], int] = {}
        self._before: int | None = None
        self._segment = -1
        self._number = 0

    def add(self, segment: int, count: int) -> None:
        """So many words were committed to a segment."""
        if segment != self._segment:
            self._segment, self._number = segment, 0
        self._places += [(segment, self._number + at) for at in range(count)]
        self._number += count

    def on_found(self, ranges: Sequence[SpeakerRange]) -> None:
        """Whose words these are; those of words that were forgotten by now do not count."""
        waiting = set(self._places)
        for segment, first, last, speaker in ranges:
            places = ((segment, number) for number in range(first, last + 1))
            self._known.update((place, speaker) for place in places if place in waiting)

    @property
    def speakers(self) -> list[int | None]:
        """Of each word."""
        speakers, before = [], self._before
        for place in self._places:
            before = self._known.get(place, before)
            speakers.append(before)
        return speakers

    @property
    def told(self) -> int:
        """How many words there are up to the last one of which a speaker was said."""
        places = enumerate(self._places, 1)
        return max((count for count, place in places if place in self._known), default=0)

    def forget(self, count: int | None = None) -> None:
        """The first ``count`` words are final: nothing changes them. None: all."""
        count = len(self._places) if count is None else count
        if speakers := self.speakers[:count]:
            self._before = speakers[-1]
        for place in self._places[:count]:
            self._known.pop(place, None)
        del self._places[:count]
