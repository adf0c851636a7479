"""What a pass is worth: whether it is a loop, a guess, or finds words where nobody speaks.

Pure, from the figures that a recogniser gives and from the words with their times.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from voxlive.engines.utterances.commitment import spelling
from voxlive.recognisers.contract import (
    IMPROBABLE,
    NO_SPEECH,
    REPETITIVE,
    Recognition,
    loudness,
)
from voxlive.values import SAMPLE_RATE, Samples, Word, split_words

_LONGEST_LOOP = 12
"""Words of a repeated phrase."""

_NOBODY_SPEAKS, _UNLIKELY = 0.8, 0.6
"""Whisper gives speech, in noise and quiet too, a probability of no speech that is mostly below 0.4
(numbers that are read out have more), and sounds that are none above 0.85; the words that it writes
for those are less likely than this."""

_DOUBTED = 0.4
"""The probability of no speech above which a draft that repeats itself is none: of 993 last passes
over speech five have more, drafts over sounds and many voices mostly do."""

_SHORTEST_WORD = 3 * SAMPLE_RATE // 40
"""From the begin of a word to that of the next, the mean of three or more: nobody speaks faster."""

_LONGEST_WORD = 4 * SAMPLE_RATE
"""Nobody holds a word for longer: a model that finds one there has a sound before it."""

_GUESSED, _GUESSED_WORDS, _LONG_TEXT, _SEVERAL = -0.9, 0.5, 20, 6
"""Mean log-probability, words' mean probability; tokens and words from which these are steady."""

_SURE, _SURE_WORDS = -0.6, 0.8
"""Mean log-probability, and words' mean probability, below which a last pass is unsure."""

_BROKEN_OFF = ("...", "\u2026")
"""How a model ends a text that it takes to go on."""

_LEFT_OUT = 3 * SAMPLE_RATE // 2
"""More silence than the gate leaves behind speech."""

_PUNCTUATION = re.compile(r"[\s.,;:!?\-\u2010-\u2015\u2026'\"\u3002\u3001\u266a\u266b]*")


_FRAME = SAMPLE_RATE // 100
_AROUND = SAMPLE_RATE // 20
_CONTRAST = 30.0
"""How loudness is measured where a word is cut to the sound, and what it keeps beyond."""


def within_sound(
    words: Sequence[Word], audio: Samples, *, first: bool, last: bool
) -> tuple[Word, ...]:
    """The words of an utterance, the outer ones no longer than there is sound.

    A Whisper's first word often begins with the audio and its last one ends in the silence behind.
    ``first`` and ``last``: whether the utterance's first and last word are among them. Sound is
    what is louder than the quiet parts of ``audio`` by a fiftieth of what loud ones are; where the
    quiet ones are less than 15 dB below those, nothing is cut. Digital silence behind it is not
    counted.
    """
    sounding = np.trim_zeros(audio, "b")
    if not words or len(sounding) < 3 * _FRAME:
        return tuple(words)
    power = loudness(np.pad(sounding, (0, -len(sounding) % _FRAME)), _FRAME)
    quiet, loud = np.percentile(power, (10, 95))
    if loud <= _CONTRAST * quiet:
        return tuple(words)
    frames = np.flatnonzero(power > quiet + (loud - quiet) / 50)
    placed = list(words)
    if first:
        start = max(placed[0].start, int(frames[0]) * _FRAME - _AROUND)
        placed[0] = replace(placed[0], start=min(start, placed[0].end))
    if last:
        end = min(placed[-1].end, (int(frames[-1]) + 1) * _FRAME + _AROUND)
        placed[-1] = replace(placed[-1], end=max(end, placed[-1].start))
    return tuple(placed)


def is_loop(found: Recognition) -> bool:
    """Whether a pass repeats itself, or writes more than anybody speaks."""
    if found.cut_short:
        return True
    if found.compression is not None and found.compression > REPETITIVE:
        return True
    words = list(found.words)
    return len(without_loops(words)) < len(words)


def is_doubtful(found: Recognition) -> bool:
    """Whether an utterance's last pass had better be made again with all that the model can do."""
    improbable = found.mean_logprob is not None and found.mean_logprob < IMPROBABLE
    return improbable or is_loop(found)


def leaves_out(found: Recognition, length: int) -> bool:
    """Whether the text ends so long before audio of ``length`` samples that words may be missing.

    A model may end its text at a pause; where a pass looks at one window, the rest is lost.
    """
    return bool(found.words) and length - found.words[-1].end > _LEFT_OUT


def is_unsure(found: Recognition) -> bool:
    """Whether a last pass finds nothing in speech, or knows it less well than it does most."""
    improbable = found.mean_logprob is not None and found.mean_logprob < _SURE
    return not is_silence(found) and (improbable or sureness(found) < _SURE_WORDS)


def sureness(found: Recognition) -> float:
    """The mean probability of the words, 0 where there are none or they are a guess."""
    return _mean_probability(found.words) if spoken(found.words) and not is_guess(found) else 0.0


def says_again(found: Recognition, before: str) -> bool:
    """Whether a pass writes only what was said ``before`` it, as models do over a sound."""
    said = [spelling(word) for word in split_words(found.text)]
    known = [spelling(word) for word in split_words(before)]
    places = range(len(known) - len(said) + 1)
    return any(known[at : at + len(said)] == said for at in places)


