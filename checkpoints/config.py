"""What a Voxtral Realtime checkpoint says of itself, the same for every layout it comes in."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import UnsupportedConfig

CONV_STRIDE = 2
"""Mel frames per encoder frame: the stem's second convolution; no config carries it."""


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """The log-mel front end.

    ``n_fft`` is window and FFT size in samples. Log-mel values are clamped below at
    ``log_mel_max - 8`` (the config's ``global_log_mel_max``).
    """

    sample_rate: int
    n_fft: int
    hop: int
    mel_bins: int
    log_mel_max: float

    def __post_init__(self) -> None:
        _check_positive("audio", self, but=("log_mel_max",))


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The causal audio encoder. ``window`` counts encoder frames (20 ms each)."""

    dim: int
    layers: int
    heads: int
    head_dim: int
    ffn_dim: int
    window: int
    rope_theta: float
    norm_eps: float

    def __post_init__(self) -> None:
        _check_positive("encoder", self)
        _check_even("encoder.head_dim", self.head_dim)


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The text decoder. ``window`` counts positions (80 ms each); the embedding is tied."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    window: int
    rope_theta: float
    norm_eps: float
    ada_dim: int

    def __post_init__(self) -> None:
        _check_positive("decoder", self)
        _check_even("decoder.head_dim", self.head_dim)
        _check_even("decoder.dim", self.dim)
        if self.heads % self.kv_heads:
            raise UnsupportedConfig(
                f"decoder: {self.heads} query heads cannot share {self.kv_heads} key/value heads"
            )


@dataclass(frozen=True, slots=True)
class VoxtralConfig:
    """Everything about a checkpoint but its weights and its tokenizer.

    ``downsample`` encoder frames make one position. ``delay_tokens`` is the default delay between
    audio and text in positions; a stream starts with ``left_pad_tokens`` positions of silence.
    """

    audio: AudioConfig
    encoder: EncoderConfig
    decoder: DecoderConfig
    downsample: int
    delay_tokens: int
    left_pad_tokens: int

    def __post_init__(self) -> None:
        _check_positive("config", self, but=("audio", "encoder", "decoder"))

    @property
    def mel_per_token(self) -> int:
        """Mel frames per decoder position (8 in the released model)."""
        return CONV_STRIDE * self.downsample

    @property
    def samples_per_token(self) -> int:
        """Audio samples per decoder position (1280 in the released model)."""
        return self.audio.hop * self.mel_per_token

    @property
    def token_seconds(self) -> float:
        """Seconds of audio per decoder position (0.08 in the released model)."""
        return self.samples_per_token / self.audio.sample_rate


def _check_positive(part: str, config: object, but: tuple[str, ...] = ()) -> None:
    for field in fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if field.name not in but and value <= 0:
            raise UnsupportedConfig(f"{part}.{field.name} must be positive, not {value}")


def _check_even(name: str, value: int) -> None:
    if value % 2:
        raise UnsupportedConfig(f"{name} must be even, not {value}")
