"""The events of a session, all that protocols see of it, and the transcript that makes them.

In a ``LiveTranscript`` words are committed once, in order, and segments close. Times are samples on
the session's clock: counts at 16 kHz since its first sample. ``source`` is which of the session's
sources an event is about, "" in a session that has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from voxlive.values import SAMPLE_RATE, Samples, Word

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voxlive.speakers.labels import SpeakerNamed, SpeakersFound
    from voxlive.speakers.tracker import SpeakerState
    from voxlive.turns.tracker import TurnEvent, TurnState
    from voxlive.vad.gate import GateState

_LOOK_BACK = SAMPLE_RATE // 4
_TURNS_LOOK_BACK, _SPEAKERS_LOOK_BACK = 9 * SAMPLE_RATE, 2 * SAMPLE_RATE
_LEARN_LEAKS = 4 * SAMPLE_RATE
_LAG_EVERY_S = 1.0
_LAG_STEP_S = 0.1


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Speech began at sample ``at``, by the voice detector."""

    at: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """Speech ended at sample ``at``, by the voice detector."""

    at: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """Words committed to a segment: each comes once, in order, and never changes."""

    segment: int
    words: tuple[Word, ...]
    source: str = ""

    @property
    def text(self) -> str:
        """The delta: the words' texts joined."""
        return "".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Draft:
    """The text after the last committed word. It replaces the last draft; "" clears that."""

    segment: int
    text: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class SegmentClosed:
    """A segment is complete; ``text`` is exactly its words' texts joined.

    ``received``: the samples received by then; times shown to users must not lie beyond.
    ``covered``: with several sources, the samples before which this holds for all of them.
    """

    id: int
    start: int
    end: int
    text: str
    received: int | None = None
    source: str = ""
    covered: int | None = None


@dataclass(frozen=True, slots=True)
class UtteranceEnded:
    """The speaker paused, or no audio came for long: all words before sample ``upto`` are out.

    It follows the segment that this closed, and also comes where there were no words.
    """

    upto: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class TurnClosed:
    """All words of a turn that has ended are out; ``text`` is what they make.

    It speaks from sample ``start`` to ``end``. A turn without words has it too.
    """

    turn: int
    start: int
    end: int
    text: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Flushed:
    """All words of what was sent before the flush with this marker are out."""

    marker: str


@dataclass(frozen=True, slots=True)
class LanguageDetected:
    """The model has found out which language is spoken: a code. It holds for the session.

    ``probability`` is None where the engine does not know it.
    """

    language: str
    probability: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Recovered:
    """The engine failed, and another one goes on: audio from sample ``at`` is recognised again.

    Words that were committed stay and do not come again.
    """

    at: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Lag:
    """How many seconds the engine is behind the audio received."""

    behind_s: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class SessionWarning:
    """Something that the user should know and that ends nothing, such as audio that was lost."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class SourceCheckpoint:
    """Every word of what was fed before ``gate.done`` is out, and every segment is closed.

    Another server can go on with the source from here: with the gate's state, the number of
    samples ``fed`` and of ``speech_events`` (SpeechStarted, SpeechStopped) so far, and what the
    voice detector's ``network`` remembers at ``gate.end``: float32 [2, 128], None without one.
    Where there are ``turns`` or ``speakers``, also from their states there or behind.
    """

    gate: GateState
    fed: int = 0
    speech_events: int = 0
    network: Samples | None = None
    turns: TurnState | None = None
    speakers: SpeakerState | None = None

    def first(self, rate: int) -> int:
        """The sample from which a server that goes on needs audio; also a whole one at ``rate``.

        It lies before the gate's by what a resampler and all detectors look back.
        """
        whole = SAMPLE_RATE // math.gcd(rate, SAMPLE_RATE)
        back = _SPEAKERS_LOOK_BACK if self.speakers else _LOOK_BACK
        back = _TURNS_LOOK_BACK if self.turns else back
        return max(0, min(self.gate.done, self.gate.end) - back) // whole * whole


@dataclass(frozen=True, slots=True, eq=False)
class SessionCheckpoint:
    """Where another server can go on with the session, for each of its sources in their order."""

    sources: tuple[SourceCheckpoint, ...]

    def first(self, rate: int) -> int:
        """The sample from which a server that goes on needs audio; also a whole one at ``rate``.

        Of several sources that is some seconds more, in which it learns again what they leak.
        """
        first = min(source.first(rate) for source in self.sources)
        whole = SAMPLE_RATE // math.gcd(rate, SAMPLE_RATE)
        return max(0, first - _LEARN_LEAKS) // whole * whole if len(self.sources) > 1 else first


@dataclass(frozen=True, slots=True)
class SessionError:
    """The session failed or refused something; it ends with this if ``fatal``."""

    code: str
    message: str
    fatal: bool = True


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The last event. ``samples`` is the number of all samples received."""

    samples: int


