"""What a session tells its client: the only things that protocol adapters see.

All times are samples on the session's clock (16 kHz, see ``clock``).
"""

from __future__ import annotations

from dataclasses import dataclass

from voxlive.values import Word


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The voice detector heard speech begin at sample ``at``."""

    at: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The voice detector heard speech end at sample ``at``."""

    at: int


@dataclass(frozen=True, slots=True)
class Words:
    """Words committed to a segment: said once, in order, never changed."""

    segment: int
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The delta: the words' texts joined."""
        return "".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Draft:
    """What may still change: replaces the previous draft; an empty text clears it."""

    segment: int
    text: str


@dataclass(frozen=True, slots=True)
class SegmentClosed:
    """A segment is complete; ``text`` is exactly its words' texts joined.

    ``received``: how much audio there was then, beyond which nothing may be shown to last.
    """

    id: int
    start: int
    end: int
    text: str
    received: int | None = None


@dataclass(frozen=True, slots=True)
class UtteranceEnded:
    """The speaker paused, or no audio came for long: all words before sample ``upto`` were told.

    It follows the segment that this closed, and comes where there were no words as well.
    """

    upto: int


@dataclass(frozen=True, slots=True)
class Flushed:
    """Everything sent before the flush with this marker has been said."""

    marker: str


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the engine is behind the audio received, in seconds."""

    behind_s: float


@dataclass(frozen=True, slots=True)
class SessionWarning:
    """Something that the user should know and that ends nothing, such as audio that was lost."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class SessionError:
    """The session failed or refused something; ``fatal`` says whether it ends here."""

    code: str
    message: str
    fatal: bool = True


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The last event. ``samples`` is the length of all audio received."""

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
