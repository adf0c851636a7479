"""What a stream may ask of the model, and what that makes of its row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...encoders.mel import MelFrontEnd

if TYPE_CHECKING:
    from .model import Model

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


def row_options(delay_ms: int, model: Model) -> RowOptions:
    """For a delay that is one of the model's."""
    token_ms = 1000 * model.front_end.samples // model.config.audio.sample_rate
    return RowOptions(model.front_end, model.config.left_pad_tokens, delay_ms // token_ms)
