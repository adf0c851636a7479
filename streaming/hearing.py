"""What a session hears with: its ingest, its voice detector and its gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..vad.gate import WINDOW, Gate, OpenGate

if TYPE_CHECKING:
    from .engine import Samples
    from .ingest import Ingest


class Ear(Protocol):
    """Hears speech: a voice detector's lane, or a null one that takes everything for speech."""

    async def push(self, samples: Samples) -> Iterable[float]:
        """The probabilities of the windows that these samples complete."""
        ...

    def close(self) -> None:
        """Free what it holds. May be called twice."""
        ...


class AlwaysSpeech:
    """The ear of a session without voice detection: every window is speech."""

    def __init__(self) -> None:
        self._rest = 0

    async def push(self, samples: Samples) -> Iterable[float]:
        """One probability of 1.0 for each 512-sample window that is complete."""
        windows, self._rest = divmod(self._rest + len(samples), WINDOW)
        return [1.0] * windows

    def close(self) -> None:
        """Nothing is held."""


class Hearing(NamedTuple):
    """From one sample of the session's clock on."""

    ingest: Ingest
    ear: Ear
    gate: Gate | OpenGate


Listen = Callable[[int, int], Hearing]
"""Makes a hearing for a stream with this trail, from this sample on."""
