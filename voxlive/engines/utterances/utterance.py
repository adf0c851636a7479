"""One stream over a recogniser of whole utterances: which pass is due, and what comes of it.

A stream's audio is a row of utterances; the first of them is recognised. While it grows, short
passes over all of it give drafts, from which words are committed (``commitment``). A mark ends it:
a last pass over all of it, with the model's whole window, gives the words that are left. One that
grows beyond ``longest_s`` is cut where it is quietest, and goes on.

While the utterance grows, a pass that is improbable or finds words where nobody speaks counts as
none, and one that repeats itself up to where it does. In the last pass the recogniser has tried
again by then, what is still repeated is committed once, and what is still a guess is not. Pure:
passes are made by the engine, times are samples.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from voxlive.engines.contract import (
    Committed,
    Drafted,
    LanguageFound,
    Message,
    Progressed,
    Reached,
    StreamOptions,
)
from voxlive.engines.utterances.commitment import Commitment, CommitRule, spelling
from voxlive.recognisers.contract import (
    IMPROBABLE,
    NO_SPEECH,
    REPETITIVE,
    Recognition,
    Task,
    loudness,
    quietest,
)
from voxlive.recognisers.vocabulary import TermMatcher
from voxlive.values import SAMPLE_RATE, Samples, Timeline, Word

MAX_WAITING = 120 * SAMPLE_RATE
"""Samples that a stream may hold, recognised or not."""

LANGUAGE_S = 2.0
"""Seconds of one utterance from which its most probable language holds for the stream."""

VOTES_S = 10.0
"""Seconds of utterances, all shorter or doubtful, after which the most frequent one holds."""

_MAJORITY = 0.5

_LONGEST_LOOP = 12
"""Words of a repeated phrase."""

_NOBODY_SPEAKS, _UNLIKELY = 0.8, 0.6
"""Whisper gives speech, in noise and quiet too, a probability of no speech below 0.4, and sounds
that are none above 0.85; the words that it writes for those are less likely than this."""

_GUESSED, _GUESSED_WORDS, _LONG_TEXT = -0.9, 0.5, 20
"""Mean log-probability, words' mean probability, and tokens from which such means are steady."""

_LEFT_OUT = 3 * SAMPLE_RATE // 2
"""More silence than the gate leaves behind speech."""

_PUNCTUATION = re.compile(r"[\s.,;:!?\-\u2010-\u2015\u2026'\"\u3002\u3001\u266a\u266b]*")


_FRAME = SAMPLE_RATE // 100
_AROUND = SAMPLE_RATE // 20
_CONTRAST = 30.0
"""How loudness is measured where a word is cut to the sound, and what it keeps beyond."""


class Overrun(Exception):
    """A stream holds as much audio as it may."""


@dataclass(frozen=True, slots=True)
class PassPlan:
    """Which passes are made. Seconds.

    ``longest_s``: an utterance beyond this is cut, not before ``shortest_cut_s``. ``wide``: whether
    every other draft keeps more hypotheses. It errs less, and two passes of different kinds make
    the same error less often than two of a kind.
    """

    longest_s: float = 24.0
    shortest_cut_s: float = 14.0
    wide: bool = True


@dataclass(frozen=True, slots=True)
class DuePass:
    """A pass to make: ``audio`` float32 [n]. ``final``: its words are all that will come of it.

    ``wide``: a draft for which more hypotheses are kept. ``language`` None: the pass finds it out.
    """

    audio: Samples
    final: bool
    cut: bool = False
    wide: bool = False
    language: str | None = None
    task: Task = "transcribe"


@dataclass(slots=True)
class UtteranceAudio:
    """Audio between two marks. ``marks`` end it: the first with its audio, others behind it."""

    timeline: Timeline = field(default_factory=Timeline)
    pieces: list[Samples] = field(default_factory=list)
    length: int = 0
    marks: list[int] = field(default_factory=list)

    def add(self, samples: Samples, at: int) -> None:
        """Append audio that begins at ``at`` on the session's clock."""
        self.timeline.extend(at, len(samples))
        self.pieces.append(samples)
        self.length += len(samples)

    def audio(self) -> Samples:
        """All of it, float32 [length]."""
        if len(self.pieces) > 1:
            self.pieces = [np.concatenate(self.pieces)]
        return self.pieces[0] if self.pieces else np.zeros(0, np.float32)

    def drop(self, count: int) -> None:
        """Forget the first samples; offsets count from there."""
        rest = self.audio()[count:]
        self.timeline.cut(count)
        self.pieces = [rest]
        self.length -= count


