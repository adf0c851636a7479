"""A session's way in: its options, the commands in its inbox, and what its audio goes through.

``SessionOptions`` are parsed once, at the edge. An ``Intake`` is the ingest, the voice detector and
the gate that audio goes through until the session is reconfigured. ``UndecidedAudio`` holds samples
until the gate has decided about them. Positions are samples at 16 kHz on the session's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from voxlive.engines.contract import StreamOptions
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.streaming.replacements import Replacements
from voxlive.vad.gate import WINDOW, Gate, GateOptions, OpenGate
from voxlive.values import SAMPLE_RATE, Samples

if TYPE_CHECKING:
    from voxlive.streaming.events import SessionError
    from voxlive.streaming.ingest.live import Ingest


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session's audio arrives, where speech begins and ends, what the engine does.

    ``gate`` None means that everything is speech. ``stall_s``: when no audio arrives for so many
    seconds in the middle of speech, the utterance ends as if the speaker had paused.
    ``replacements``: the client's dictionary, beside the server's.
    """

    audio: AudioFormat
    gate: GateOptions | None = field(default_factory=GateOptions)
    stream: StreamOptions = field(default_factory=StreamOptions)
    stall_s: float = 2.0
    replacements: Replacements = field(default_factory=Replacements)


class SpeechProbabilities(Protocol):
    """Speech probabilities of one stream: a voice detector's lane, or ``NoVad``."""

    async def push(self, samples: Samples) -> Iterable[float]:
        """Take float32 samples [n] at 16 kHz; a probability for each 512-sample window completed.

        Raises VadError.
        """
        ...

    def close(self) -> None:
        """Free what it holds. May be called twice."""
        ...


class NoVad:
    """The probabilities of a session without voice detection: every window is speech."""

    def __init__(self) -> None:
        self._rest = 0

    async def push(self, samples: Samples) -> Iterable[float]:
        """A probability of 1.0 for each 512-sample window completed."""
        windows, self._rest = divmod(self._rest + len(samples), WINDOW)
        return [1.0] * windows

    def close(self) -> None:
        """Nothing is held."""


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


class UndecidedOverflow(Exception):
    """More audio was appended than may wait for a decision."""


class UndecidedAudio:
    """A queue of samples ``start`` to ``end``: appended at the end, taken or dropped at the start.

    It holds at most ``capacity`` samples; an append beyond that raises UndecidedOverflow and
    changes nothing. The default has room for ``Gate.max_undecided`` and seconds of new audio.
    """

    def __init__(self, capacity: int = 8 * SAMPLE_RATE) -> None:
        self.start = 0
        self.end = 0
        self._capacity = capacity
        self._parts: deque[Samples] = deque()

    def append(self, samples: Samples) -> None:
        """Add float32 samples [n], which must not be changed any more, at ``end``."""
        if self.end + len(samples) - self.start > self._capacity:
            raise UndecidedOverflow(
                f"{self.end - self.start} samples wait for a decision and {len(samples)} more do "
                f"not fit in {self._capacity}: append shorter pieces, and decide about each one"
            )
        if len(samples):
            self._parts.append(samples)
            self.end += len(samples)

    def take(self, start: int, end: int) -> Samples:
        """Remove everything before ``end``; returns float32 [end - start], not to be written to.

        Raises ValueError for a range that is not held.
        """
        self._check(start, end)
        self.drop(start)
        parts = []
        while self.start < end:
            part = self._parts[0][: end - self.start]
            self._remove(len(part))
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def drop(self, upto: int) -> None:
        """Remove every sample before ``upto``. Raises ValueError if that is not held."""
        self._check(self.start, upto)
        while self.start < upto:
            self._remove(min(len(self._parts[0]), upto - self.start))

    def _remove(self, count: int) -> None:
        first = self._parts.popleft()
        if count < len(first):
            self._parts.appendleft(first[count:])
        self.start += count

    def _check(self, start: int, end: int) -> None:
        if not self.start <= start <= end <= self.end:
            raise ValueError(f"{start} to {end} is not within {self.start} to {self.end}")
