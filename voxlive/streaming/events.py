"""The events of a session: all that protocols see of it.

Times are samples on the session's clock: counts at 16 kHz since its first sample.
"""

from __future__ import annotations

from dataclasses import dataclass

from voxlive.values import Word


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Speech began at sample ``at``, by the voice detector."""

    at: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """Speech ended at sample ``at``, by the voice detector."""

    at: int


@dataclass(frozen=True, slots=True)
class Words:
    """Words committed to a segment: each comes once, in order, and never changes."""

    segment: int
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The delta: the words' texts joined."""
        return "".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Draft:
    """The text after the last committed word. It replaces the last draft; "" clears that."""

    segment: int
    text: str


@dataclass(frozen=True, slots=True)
class SegmentClosed:
    """A segment is complete; ``text`` is exactly its words' texts joined.

    ``received``: the samples received by then; times shown to users must not lie beyond.
    """

    id: int
    start: int
    end: int
    text: str
    received: int | None = None


@dataclass(frozen=True, slots=True)
class UtteranceEnded:
    """The speaker paused, or no audio came for long: all words before sample ``upto`` are out.

    It follows the segment that this closed, and also comes where there were no words.
    """

    upto: int


@dataclass(frozen=True, slots=True)
class Flushed:
    """All words of what was sent before the flush with this marker are out."""

    marker: str


@dataclass(frozen=True, slots=True)
class Lag:
    """How many seconds the engine is behind the audio received."""

    behind_s: float


@dataclass(frozen=True, slots=True)
class SessionWarning:
    """Something that the user should know and that ends nothing, such as audio that was lost."""

    code: str
    message: str


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


Event = (
    SpeechStarted
    | SpeechStopped
    | Words
    | Draft
    | SegmentClosed
    | UtteranceEnded
    | Flushed
    | Lag
    | SessionWarning
    | SessionError
    | SessionClosed
)