class LanguageVote:
    """Which language a stream has, from passes that find it out for themselves. Pure.

    That of the first pass over ``LANGUAGE_S`` in which it is more probable than all others holds.
    Where there is none, passes over ``VOTES_S`` that end utterances have votes by their length and
    probability, and the language with most of them holds.
    """

    def __init__(self, language: str | None = None) -> None:
        self.language = language
        self._votes: dict[str, float] = {}
        self._length = 0

    def add(self, due: DuePass, found: Recognition) -> LanguageFound | None:
        """What a pass found; the language, once it is decided."""
        language, p = found.language, found.language_p
        if self.language or not language or is_silence(found):
            return None
        length = len(due.audio)
        if length >= LANGUAGE_S * SAMPLE_RATE and (p is None or p > _MAJORITY):
            return self._hold(language, p)
        if due.final:
            self._votes[language] = self._votes.get(language, 0.0) + length * (p or _MAJORITY)
            self._length += length
            if self._length >= VOTES_S * SAMPLE_RATE:
                return self._hold(max(self._votes, key=lambda one: self._votes[one]), None)
        return None

    def _hold(self, language: str, probability: float | None) -> LanguageFound:
        self.language = language
        return LanguageFound(language, probability)


class UtteranceStream:
    """See the module. Bound: MAX_WAITING samples."""

    def __init__(
        self, rule: CommitRule, plan: PassPlan, options: StreamOptions | None = None
    ) -> None:
        options = options or StreamOptions()
        self._plan = plan
        self._task = options.task
        self._shows = options.drafts
        self._drafts = options.drafts or rule.passes > 0
        self._vote = LanguageVote(options.language)
        self._vocabulary = TermMatcher(options.vocabulary)
        self._commitment = Commitment(rule, self._vocabulary)
        self._utterances: deque[UtteranceAudio] = deque([UtteranceAudio()])
        self._passed = 0  # of the first utterance: samples that the last draft had
        self._wide = False  # whether that one kept more hypotheses
        self._under_way: DuePass | None = None
        self._draft = ""
        self._held = 0

    def feed(self, samples: Samples, at: int) -> None:
        """Take audio; see ``engines.contract.Stream``. Raises Overrun."""
        if self._held + len(samples) > MAX_WAITING:
            raise Overrun
        self._held += len(samples)
        if self._utterances[-1].marks:
            self._utterances.append(UtteranceAudio())
        self._utterances[-1].add(samples, at)

    def mark(self, marker: int) -> list[Message]:
        """The utterance ends here; what can be answered at once."""
        self._utterances[-1].marks.append(marker)
        return list(self._settle())

    @property
    def waiting(self) -> int:
        """Samples that no pass has had yet."""
        return self._held - self._passed

    @property
    def under_way(self) -> bool:
        """Whether a pass has begun and is not done."""
        return self._under_way is not None

    @property
    def urgent(self) -> bool:
        """Whether a pass is due that ends an utterance, or a part of it."""
        first = self._utterances[0]
        return not self.under_way and bool(first.marks or self._too_long(first))

    def draftable(self, interval_s: float) -> bool:
        """Whether a draft may be made, which would have ``interval_s`` more than the last pass."""
        new = self._utterances[0].length - self._passed
        return self._drafts and self._under_way is None and new >= interval_s * SAMPLE_RATE

    def _too_long(self, first: UtteranceAudio) -> bool:
        return first.length > self._plan.longest_s * SAMPLE_RATE

    def _cut_at(self, first: UtteranceAudio) -> int:
        """The quietest place between the shortest and the longest length."""
        start = round(self._plan.shortest_cut_s * SAMPLE_RATE)
        end = round(self._plan.longest_s * SAMPLE_RATE)
        return quietest(first.audio(), start, end)

    def begin(self) -> DuePass | None:
        """The last pass that is due, else a draft of new audio; ``done`` must follow."""
        if self.under_way:
            return None
        first = self._utterances[0]
        if self._too_long(first):
            part = first.audio()[: self._cut_at(first)]
            self._under_way = self._due(part, final=True, cut=True)
        elif first.marks:
            self._under_way = self._due(first.audio(), final=True)
        elif first.length > self._passed and self._drafts:
            self._under_way = self._due(first.audio(), final=False)
        return self._under_way

    def _due(self, audio: Samples, *, final: bool, cut: bool = False) -> DuePass:
        other = self._passed > 0 and not self._wide
        self._wide = self._plan.wide and other and not final
        return DuePass(audio, final, cut, self._wide, self._vote.language, self._task)

    def prepare(self, found: Recognition) -> None:
        """Compare the words of a pass with the vocabulary, which remembers what it compared.

        ``done`` is quick then. To be called between ``begin`` and ``done``, on any thread.
        """
        self._vocabulary.spell(found.words)

    def done(self, found: Recognition) -> list[Message]:
        """What the pass under way has brought."""
        due, self._under_way = self._under_way, None
        assert due is not None
        first = self._utterances[0]
        length = len(due.audio)
        words = [] if is_silence(found) or is_guess(found) else _spoken(found.words)
        begun = self._commitment.end > 0
        if due.final:
            words = without_loops(words)
            new = self._commitment.cut(words, length) if due.cut else self._commitment.finish(words)
        elif is_silence(found) or is_guess(found):
            new = ()
        elif not is_loop(found):
            new = self._commitment.update(words, length)
        elif (found.no_speech or 0.0) > NO_SPEECH:
            new = ()  # In sounds more hypotheses find a phrase that is surer with each time.
        else:
            new = self._commitment.update(before_loop(words, length), length)
        language = self._vote.add(due, found)
        messages: list[Message] = [language] if language else []
        if new:
            new = within_sound(new, due.audio, first=not begun, last=due.final and not due.cut)
            messages.append(Committed(tuple(_placed(word, first, length) for word in new)))
        messages += self._drafted("" if due.final else self._commitment.draft)
        if length:
            messages.append(Progressed(first.timeline.clock(length)))
        if due.final:
            self._forget(first, length, whole=not due.cut)
        else:
            self._passed = length
        return [*messages, *self._settle()]

    def _forget(self, first: UtteranceAudio, length: int, *, whole: bool) -> None:
        self._held -= length
        self._passed = 0
        if whole:
            first.pieces, first.length = [], 0
        else:
            first.drop(length)

    def _settle(self) -> Iterator[Message]:
        """Answer the marks of utterances that are recognised, or never had any audio."""
        while self._utterances[0].marks and not self._utterances[0].length:
            if self.under_way:
                return
            yield from self._drafted("")
            yield from (Reached(marker) for marker in self._utterances[0].marks)
            self._utterances.popleft()
            self._commitment.finish(())
            if not self._utterances:
                self._utterances.append(UtteranceAudio())

    def _drafted(self, text: str) -> Iterator[Message]:
        if self._shows and text != self._draft:
            self._draft = text
            yield Drafted(text)


