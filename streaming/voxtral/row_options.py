"""What a stream may ask of the model, and what that makes of its row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...encoders.mel import MelFrontEnd
from ..engine import UnsupportedOption

if TYPE_CHECKING:
    from ..engine import EngineInfo, StreamOptions
    from .model import Model


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
        config = self.front_end.config
        return config.n_fft // 2 - config.hop


def row_options(asked: StreamOptions, info: EngineInfo, model: Model) -> RowOptions:
    """A delay is a multiple of 80 ms; a language is found by the model. Else UnsupportedOption."""
    if asked.language and asked.language.split("-")[0] not in info.languages:
        raise UnsupportedOption(
            f"{info.model} knows no language {asked.language!r}, only " + ", ".join(info.languages)
        )
    delay_ms = asked.delay_ms or info.default_delay_ms or 0
    token_ms = 1000 * model.front_end.samples // model.config.audio.sample_rate
    longest = model.decoder.max_delay_tokens * token_ms
    if delay_ms % token_ms or not token_ms <= delay_ms <= longest:
        raise UnsupportedOption(
            f"delay_ms must be a multiple of {token_ms} up to {longest}, not {delay_ms}"
        )
    return RowOptions(model.front_end, model.config.left_pad_tokens, delay_ms // token_ms)
