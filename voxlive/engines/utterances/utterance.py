"""One stream over a recogniser of whole utterances: which pass is due, and what comes of it.

A stream's audio is a row of utterances; the first of them is recognised. While it grows, short
passes over all of it give drafts, from which words are committed (``commitment``). A mark ends it:
a last pass over all of it gives the words that are left, behind what was said before where it is
short. One that grows beyond ``longest_s`` is cut where it is quietest, and goes on.

While the utterance grows, a pass that is improbable or finds words where nobody speaks counts as
none, and one that repeats itself up to where it does. In the last pass the recogniser has tried
again by then, what is still repeated is committed once, and what is still a guess, or doubted to be
speech and found by no draft, is not. Pure: passes are made by the engine, times are samples.
"""

from __future__ import annotations

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
from voxlive.engines.utterances.checks import (
    before_loop,
    is_empty_loop,
    is_guess,
    is_loop,
    is_said_twice,
    is_silence,
    is_unsupported,
    spoken,
    within_sound,
    without_loops,
)
from voxlive.engines.utterances.commitment import Commitment, CommitRule
from voxlive.recognisers.contract import Recognition, SpokenBefore, Task, quietest
from voxlive.recognisers.vocabulary import TermMatcher
from voxlive.values import SAMPLE_RATE, Samples, Timeline, Word

MAX_WAITING = 120 * SAMPLE_RATE
"""Samples that a stream may hold, recognised or not."""

LANGUAGE_S = 2.0
"""Seconds of one utterance from which its most probable language holds for the stream."""

VOTES_S = 10.0
"""Seconds of utterances, all shorter or doubtful, after which the most frequent one holds."""

_MAJORITY = 0.5

_SAME_TALK = 10 * SAMPLE_RATE
"""A silence behind which what was said before tells nothing any more."""

_TIME_TO_COMMIT = 8 * SAMPLE_RATE
"""In which several drafts have a word, however loaded the cores are."""

_PRE_ROLL = 3 * SAMPLE_RATE // 10
"""What the gate feeds before speech."""

_WINDOW = 28 * SAMPLE_RATE
"""The most audio that a last pass has with that of the utterances before."""


class Overrun(Exception):
    """A stream holds as much audio as it may."""


@dataclass(frozen=True, slots=True)
class PassPlan:
    """Which passes are made. Seconds.

    ``longest_s``: an utterance beyond this is cut, not before ``shortest_cut_s``. ``wide``: whether
    every other draft keeps more hypotheses. It errs less, and two passes of different kinds make
    the same error less often than two of a kind. The last pass over an utterance of less than
    ``short_s`` has ``before_s`` of what was recognised before it as well.
    """

    longest_s: float = 24.0
    shortest_cut_s: float = 14.0
    wide: bool = True
    short_s: float = 3.0
    before_s: float = 10.0


@dataclass(frozen=True, slots=True)
class AudioBefore:
    """Audio, float32 [n], that is recognised and goes before a pass's own; its text and times."""

    audio: Samples
    spoken: SpokenBefore


@dataclass(frozen=True, slots=True)
class DuePass:
    """A pass to make: ``audio`` float32 [n]. ``final``: its words are all that will come of it.

    ``wide``: a draft for which more hypotheses are kept. ``language`` None: the pass finds it out.
    ``before``: what a last pass may have beside it; times count from ``audio``'s first sample.
    """

    audio: Samples
    final: bool
    cut: bool = False
    wide: bool = False
    language: str | None = None
    task: Task = "transcribe"
    before: AudioBefore | None = None


class AudioRecognised:
    """The last audio of a stream in which words were found. Bound: ``most`` samples.

    Silence between utterances is left out. Pure.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._audio: Samples = np.zeros(0, np.float32)
        self._words: list[Word] = []
        self._end = 0  # on the session's clock

    def add(self, audio: Samples, words: Sequence[Word], end: int) -> None:
        """An utterance, or a part of it, up to ``end`` on the clock; times of words are its own."""
        if not words or not self._most:
            return
        at = len(self._audio)
        self._audio = np.concatenate((self._audio, audio))
        self._words += [replace(w, start=w.start + at, end=w.end + at) for w in words]
        self._end = end
        if (more := len(self._audio) - self._most) > 0:
            self._drop(quietest(self._audio, more, more + self._most // 2))

    def _drop(self, count: int) -> None:
        self._audio = self._audio[count:]
        moved = [replace(w, start=w.start - count, end=w.end - count) for w in self._words]
        self._words = [word for word in moved if word.start + word.end > 0]

    def before(self, begin: int, length: int) -> AudioBefore | None:
        """What goes before ``length`` samples from ``begin`` on the clock, if anything does."""
        held = len(self._audio)
        if not self._words or begin - self._end > _SAME_TALK or held + length > _WINDOW:
            return None
        text = "".join(word.text for word in self._words)
        start = held + (_PRE_ROLL if begin > self._end else 0)
        return AudioBefore(self._audio, SpokenBefore(text, min(self._words[-1].end, held), start))


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
        # At the pause alone, an utterance's words depend on nothing but its audio.
        self._recognised = AudioRecognised(round(plan.before_s * SAMPLE_RATE) if rule.passes else 0)
        self._said: list[Word] = []  # committed words of the first utterance
        self._joined = rule.passes > 0
        self._last: Word | None = None  # that was committed, on the session's clock
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
        before = None
        if final and 0 < len(audio) < self._plan.short_s * SAMPLE_RATE:
            begin = self._utterances[0].timeline.clock(0, end=False)
            before = self._recognised.before(begin, len(audio))
        return DuePass(audio, final, cut, self._wide, self._vote.language, self._task, before)

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
        nothing = is_silence(found) or is_guess(found)
        words = [] if nothing else spoken(found.words)
        begun = self._commitment.end > 0
        if due.final:
            unsupported = is_unsupported(found) and self._passed_over(words)
            words = [] if unsupported else without_loops(words)
            new = self._commitment.cut(words, length) if due.cut else self._commitment.finish(words)
        else:
            loops = is_loop(found)
            words = before_loop(words, length) if loops else words
            if nothing or (loops and is_empty_loop(found, words)):
                self._commitment.interrupt()
                new = ()
            else:
                new = self._commitment.update(words, length)
        language = self._vote.add(due, found)
        messages: list[Message] = [language] if language else []
        if new:
            new = within_sound(new, due.audio, first=not begun, last=due.final and not due.cut)
            self._said += new
            placed = tuple(_placed(word, first, length) for word in new)
            again = not begun and self._last is not None and is_said_twice(self._last, placed[0])
            self._last = placed[-1] if self._joined else None
            if placed := placed[again:]:
                messages.append(Committed(placed))
        messages += self._drafted("" if due.final else self._commitment.draft)
        if length:
            messages.append(Progressed(first.timeline.clock(length)))
        if due.final:
            self._recognised.add(due.audio, self._said, first.timeline.clock(length))
            self._said = []
            self._forget(first, length, whole=not due.cut)
        else:
            self._passed = length
        return [*messages, *self._settle()]

    def _passed_over(self, words: Sequence[Word]) -> bool:
        """Whether drafts had time to commit the first of the words that are left, and did not."""
        left = self._commitment.behind(words)
        return self._joined and bool(left) and self._passed - left[0].end >= _TIME_TO_COMMIT

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