def _placed(word: Word, utterance: UtteranceAudio, length: int) -> Word:
    """On the session's clock; nothing ends behind the audio."""
    start, end = min(word.start, length), min(word.end, length)
    clock = utterance.timeline.clock
    begin = clock(start, end=False) if start < length else clock(start)
    return replace(word, start=begin, end=max(clock(end), begin))


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


def is_silence(found: Recognition) -> bool:
    """Whether the model takes the audio for one in which nobody speaks.

    Beside OpenAI's rule: where it is certain of that, it still writes a word of which it is not.
    """
    if found.no_speech is None or found.mean_logprob is None:
        return False
    if found.no_speech > _NOBODY_SPEAKS and _mean_probability(found) < _UNLIKELY:
        return True
    return found.no_speech > NO_SPEECH and found.mean_logprob < IMPROBABLE


def is_guess(found: Recognition) -> bool:
    """Whether a text is improbable and so are its words, as those for music and many voices are."""
    logprob, probability = found.mean_logprob, _mean_probability(found)
    if logprob is None:
        return False
    if (found.tokens or 0) >= _LONG_TEXT and logprob < _GUESSED and probability < _GUESSED_WORDS:
        return True
    return logprob < IMPROBABLE and probability < _UNLIKELY


def _mean_probability(found: Recognition) -> float:
    """Of the words that have one; 1 where none has."""
    known = [word.probability for word in found.words if word.probability is not None]
    return sum(known) / len(known) if known else 1.0


def _spoken(words: Sequence[Word]) -> list[Word]:
    """Without those that are only punctuation, which models write where they find no speech."""
    return [word for word in words if not _PUNCTUATION.fullmatch(word.text)]


def without_loops(words: Sequence[Word], most: int = 3) -> list[Word]:
    """The words, with a phrase that comes more than ``most`` times in a row only once.

    A single word may come twice as often: people do count and laugh. A phrase of several words that
    comes again in less than a third of its time is the model's alone.
    """
    kept: list[Word] = list(words)
    texts = [spelling(word.text) for word in kept]
    at = 0
    while at < len(kept):
        for size in range(1, min(_LONGEST_LOOP, (len(kept) - at) // 2) + 1):
            times = 1
            while texts[at + times * size : at + (times + 1) * size] == texts[at : at + size]:
                times += 1
            hurried = size > 1 and times > 1 and _is_hurried(kept[at : at + 2 * size])
            if hurried or times > (2 * most if size == 1 else most):
                del kept[at + size : at + times * size]
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


def _is_hurried(twice: Sequence[Word]) -> bool:
    """Whether the second half, which repeats the first, takes less than a third of its time."""
    size = len(twice) // 2
    first, again = twice[:size], twice[size:]
    return 3 * (again[-1].end - again[0].start) < first[-1].end - first[0].start
