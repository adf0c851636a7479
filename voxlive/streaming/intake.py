"""What a session hears with: its ingest, its voice detector and its gate.

What a client asks of its session; audio is ``bytes`` in the declared format.

Audio that the gate has not decided about yet, addressed by sample on the session's clock.

What a session asks for, and what a server is started with: parsed once, at the edge.
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


class SpeechProbabilities(Protocol):
    """Hears speech: a voice detector's lane, or a null one that takes everything for speech."""

    async def push(self, samples: Samples) -> Iterable[float]:
        """The probabilities of the windows that these samples complete."""
        ...

    def close(self) -> None:
        """Free what it holds. May be called twice."""
        ...


class NoVad:
    """The ear of a session without voice detection: every window is speech."""

    def __init__(self) -> None:
        self._rest = 0

    async def push(self, samples: Samples) -> Iterable[float]:
        """One probability of 1.0 for each 512-sample window that is complete."""
        windows, self._rest = divmod(self._rest + len(samples), WINDOW)
        return [1.0] * windows

    def close(self) -> None:
        """Nothing is held."""


class Intake(NamedTuple):
    """From one sample of the session's clock on."""

    ingest: Ingest
    ear: SpeechProbabilities
    gate: Gate | OpenGate


OpenIntake = Callable[[int, int], Intake]
"""Makes a hearing for a stream with this trail, from this sample on."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Bring out all words so far, then say ``Flushed(marker)``."""

    marker: str


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """End the speech so far, say ``Flushed(marker)``, and hear what follows in another way."""

    listen: OpenIntake
    marker: str


@dataclass(frozen=True, slots=True)
class Stop:
    """There is no more audio; ``reason``: why, where that is not the client's doing."""

    reason: SessionError | None = None


Command = bytes | Flush | Reconfigure | Stop


class UndecidedOverflow(Exception):
    """More audio was appended than may wait for a decision."""


class UndecidedAudio:
    """A queue of samples ``start`` to ``end``: appended behind, taken or dropped in front.

    It holds at most ``capacity`` samples; an append beyond that raises HeldOverflow and changes
    nothing. The default leaves room for the gate's longest hold and seconds of new audio.
    """

    def __init__(self, capacity: int = 8 * SAMPLE_RATE) -> None:
        self.start = 0
        self.end = 0
        self._capacity = capacity
        self._parts: deque[Samples] = deque()

    def append(self, samples: Samples) -> None:
        """Add float32 samples [n], which nobody may change any more, behind ``end``."""
        if self.end + len(samples) - self.start > self._capacity:
            raise UndecidedOverflow(
                f"{self.end - self.start} samples wait for a decision and {len(samples)} more do "
                f"not fit in {self._capacity}: append shorter pieces, and judge each one"
            )
        if len(samples):
            self._parts.append(samples)
            self.end += len(samples)

    def take(self, start: int, end: int) -> Samples:
        """Remove everything before ``end`` and return float32 [end - start], for reading."""
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
        """Forget every sample before ``upto``."""
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


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """One session: how its audio arrives, where speech begins and ends, what the engine does.

    ``gate`` None means that everything is speech. ``stall_s``: when no audio arrives for this long
    in the middle of speech, what was heard is brought out as if the speaker had paused.
    ``replacements``: the client's dictionary, beside the server's.
    """

    audio: AudioFormat
    gate: GateOptions | None = field(default_factory=GateOptions)
    stream: StreamOptions = field(default_factory=StreamOptions)
    stall_s: float = 2.0
    replacements: Replacements = field(default_factory=Replacements)
