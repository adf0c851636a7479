"""One session's place in the Voxtral engine: what it hands over, and whom it answers.

What a stream may ask of the model, and what that makes of its row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from voxlive.encoders.mel import MelFrontEnd
from voxlive.engines.voxtral.row import RowAudio, RowMark

if TYPE_CHECKING:
    from voxlive.engines.contract import Message, Sink
    from voxlive.engines.voxtral.model import VoxtralModel
    from voxlive.values import Samples


class StreamOwner(Protocol):
    """The engine, as its streams see it."""

    def give(self, stream: VoxtralStream, item: RowAudio | RowMark) -> None:
        """Hand an item to the stream's row."""
        ...

    def release(self, stream: VoxtralStream) -> bool:
        """The stream is over; whether it was not so already."""
        ...


class VoxtralStream:
    """See the module. Its row lives on the engine's thread."""

    def __init__(self, engine: StreamOwner, options: RowOptions, trail: int, sink: Sink) -> None:
        self.options = options
        self.trail = trail
        self.sink = sink
        self.items: list[RowAudio | RowMark] = []
        self.waiting = 0  # samples of audio in ``items``
        self.missing = 0  # samples of audio from which a round is worth it
        self.closed = False
        self._engine = engine

    def feed(self, audio: Samples, at: int) -> None:
        """See the contract; beyond the engine's ``MAX_WAITING_S`` it fails with ``overrun``."""
        self._engine.give(self, RowAudio(np.array(audio, np.float32), at))

    def end_utterance(self, marker: int) -> None:
        """See the contract."""
        self._engine.give(self, RowMark(marker, flush=False))

    def flush(self, marker: int) -> None:
        """See the contract."""
        self._engine.give(self, RowMark(marker, flush=True))

    def close(self) -> None:
        """See the contract."""
        self._engine.release(self)

    def send(self, message: Message) -> None:
        """To the sink, unless the stream was closed meanwhile."""
        if not self.closed:
            self.sink(message)


TRAIL_TOKENS = 4
"""Tokens of real audio beyond the delay after which the last words are normally out."""


@dataclass(frozen=True, slots=True)
class RowOptions:
    """What the model and the stream's delay make of a row. Lengths in tokens and samples."""

    front_end: MelFrontEnd
    left_pad_tokens: int
    delay_tokens: int

    @property
    def per_token(self) -> int:
        """Samples to a token of audio."""
        return self.front_end.samples

    @property
    def prompt(self) -> int:
        """Tokens of audio that the prompt covers: BOS, the silence on the left, the delay."""
        return 1 + self.left_pad_tokens + self.delay_tokens

    @property
    def look_ahead(self) -> int:
        """Samples beyond a token's end that its last mel frame needs."""
        return look_ahead(self.front_end)


def look_ahead(front_end: MelFrontEnd) -> int:
    """See ``RowOptions.look_ahead``."""
    config = front_end.config
    return config.n_fft // 2 - config.hop


def trail_margin(front_end: MelFrontEnd) -> int:
    """See ``EngineInfo.trail_margin``."""
    return TRAIL_TOKENS * front_end.samples + look_ahead(front_end)


def row_options(delay_ms: int, model: VoxtralModel) -> RowOptions:
    """For a delay that is one of the model's."""
    token_ms = 1000 * model.front_end.samples // model.config.audio.sample_rate
    return RowOptions(model.front_end, model.config.left_pad_tokens, delay_ms // token_ms)
