"""One session's place in the Voxtral engine: what it hands over, and whom it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from .row import Audio, Mark

if TYPE_CHECKING:
    from ..engine import Message, Samples, Sink
    from .row_options import RowOptions


class Taker(Protocol):
    """The engine, as its streams see it."""

    def give(self, stream: VoxtralStream, item: Audio | Mark) -> None:
        """Hand an item to the stream's row."""
        ...

    def release(self, stream: VoxtralStream) -> bool:
        """The stream is over; whether it was not so already."""
        ...


class VoxtralStream:
    """See the module. Its row lives on the engine's thread."""

    def __init__(self, engine: Taker, options: RowOptions, trail: int, sink: Sink) -> None:
        self.options = options
        self.trail = trail
        self.sink = sink
        self.items: list[Audio | Mark] = []
        self.waiting = 0  # samples of audio in ``items``
        self.missing = 0  # samples of audio from which a round is worth it
        self.closed = False
        self._engine = engine

    def feed(self, audio: Samples, at: int) -> None:
        """See the contract; beyond the engine's ``MAX_WAITING_S`` it fails with ``overrun``."""
        self._engine.give(self, Audio(np.array(audio, np.float32), at))

    def end_utterance(self, marker: int) -> None:
        """See the contract."""
        self._engine.give(self, Mark(marker, flush=False))

    def flush(self, marker: int) -> None:
        """See the contract."""
        self._engine.give(self, Mark(marker, flush=True))

    def close(self) -> None:
        """See the contract."""
        self._engine.release(self)

    def send(self, message: Message) -> None:
        """To the sink, unless the stream was closed meanwhile."""
        if not self.closed:
            self.sink(message)
