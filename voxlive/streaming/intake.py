"""A session's way in: its options, the commands in its inbox, and what its audio goes through.

``SessionOptions`` are parsed once, at the edge. An ``Intake`` is the ingest, the voice detector and
the gate that audio goes through until the session is reconfigured. Positions are samples at 16 kHz
on the session's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from voxlive.engines.contract import StreamOptions
from voxlive.errors import BadAudio
from voxlive.streaming.crosstalk import MAX_SOURCES
from voxlive.streaming.ingest.formats import CONTAINER, AudioFormat
from voxlive.streaming.replacements import Replacements
from voxlive.vad.gate import WINDOW, Gate, GateOptions, OpenGate, UndecidedAudio
from voxlive.values import Samples, Word

if TYPE_CHECKING:
    from voxlive.streaming.events import SessionCheckpoint, SessionError
    from voxlive.streaming.ingest.live import Ingest


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session's audio arrives, where speech begins and ends, what the engine does.

    ``gate`` None means that everything is speech. ``stall_s``: when no audio arrives for so many
    seconds in the middle of speech, the utterance ends as if the speaker had paused.
    ``replacements``: the client's dictionary, beside the server's. ``model``: the live model that
    the client names, where a server has several; None: that of its connection. ``sources``: names
    of the channels, where each is a source of its own; none: they are mixed. ``suppress_leaks``:
    what one of the sources has of another's speech is taken out of it.
    """

    audio: AudioFormat
    gate: GateOptions | None = field(default_factory=GateOptions)
    stream: StreamOptions = field(default_factory=StreamOptions)
    stall_s: float = 2.0
    replacements: Replacements = field(default_factory=Replacements)
    model: str | None = None
    sources: tuple[str, ...] = ()
    suppress_leaks: bool = True

    def __post_init__(self) -> None:
        if not self.sources:
            return
        if self.audio.encoding == CONTAINER:
            raise BadAudio("several sources need PCM: a container's channels are mixed")
        if len(self.sources) != self.audio.channels or len({*self.sources}) < 2:
            raise BadAudio(
                f"{self.audio.channels} channels need as many different sources, 2 at least"
            )
        if self.suppress_leaks and len(self.sources) > MAX_SOURCES:
            raise BadAudio(f"leaks are suppressed among {MAX_SOURCES} sources at most")


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session as another server left it, for this one to go on with.

    Its audio comes again from sample ``first`` on. ``text``: of the closed segments, which are
    those before number ``segment``; ``words``: of the open one, ``committed``: the end of the last
    word of all. ``speech_events``: how many its client has. ``language``: that was found.
    """

    id: str
    checkpoint: SessionCheckpoint
    first: int
    text: str = ""
    segment: int = 0
    words: tuple[Word, ...] = ()
    committed: int | None = None
    speech_events: int = 0
    language: str | None = None


class SpeechProbabilities(Protocol):
    """One stream's audio and its speech probabilities: a voice detector's lane, or ``NoVad``."""

    @property
    def audio(self) -> UndecidedAudio:
        """What was pushed, until it is taken or dropped as the gate decides."""
        ...

    async def push(self, samples: Samples) -> Iterable[float]:
        """Add float32 samples [n] at 16 kHz to ``audio``, which must not be changed any more.

        Returns a probability for each 512-sample window completed. Raises VadError.
        """
        ...

    keeps_states: bool
    """Whether what ``state_at`` answers is kept."""

    def state_at(self, end: int) -> Samples | None:
        """What the network remembered at the end of a window that the last push completed."""
        ...

    def close(self) -> None:
        """Free what it holds. May be called twice."""
        ...


class NoVad:
    """The probabilities of a session without voice detection: every window is speech."""

    def __init__(self, at: int = 0, window: int | None = None) -> None:
        """``at`` is the stream's first sample, ``window`` that of its first window."""
        self.audio = UndecidedAudio(at)
        self._window = at if window is None else window
        self.keeps_states = False

    async def push(self, samples: Samples) -> Iterable[float]:
        """A probability of 1.0 for each 512-sample window completed."""
        self.audio.append(samples)
        windows = max(0, (self.audio.end - self._window) // WINDOW)
        self._window += windows * WINDOW
        return [1.0] * windows

    def state_at(self, _end: int) -> None:
        """It remembers nothing."""

    def close(self) -> None:
        """Nothing is shared that had to be freed."""


class Intake(NamedTuple):
    """What a session's audio goes through from one sample on."""

    ingest: Ingest
    vad: SpeechProbabilities
    gate: Gate | OpenGate


OpenIntake = Callable[[int, int], Intake]
"""Opens an intake for a stream with this trail, from this sample on. Raises BadAudio, VadError."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Commit all words so far, then emit ``Flushed(marker)``."""

    marker: str


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """End the speech so far, emit ``Flushed(marker)``, and go on with a new intake."""

    open_intake: OpenIntake
    marker: str


@dataclass(frozen=True, slots=True)
class Stop:
    """There is no more audio; ``reason`` says why, where the client did not ask for the end."""

    reason: SessionError | None = None


Command = bytes | Flush | Reconfigure | Stop
