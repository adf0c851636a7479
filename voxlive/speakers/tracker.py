"""The speakers of one stream: from voices' vectors to who speaks when.

While somebody speaks a vector is made of the last 1.6 s, every 0.8 s and where the speech ends. A
vector that is near to a speaker's is that speaker's. One that is near to none may be of two
voices, so that a new speaker needs two that agree, or one of a whole stretch of speech. Until then
the stretch has the speaker that is nearest; within ``SETTLED`` samples it may be changed. Two
speakers whose vectors turn out to be as near to one another as those of one voice are one from
then on, by the number of the first (the criterion of ``clustering``).

``SpeakerTracker`` is pure. Positions are samples on the session's clock.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np

from voxlive.errors import CodedError
from voxlive.speakers.labels import MAX_SPEAKERS, SpeakerNamed, SpeakerRange, SpeakersFound
from voxlive.speakers.profiles import LEAST_VECTORS, VoiceProfile, nearest_profile
from voxlive.vad.gate import WINDOW as STEP
from voxlive.vad.gate import GateOptions
from voxlive.values import SAMPLE_RATE, Samples

if TYPE_CHECKING:
    from voxlive.speakers.encoder import SpeakerDetector
    from voxlive.values import Word

WINDOW = SAMPLE_RATE * 8 // 5
"""Samples that a vector is made of, at the most: 1.6 s."""
SETTLED = 5 * SAMPLE_RATE
"""Samples behind which what was said of speakers stands."""

_HOP = WINDOW // 2
_ONE_AFTER = 4  # vectors of each of two speakers who may be one
_PAUSE = 10 * STEP  # so much silence ends a stretch of speech: 320 ms
_FORGET = 10 * SAMPLE_RATE  # the vectors that may agree lie within
_NEAR = SAMPLE_RATE // 4
_FOREVER = 1 << 62
_MAX_PARTS = 512
_SURE = 50  # vectors of a speaker's mean; later ones count as one of so many


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike an encoder's vectors of one voice are: cosines.

    A vector nearer than ``same`` to a speaker's, on average over them, is that speaker's, and two
    of which neither is near to one are of a new one where they are as near to each other. So far as
    ``other`` from all speakers one vector of a whole stretch is a new one's. Two speakers whose
    vectors are as near as ``one`` to each other, on average, are one. ``profile``: the same of
    means of vectors, over sessions.
    """

    same: float = 0.66
    other: float = 0.6
    one: float = 0.74
    profile: float = 0.8


class SpeakerOptionError(CodedError, ValueError):
    """An option of speakers is out of its range; ``param`` names it."""

    code = "bad_parameter"


@dataclass(frozen=True, slots=True)
class SpeakerOptions:
    """How voices are told apart: at most ``max_speakers``, 1 to 20.

    Speech shorter than ``min_speech_ms`` (200 to 1600) says too little of a voice: it has the
    speaker of before. ``speakers``: how many there are, where that is known. ``profiles``: whose
    voice was remembered is called by name. Raises SpeakerOptionError.
    """

    max_speakers: int = 8
    min_speech_ms: int = 500
    speakers: int | None = None
    profiles: bool = False

    def __post_init__(self) -> None:
        _check("max_speakers", self.max_speakers, 1, MAX_SPEAKERS)
        _check("min_speech_ms", self.min_speech_ms, 200, 1600)
        if self.speakers is not None:
            _check("speakers", self.speakers, 1, self.max_speakers)