def is_said_twice(last: Word, word: Word) -> bool:
    """Whether an utterance begins with the word at which the one before it broke off.

    Where a pause parts a sentence a model may add the word that is likely next ("to see if..."),
    and hear it behind the pause ("If there was"); it is sure of neither. Times are the session's.
    """
    unsure = all((one.probability or 0.0) < _SURE_WORDS for one in (last, word))
    near = word.start - last.end < 3 * SAMPLE_RATE // 2
    broken_off = last.text.rstrip().endswith(_BROKEN_OFF)
    return unsure and near and broken_off and spelling(last.text) == spelling(word.text)


def is_silence(found: Recognition) -> bool:
    """Whether the model takes the audio for one in which nobody speaks.

    Beside OpenAI's rule: where it is certain of that, it still writes a word of which it is not,
    and where it doubts, several unlikely ones or one that would last for seconds. It is as certain
    over numbers that are read out.
    """
    if found.no_speech is None or found.mean_logprob is None:
        return False
    words = found.words
    probability = 1.0 if _are_numbers(words) else _mean_probability(words)
    if found.no_speech > _NOBODY_SPEAKS and probability < _UNLIKELY:
        return True
    held = any(word.end - word.start > _LONGEST_WORD for word in words)
    unlikely = len(words) >= _SEVERAL and probability < _GUESSED_WORDS
    doubted = held or unlikely or found.mean_logprob < IMPROBABLE
    return found.no_speech > NO_SPEECH and doubted


def is_unsupported(found: Recognition) -> bool:
    """Whether a last pass needs drafts that agree: the model doubts that anybody speaks.

    Over many voices at once it does, and yet writes what films end with ("Thank you for watching"),
    no less probable than speech.
    """
    if found.no_speech is None or found.no_speech <= NO_SPEECH or _are_numbers(found.words):
        return False
    return is_loop(found) or _mean_probability(found.words) < _SURE_WORDS


def is_guess(found: Recognition) -> bool:
    """Whether a text is improbable and so are its words, as those for music and many voices are."""
    logprob, probability = found.mean_logprob, _mean_probability(found.words)
    if logprob is None:
        return False
    if (found.tokens or 0) >= _LONG_TEXT and logprob < _GUESSED and probability < _GUESSED_WORDS:
        return True
    return logprob < IMPROBABLE and probability < _UNLIKELY


def _mean_probability(words: Sequence[Word]) -> float:
    """Of the words that have one; 1 where none has."""
    known = [word.probability for word in words if word.probability is not None]
    return sum(known) / len(known) if known else 1.0


def _are_numbers(words: Sequence[Word]) -> bool:
    """Whether half of the words or more are digits alone."""
    return 2 * sum(spelling(word.text).isnumeric() for word in words) >= len(words) > 0


def spoken(words: Sequence[Word]) -> list[Word]:
    """Without those that are only punctuation, which models write where they find no speech."""
    return [word for word in words if not _PUNCTUATION.fullmatch(word.text)]


def is_empty_loop(found: Recognition, before: Sequence[Word]) -> bool:
    """Whether a draft that repeats itself is worth nothing, nor what it has ``before`` that.

    Over sounds, and many voices at once, each hypothesis finds a phrase to repeat and is surer of
    it with each time; the words before it are unlikely, or the model doubts that anybody speaks.
    """
    doubted = found.no_speech is not None and found.no_speech > _DOUBTED
    return doubted or _mean_probability(before) < _GUESSED_WORDS


def without_loops(words: Sequence[Word], most: int = 3) -> list[Word]:
    """The words, with a phrase that comes more than ``most`` times in a row only once.

    A single word may come twice as often: people do count and laugh. A phrase of several words that
    comes again in less than a third of its time, or faster than anybody speaks, is the model's
    alone; the slower of the two is kept.
    """
    kept: list[Word] = list(words)
    texts = [spelling(word.text) for word in kept]
    at = 0
    while at < len(kept):
        for size in range(1, min(_LONGEST_LOOP, (len(kept) - at) // 2) + 1):
            times = 1
            while texts[at + times * size : at + (times + 1) * size] == texts[at : at + size]:
                times += 1
            first, again = kept[at : at + size], kept[at + size : at + 2 * size]
            spoken_one = _spoken_one(first, again) if size > 1 and times > 1 else None
            if spoken_one or times > (2 * most if size == 1 else most):
                kept[at : at + times * size] = spoken_one or first
                del texts[at + size : at + times * size]
                break
        at += 1
    return kept


def before_loop(words: Sequence[Word], length: int) -> list[Word]:
    """What holds of a pass over ``length`` samples that repeats itself or runs on.

    The words before the first phrase that is repeated, without those in the audio's last second,
    where models begin to.
    """
    once = without_loops(words)
    end = next(
        (i for i, pair in enumerate(zip(words, once, strict=False)) if pair[0] != pair[1]),
        len(once),
    )
    if end < len(words):
        texts = [spelling(word.text) for word in words]
        sizes = range(1, min(_LONGEST_LOOP, end) + 1)
        end -= next((n for n in sizes if texts[end - n : end] == texts[end : end + n]), 0)
    return [word for word in words[:end] if word.end <= length - SAMPLE_RATE]


def _spoken_one(first: list[Word], again: list[Word]) -> list[Word] | None:
    """Which of two equal phrases was spoken, where the other takes no time; None for both."""
    gaps = len(first) - 1
    if gaps > 1 and min(_rhythm(first), _rhythm(again)) < gaps * _SHORTEST_WORD:
        return max(first, again, key=_rhythm)
    hurried = 3 * (again[-1].end - again[0].start) < first[-1].end - first[0].start
    return first if hurried else None


def _rhythm(phrase: Sequence[Word]) -> int:
    """Samples from its first word's begin to that of its last, which a silence may prolong."""
    return phrase[-1].start - phrase[0].start
