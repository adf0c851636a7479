"""The description of a Voxtral Realtime checkpoint, the same for every layout it comes in.

``Section`` reads JSON documents key by key, so that an error names the key and the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from voxlive.errors import CheckpointError, DamagedFile, UnsupportedConfig

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


class Section:
    """An object in a JSON document. ``path`` is where it stands, for messages.

    ``error`` is what a missing or unusable value raises.
    """

    def __init__(
        self, data: dict[str, Any], path: str, error: type[CheckpointError] = UnsupportedConfig
    ) -> None:
        self.data = data
        self.path = path
        self.error = error

    def __contains__(self, key: str) -> bool:
        """Whether ``key`` is there and not null."""
        return self.data.get(key) is not None

    def section(self, key: str) -> Section:
        """The object under ``key``."""
        value = self._present(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return Section(value, self._at(key), self.error)

    def list(self, key: str) -> list[Any]:
        """The array under ``key``."""
        value = self._present(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return value

    def text(self, key: str) -> str:
        """The string under ``key``."""
        value = self._present(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """The whole number under ``key``; some exporters write it as a string."""
        value = self._present(key) if default is None else self.data.get(key, default)
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, "a whole number", value)
        return value

    def number(self, key: str) -> float:
        """The number under ``key``."""
        value = self._present(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(key, "a number", value)
        return float(value)

    def require(self, key: str, *known: object) -> None:
        """Refuse any value under ``key`` but ``known`` ones; absent and null are fine."""
        if key in self and self.data[key] not in known:
            names = " or ".join(json.dumps(value) for value in known)
            value = json.dumps(self.data[key])[:80]
            raise self.error(f"{self._at(key)} is {value}; only {names or 'null'} is supported")

    def _present(self, key: str) -> Any:
        if key not in self:
            raise self.error(f"{self._at(key)} is missing")
        return self.data[key]

    def _wrong(self, key: str, kind: str, value: object) -> CheckpointError:
        return self.error(f"{self._at(key)} must be {kind}, not {json.dumps(value)[:80]}")

    def _at(self, key: str) -> str:
        return f"{self.path}: {key}" if self.path.endswith(".json") else f"{self.path}.{key}"


def read_json(path: Path, error: type[CheckpointError] = UnsupportedConfig) -> Section:
    """The object in a JSON file; raises DamagedFile when it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise DamagedFile(f"{path} is not a JSON document: {problem}") from problem
    if not isinstance(data, dict):
        raise DamagedFile(f"{path} holds no JSON object")
    return Section(data, path.name, error)