def _check(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SpeakerOptionError(f"{name} must be a whole number from {low} to {high}", name)


class Ask(NamedTuple):
    """A vector of samples ``start`` to ``end`` is wanted."""

    start: int
    end: int


@dataclass(slots=True)
class SpeakerPart:
    """``speaker`` speaks from sample ``start`` to ``end``. None: it is not known yet."""

    start: int
    end: int
    speaker: int | None
    vector: Samples | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SpeakerState:
    """A tracker's state behind the window that ends at sample ``end``, for another one to go on.

    ``stretch``: of the speech that goes on then, where it started and how many vectors it has had;
    None where nobody speaks. ``means``: float32 [speakers, width], each of so many vectors
    (``counts``, 0 for a number that is another speaker's by now). ``parts``: those of the last
    10 s, and one before.
    """

    end: int
    stretch: tuple[int, int] | None
    voiced_end: int
    told: int
    means: Samples
    counts: tuple[int, ...]
    parts: tuple[SpeakerPart, ...]

    def dump(self) -> list[object]:
        """As JSON."""
        parts = [(one.start, one.end, one.speaker, _text(one.vector)) for one in self.parts]
        means = _text(self.means if len(self.counts) else None)
        return [self.end, self.stretch, self.voiced_end, self.told, means, self.counts, parts]

    @classmethod
    def load(cls, dumped: Sequence[Any]) -> Self:
        """From JSON."""
        end, stretch, voiced_end, told, means, counts, parts = dumped
        found = _vector(means)
        found = np.zeros(0, np.float32) if found is None else found
        return cls(
            end,
            stretch and tuple(stretch),
            voiced_end,
            told,
            found.reshape(len(counts), -1) if counts else found,
            tuple(counts),
            tuple(SpeakerPart(a, b, who, _vector(text)) for a, b, who, text in parts),
        )


def _text(vector: Samples | None) -> str | None:
    return None if vector is None else b64encode(vector.tobytes()).decode()


def _vector(text: str | None) -> Samples | None:
    return None if text is None else np.frombuffer(b64decode(text), np.float32)


class SpeakerParts:
    """Who speaks when: ``parts`` are in order and do not overlap."""

    def __init__(self) -> None:
        self.parts: deque[SpeakerPart] = deque(maxlen=_MAX_PARTS)

    def speaker_at(self, sample: int) -> int | None:
        """Whose part it lies in or behind, or before within 0.25 s; None where nobody has spoken.

        It does not depend on what is further behind ``known`` than that.
        """
        following = None
        for part in reversed(self.parts):
            if part.end <= sample:
                near = following and following.start - sample < sample - part.end
                return following.speaker if following and near else part.speaker
            if part.start <= sample:
                return part.speaker
            following = part if part.start - sample < _NEAR else None
        return following.speaker if following else None


class SpeakerTracker(SpeakerParts):
    """The speakers of one stream from sample ``at`` on.

    After every ``push`` the vector that ``ask`` wants is to be given to ``hear``. ``known`` is the
    sample before which there are no more parts to come.
    """

    def __init__(
        self,
        options: SpeakerOptions,
        gate: GateOptions,
        at: int = 0,
        likeness: Likeness | None = None,
    ) -> None:
        super().__init__()
        self._likeness = likeness or Likeness()
        self.ask: Ask | None = None
        self._most = options.speakers or options.max_speakers
        self._shortest = options.min_speech_ms * SAMPLE_RATE // 1000
        self._threshold, self._exit = gate.threshold, gate.exit_threshold
        self._end = at
        self._finished = False
        self._start: int | None = None  # of the stretch of speech
        self._voiced_end = at
        self._told = at  # the end of the last part
        self._asked = 0  # vectors of this stretch
        self._last = False  # the vector that is asked for is the stretch's last
        self._means: list[Samples] = []
        self._counts: list[int] = []

    @property
    def known(self) -> int:
        """The sample before which every part is there, though it may change for a while."""
        if self._start is None:
            return _FOREVER if self._finished else self._end
        return max(self._told, self._start)

    @property
    def end(self) -> int:
        """The sample after the last window."""
        return self._end

    @property
    def count(self) -> int:
        """How many numbers speakers have had."""
        return len(self._means)

    @property
    def state(self) -> SpeakerState:
        """What another tracker goes on from; not while a vector is asked for."""
        parts = [*self.parts]
        first = sum(part.end <= self._end - _FORGET for part in parts)
        older = [replace(part, vector=None) for part in parts[:first]][-1:]
        return SpeakerState(
            self._end,
            None if self._start is None else (self._start, self._asked),
            self._voiced_end,
            self._told,
            np.array(self._means, np.float32),
            tuple(self._counts),
            (*older, *map(replace, parts[first:])),
        )

    def resume(self, state: SpeakerState) -> None:
        """Go on from there: windows before ``state.end`` are not to be pushed again."""
        self._start, self._asked = state.stretch or (None, 0)
        self._end, self._voiced_end, self._told = state.end, state.voiced_end, state.told
        self._means, self._counts = [*state.means], [*state.counts]
        self.parts.extend(replace(part) for part in state.parts)

    def voice(self, speaker: int) -> Samples | None:
        """See Speakers."""
        if speaker >= self.count or self._counts[speaker] < LEAST_VECTORS:
            return None
        mean = self._means[speaker]
        return mean / np.linalg.norm(mean)

    def profile_of(
        self, speaker: int, profiles: Sequence[VoiceProfile], taken: Collection[str]
    ) -> VoiceProfile | None:
        """See Speakers."""
        voice = self.voice(speaker)
        same = self._likeness.profile
        return None if voice is None else nearest_profile(voice, profiles, taken, same)

    def push(self, probability: float) -> None:
        """Take the probability of speech in the next window of 512 samples."""
        begin, self._end = self._end, self._end + STEP
        if self._start is None:
            if probability >= self._threshold:
                self._start, self._told, self._asked = begin, begin, 0
                self._voiced_end = self._end
            return
        if probability >= self._exit:
            self._voiced_end = self._end
        elif self._end - self._voiced_end >= _PAUSE:
            self._stop()
            return
        if self._voiced_end == self._end and self._end - self._start >= WINDOW + _HOP * self._asked:
            self.ask = Ask(self._end - WINDOW, self._end)

    def finish(self) -> None:
        """There is no more audio: the stretch ends here."""
        self._finished = True
        if self._start is not None:
            self._stop()

    def _stop(self) -> None:
        """The stretch of speech has ended."""
        assert self._start is not None
        left = self._voiced_end - self._told
        if left > 0:
            if self._voiced_end - self._start >= self._shortest:
                begin = max(self._start, self._voiced_end - WINDOW)
                self.ask, self._last = Ask(begin, self._voiced_end), True
                return
            self._tell(self._voiced_end, self._before, None)
        self._start = None

    @property
    def _before(self) -> int | None:
        return self.parts[-1].speaker if self.parts else None

    def hear(self, vector: Samples) -> None:
        """Take the vector that was asked for, of length 1."""
        asked, self.ask = self.ask, None
        assert asked
        if self._means and self._means[0].shape != vector.shape:
            self._forget_voices(len(vector))
        self._asked += 1
        last, self._last = self._last, False
        # It says most of its middle.
        upto = asked.end if last else asked.end - _HOP // 2
        whole = asked.end - asked.start >= WINDOW // 2
        alone = last and self._asked == 1
        self._tell(upto, self._speaker_of(vector, asked, whole, alone=alone), vector)
        if last:
            self._start = None

    def _forget_voices(self, width: int) -> None:
        """They were another encoder's, at another server: whoever speaks gets a new number."""
        self._means = [np.zeros(width, np.float32) for _ in self._means]
        self._counts = [0] * len(self._counts)
        for part in self.parts:
            part.vector = None

    def _tell(self, upto: int, speaker: int | None, vector: Samples | None) -> None:
        self.parts.append(SpeakerPart(self._told, upto, speaker, vector))
        self._told = upto

    def _speaker_of(self, vector: Samples, asked: Ask, whole: bool, *, alone: bool) -> int | None:
        near = [self._near(vector, speaker) for speaker in range(len(self._means))]
        best = int(np.argmax(near)) if any(self._counts) else None
        if best is not None and near[best] >= self._likeness.same:
            if whole:
                self._learn(best, vector)
                return self._joined(best, asked.end)
            return best
        if self._full or not whole:
            return best
        if best is None or (alone and near[best] < self._likeness.other):
            return self._new(vector)
        for part in reversed(self.parts):
            if part.end < asked.end - _FORGET:
                break
            other = part.vector
            if other is None or float(other @ vector) < self._likeness.same:
                continue
            if self._stray(part):
                speaker = self._new(vector)
                self._learn(speaker, other)
                if part.end >= asked.end - SETTLED:
                    part.speaker = speaker
                return speaker
        return best

    def _stray(self, part: SpeakerPart) -> bool:
        """Whether it is far from the speaker that it was given to."""
        if part.vector is None or part.speaker is None:
            return part.vector is not None
        return self._near(part.vector, part.speaker) < self._likeness.same

    def _near(self, vector: Samples, speaker: int) -> float:
        """The cosine of a vector of length 1 to those of a speaker, on average over them.

        The less these are alike the shorter their mean is. By the cosine to that alone, two people
        who were taken for one would stay so: whoever comes lies between them.
        """
        return float(vector @ self._means[speaker]) if self._counts[speaker] else -2.0

    @property
    def _full(self) -> bool:
        return len(self._means) >= self._most and all(self._counts)

    def _new(self, vector: Samples) -> int:
        """A new speaker, whose number is that of one who was another only where none is left."""
        if len(self._means) < self._most:
            self._means.append(vector.copy())
            self._counts.append(1)
            return len(self._means) - 1
        free = self._counts.index(0)
        self._means[free], self._counts[free] = vector.copy(), 1
        return free

    def _joined(self, speaker: int, end: int) -> int:
        """The number of a speaker, who may have turned out to be another one by sample ``end``."""
        for other in range(len(self._means)):
            if other == speaker or min(self._counts[speaker], self._counts[other]) < _ONE_AFTER:
                continue
            # The mean of the cosines over all pairs, since every vector has length 1.
            if float(self._means[speaker] @ self._means[other]) >= self._likeness.one:
                one, two = sorted((speaker, other))
                self._join(one, two, end - SETTLED)
                return one
        return speaker

    def _join(self, one: int, two: int, settled: int) -> None:
        counts = np.array([self._counts[one], self._counts[two]], np.float32)
        both = np.stack([self._means[one], self._means[two]])
        self._means[one] = counts @ both / counts.sum()
        self._counts[one], self._counts[two] = min(int(counts.sum()), _SURE), 0
        for part in self.parts:
            if part.speaker == two and part.end >= settled:
                part.speaker = one

    def _learn(self, speaker: int, vector: Samples) -> None:
        count = self._counts[speaker] = min(self._counts[speaker] + 1, _SURE)
        share = np.float32(1 / count)
        self._means[speaker] = self._means[speaker] * (1 - share) + vector * share


@dataclass(slots=True)
class HeardWord:
    """Word ``number`` of a segment, counted from 0, and whose it was said to be."""

    segment: int
    number: int
    middle: int
    speaker: int | None = None


class Speakers(Protocol):
    """The speakers of one stream of audio, by an encoder or by another network.

    ``known`` is the sample before which it is known who speaks, ``end`` that before which audio was
    heard, ``count`` how many speakers there were.
    """

    @property
    def known(self) -> int: ...  # noqa: D102
    @property
    def end(self) -> int: ...  # noqa: D102
    @property
    def count(self) -> int: ...  # noqa: D102

    def speaker_at(self, sample: int) -> int | None:
        """See SpeakerParts."""
        ...

    async def receive(self, samples: Samples, probabilities: Iterable[float]) -> None:
        """Take float32 samples [n] at 16 kHz, a second at the most, and the windows they complete.

        Raises NetworkFailed.
        """
        ...

    async def flush(self) -> None:
        """There is no more audio. Raises NetworkFailed."""
        ...

    keeps_states: bool
    """Whether another server can go on with them, from ``state``."""

    @property
    def state(self) -> SpeakerState | None:
        """What the ones at another server go on from, not while ``receive`` runs."""
        ...

    def go_on(self, state: SpeakerState | None, window: int) -> None:
        """Go on from there, None: from the beginning. ``window``: where the next window begins."""
        ...

    def voice(self, speaker: int) -> Samples | None:
        """The mean of a speaker's vectors, float32 [width] of length 1, to remember them by.

        None before enough was heard, and where voices have no vectors.
        """
        ...

    def profile_of(
        self, speaker: int, profiles: Sequence[VoiceProfile], taken: Collection[str]
    ) -> VoiceProfile | None:
        """The profile of a speaker's voice, see ``nearest_profile``; None while there is none."""
        ...

    def close(self) -> None:
        """Free what they hold. May be called twice."""
        ...


class EncodedSpeakers(SpeakerTracker):
    """Those of an encoder: a tracker, the last audio, the vectors. At most 4 s of audio are kept.

    Raises SpeakersMissing.
    """

    keeps_states = True

    def __init__(
        self, detector: SpeakerDetector, options: SpeakerOptions, gate: GateOptions, at: int = 0
    ) -> None:
        detector.prepare()
        super().__init__(options, gate, at, detector.likeness)
        self._detector = detector
        self._audio = np.zeros(0, np.float32)
        self._received = at
        self._before_state = 0  # windows that those of another server have had

    def go_on(self, state: SpeakerState | None, window: int) -> None:
        """See Speakers."""
        if state:
            self._before_state = (state.end - window) // STEP
            self.resume(state)

    async def receive(self, samples: Samples, probabilities: Iterable[float]) -> None:
        """See Speakers."""
        self._audio = np.concatenate((self._audio[-3 * SAMPLE_RATE :], samples))
        self._received += len(samples)
        for probability in probabilities:
            if self._before_state:
                self._before_state -= 1
            else:
                self.push(float(probability))
                await self._answer()

    async def flush(self) -> None:
        """See Speakers."""
        self.finish()
        await self._answer()

    async def _answer(self) -> None:
        if asked := self.ask:
            first = self._received - len(self._audio)
            audio = self._audio[asked.start - first : asked.end - first]
            self.hear(await self._detector.ask(audio))

    def close(self) -> None:
        """Nothing is shared that had to be freed."""


class SpeakerLane:
    """The speakers of one stream and of its words, of which those are kept that may change."""

    def __init__(self, speakers: Speakers, at: int = 0) -> None:
        self.speakers = speakers
        self._words: deque[HeardWord] = deque()
        self._segment = self._number = -1
        self._told_upto = at
        self._profiles: Sequence[VoiceProfile] = ()
        self._names: dict[int, str] = {}

    def resume(
        self, state: SpeakerState | None, words: Iterable[HeardWord], window: int, told_upto: int
    ) -> None:
        """Go on from a checkpoint, None: from the beginning, behind these words.

        ``window`` is where the next window begins. What was said of the words follows from the
        audio before sample ``told_upto``: until that has come again nothing else is said of them.
        """
        self._told_upto = told_upto
        self.speakers.go_on(state, window)
        for word in words:
            self._segment, self._number = word.segment, word.number
            # What was said of others stands.
            if not state or word.middle + _NEAR >= state.end - SETTLED:
                self._words.append(word)

    def add(self, segment: int, words: Iterable[Word]) -> None:
        """Words that were committed to a segment."""
        for word in words:
            self._number = self._number + 1 if segment == self._segment else 0
            self._segment = segment
            self._words.append(HeardWord(segment, self._number, (word.start + word.end) // 2))

    def found(self) -> SpeakersFound | None:
        """Whose words are newly known, or changed; None where nothing is."""
        tracker, ranges = self.speakers, list[SpeakerRange]()
        settled = tracker.end - SETTLED
        for word in self._words:
            if word.middle + _NEAR > tracker.known:
                break
            speaker = tracker.speaker_at(word.middle)
            if speaker is None or speaker == word.speaker:
                continue
            if word.speaker is not None and tracker.end < self._told_upto:
                continue
            word.speaker = speaker
            last = ranges[-1] if ranges else None
            if last and last.last + 1 == word.number and last[::3] == (word.segment, speaker):
                ranges[-1] = last._replace(last=word.number)
            else:
                ranges.append(SpeakerRange(word.segment, word.number, word.number, speaker))
        while self._words and self._words[0].middle + _NEAR < min(settled, tracker.known):
            self._words.popleft()
        return SpeakersFound(tuple(ranges), tracker.count, upto=tracker.end) if ranges else None

    def know(self, profiles: Sequence[VoiceProfile], names: Mapping[int, str]) -> None:
        """Recognise these voices from now on, but of speakers who have ``names`` already."""
        self._profiles, self._names = profiles, dict(names)

    def recognised(self) -> list[SpeakerNamed]:
        """Who is newly recognised, once each."""
        found = []
        for speaker in range(self.speakers.count if self._profiles else 0):
            if speaker in self._names:
                continue
            taken = self._names.values()
            if profile := self.speakers.profile_of(speaker, self._profiles, taken):
                self._names[speaker] = profile.name
                found.append(SpeakerNamed(speaker, profile.name, by_voice=True))
        return found