Event: TypeAlias = (
    "SpeechStarted | SpeechStopped | Words | Draft | SegmentClosed | UtteranceEnded | TurnEvent | "
    "TurnClosed | SpeakersFound | SpeakerNamed | Flushed | LanguageDetected | Recovered | Lag | "
    "SessionWarning | SessionCheckpoint | SessionError | SessionClosed"
)
"""All that protocols see. A text: a command that needs no audio does not wait for numpy."""


class LongText:
    """A text that grows for as long as a session lasts, kept as one object of bytes.

    An object for each word, in many sessions, would cost the garbage collector long passes.
    """

    def __init__(self) -> None:
        self._utf8 = bytearray()

    def append(self, text: str) -> None:
        """Add text at the end."""
        self._utf8 += text.encode("utf-8", "surrogatepass")

    def __str__(self) -> str:
        return self._utf8.decode("utf-8", "surrogatepass")


class LiveTranscript:
    """Turns an engine's words into events. Pure: no clock, no I/O.

    Every word keeps its own leading space, but for the first of the session: the joined texts of
    all words are the transcript, and those of a segment's words are the segment. ``idents``: where
    segments get their ids from, which count from 0 otherwise. It may go on from ``text``, that of
    closed segments, and the ``words`` of the open one.
    """

    def __init__(
        self, idents: Iterator[int] | None = None, text: str = "", words: tuple[Word, ...] = ()
    ) -> None:
        self._idents = idents or count()
        self._closed = LongText()
        self._closed.append(text)
        self._open: list[str] = []
        self._start = self._end = 0
        self._segment = next(self._idents)
        self._draft = ""
        self._begun = text != ""
        self.commit(words)

    @property
    def text(self) -> str:
        """Everything committed so far."""
        return "".join((str(self._closed), *self._open))

    def commit(self, words: tuple[Word, ...]) -> Words | None:
        """Add words to the open segment; None if there are none."""
        if not words:
            return None
        if not self._begun:
            words = (replace(words[0], text=words[0].text.lstrip()), *words[1:])
            self._begun = True
        if not self._open:
            self._start = words[0].start
        self._end = words[-1].end
        self._open.extend(word.text for word in words)
        return Words(self._segment, words)

    def set_draft(self, text: str) -> Draft | None:
        """Replace the draft; None if it is the same as before."""
        text = text if self._begun else text.lstrip()
        if text == self._draft:
            return None
        self._draft = text
        return Draft(self._segment, text)

    def close_segment(self, received: int | None = None) -> SegmentClosed | None:
        """Close the open segment, with the samples ``received``; None if it has no words."""
        if not self._open:
            return None
        text = "".join(self._open)
        closed = SegmentClosed(self._segment, self._start, self._end, text, received)
        self._closed.append(closed.text)
        self._open.clear()
        self._segment = next(self._idents)
        return closed


class LagReporter:
    """Decides when a client learns how far the engine is behind.

    At most once a second, and when that has changed by 0.1 s. Pure: times are seconds on any clock.
    """

    def __init__(self, now: float) -> None:
        self._behind_s = 0.0
        self._at = now

    def next(self, samples: int, now: float) -> Lag | None:
        """The event to emit when so many ``samples`` are in the engine; None: none now."""
        behind_s = samples / SAMPLE_RATE
        if now - self._at < _LAG_EVERY_S or abs(behind_s - self._behind_s) < _LAG_STEP_S:
            return None
        self._behind_s, self._at = behind_s, now
        return Lag(round(behind_s, 2))
