"""The description of a Voxtral Realtime checkpoint, read from the three documents in circulation.

Those are Mistral's params.json (voxmlx keeps the same one as config.json), mlx-audio's config.json
and transformers' config.json with its feature extractor, recognised by their keys. ``Section``
reads JSON documents key by key, so that an error names the key and the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxlive.errors import CheckpointError, DamagedFile, UnsupportedConfig

if TYPE_CHECKING:
    from voxlive.checkpoints.tekken import TekkenAudio

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


_DELAY_MS = 480.0
_LEFT_PAD_TOKENS = 32
_ADA_DIM = 32
_LOG_MEL_MAX = 1.5
"""Of the released model, for files that leave them out: no shape requires them."""


def read_config(
    document: Section, extractor: Section | None = None, tokenizer: TekkenAudio | None = None
) -> VoxtralConfig:
    """Read a config; ``extractor`` is transformers' preprocessor document, if there is one.

    Default delay and left padding are the config's, else the tokenizer's, else the released
    model's. Raises UnsupportedConfig with the key that is missing or beyond this model code.
    """
    for key, read in _SHAPES.items():
        if key in document:
            return read(document, extractor, tokenizer)
    raise UnsupportedConfig(
        f"{document.path} describes no Voxtral Realtime model: it has none of {', '.join(_SHAPES)}"
    )


def _mistral(document: Section, _: Section | None, tokenizer: TekkenAudio | None) -> VoxtralConfig:
    whisper = document.section("multimodal").section("whisper_model_args")
    encoder = whisper.section("encoder_args")
    downsample = whisper.section("downsample_args").integer("downsample_factor")
    return _from_mistral_args(document, encoder, encoder, downsample, document, tokenizer)


def _mlx_audio(
    document: Section, _extractor: Section | None, tokenizer: TekkenAudio | None
) -> VoxtralConfig:
    document.require("model_type", "voxtral_realtime")
    encoder = document.section("encoder_args")
    audio_at = document if "audio_encoding_args" in document else encoder
    downsample = encoder.integer("downsample_factor")
    decoder = document.section("decoder")
    return _from_mistral_args(decoder, encoder, audio_at, downsample, document, tokenizer)


def _from_mistral_args(
    decoder: Section,
    encoder: Section,
    audio_at: Section,
    downsample: int,
    defaults: Section,
    tokenizer: TekkenAudio | None,
) -> VoxtralConfig:
    audio = audio_at.section("audio_encoding_args")
    config = VoxtralConfig(
        audio=AudioConfig(
            sample_rate=audio.integer("sampling_rate"),
            n_fft=audio.integer("window_size"),
            hop=audio.integer("hop_length"),
            mel_bins=audio.integer("num_mel_bins"),
            log_mel_max=audio.number("global_log_mel_max"),
        ),
        encoder=_mistral_encoder(encoder),
        decoder=_mistral_decoder(decoder),
        downsample=downsample,
        delay_tokens=1,
        left_pad_tokens=_left_pad(defaults, tokenizer),
    )
    if audio.number("frame_rate") * config.samples_per_token != config.audio.sample_rate:
        raise UnsupportedConfig(
            f"{audio.path}.frame_rate is {audio.number('frame_rate')}, but {downsample} frames of "
            f"{CONV_STRIDE} * {config.audio.hop} samples make {1 / config.token_seconds}"
        )
    return replace(config, delay_tokens=_delay_tokens(config, defaults, tokenizer))


def _mistral_encoder(encoder: Section) -> EncoderConfig:
    heads = encoder.integer("n_heads")
    encoder.require("n_kv_heads", heads)
    encoder.require("causal", True)
    encoder.require("use_biases", True)
    encoder.require("pos_embed", "rope")
    encoder.require("ffn_type", "swiglu")
    encoder.require("norm_type", "rms_norm")
    encoder.require("rope_scaling")
    return EncoderConfig(
        dim=encoder.integer("dim"),
        layers=encoder.integer("n_layers"),
        heads=heads,
        head_dim=encoder.integer("head_dim"),
        ffn_dim=encoder.integer("hidden_dim"),
        window=encoder.integer("sliding_window"),
        rope_theta=encoder.number("rope_theta"),
        norm_eps=encoder.number("norm_eps"),
    )


def _mistral_decoder(decoder: Section) -> DecoderConfig:
    decoder.require("causal", True)
    decoder.require("use_biases", False)
    decoder.require("tied_embeddings", True)
    decoder.require("ada_rms_norm_t_cond", True)
    for unsupported in ("rope_scaling", "yarn", "llama_4_scaling", "moe"):
        decoder.require(unsupported)
    return DecoderConfig(
        dim=decoder.integer("dim"),
        layers=decoder.integer("n_layers"),
        heads=decoder.integer("n_heads"),
        kv_heads=decoder.integer("n_kv_heads"),
        head_dim=decoder.integer("head_dim"),
        ffn_dim=decoder.integer("hidden_dim"),
        vocab_size=decoder.integer("vocab_size"),
        window=decoder.integer("sliding_window"),
        rope_theta=decoder.number("rope_theta"),
        norm_eps=decoder.number("norm_eps"),
        ada_dim=decoder.integer("ada_rms_norm_t_cond_dim", _ADA_DIM),
    )


def _transformers(
    document: Section, extractor: Section | None, tokenizer: TekkenAudio | None
) -> VoxtralConfig:
    document.require("model_type", "voxtral_realtime")
    document.require("projector_hidden_act", "gelu")
    document.require("tie_word_embeddings", True)
    downsample = document.integer("downsample_factor")
    document.require("audio_length_per_tok", CONV_STRIDE * downsample)
    encoder = document.section("audio_config")
    audio = _extractor_audio(extractor) if extractor else _tokenizer_audio(tokenizer)
    encoder.require("num_mel_bins", audio.mel_bins)
    return VoxtralConfig(
        audio=audio,
        encoder=_transformers_encoder(encoder),
        decoder=_transformers_decoder(document.section("text_config")),
        downsample=downsample,
        delay_tokens=document.integer("default_num_delay_tokens"),
        left_pad_tokens=_left_pad(document, tokenizer),
    )


def _transformers_encoder(encoder: Section) -> EncoderConfig:
    encoder.require("activation_function", "gelu")
    encoder.require("hidden_act", "silu")
    return EncoderConfig(
        dim=encoder.integer("hidden_size"),
        layers=encoder.integer("num_hidden_layers"),
        heads=encoder.integer("num_attention_heads"),
        head_dim=encoder.integer("head_dim"),
        ffn_dim=encoder.integer("intermediate_size"),
        window=encoder.integer("sliding_window"),
        rope_theta=_rope_theta(encoder),
        norm_eps=encoder.number("rms_norm_eps"),
    )


def _transformers_decoder(decoder: Section) -> DecoderConfig:
    decoder.require("hidden_act", "silu")
    decoder.require("tie_word_embeddings", True)
    return DecoderConfig(
        dim=decoder.integer("hidden_size"),
        layers=decoder.integer("num_hidden_layers"),
        heads=decoder.integer("num_attention_heads"),
        kv_heads=decoder.integer("num_key_value_heads"),
        head_dim=decoder.integer("head_dim"),
        ffn_dim=decoder.integer("intermediate_size"),
        vocab_size=decoder.integer("vocab_size"),
        window=decoder.integer("sliding_window"),
        rope_theta=_rope_theta(decoder),
        norm_eps=decoder.number("rms_norm_eps"),
        ada_dim=_ADA_DIM,
    )


def _rope_theta(part: Section) -> float:
    part.require("rope_scaling")
    if "rope_parameters" not in part:
        return part.number("rope_theta")
    rope = part.section("rope_parameters")
    rope.require("rope_type", "default")
    rope.require("partial_rotary_factor", 1)
    return rope.number("rope_theta")


def _extractor_audio(extractor: Section) -> AudioConfig:
    if "feature_extractor" in extractor:
        extractor = extractor.section("feature_extractor")
    n_fft = extractor.integer("n_fft")
    extractor.require("win_length", n_fft)
    return AudioConfig(
        sample_rate=extractor.integer("sampling_rate"),
        n_fft=n_fft,
        hop=extractor.integer("hop_length"),
        mel_bins=extractor.integer("feature_size"),
        log_mel_max=extractor.number("global_log_mel_max"),
    )


def _tokenizer_audio(tokenizer: TekkenAudio | None) -> AudioConfig:
    if tokenizer is None:
        raise UnsupportedConfig(
            "neither preprocessor_config.json nor processor_config.json is there, and tekken.json "
            "has no audio section: nothing says how to make mel frames"
        )
    return AudioConfig(
        sample_rate=tokenizer.sample_rate,
        n_fft=tokenizer.n_fft,
        hop=tokenizer.hop,
        mel_bins=tokenizer.mel_bins,
        log_mel_max=_LOG_MEL_MAX,
    )


def _delay_tokens(config: VoxtralConfig, defaults: Section, tokenizer: TekkenAudio | None) -> int:
    declared = tokenizer.delay_ms if tokenizer else None
    delay_ms = _DELAY_MS if declared is None else declared
    if "transcription_delay_ms" in defaults:
        delay_ms = defaults.number("transcription_delay_ms")
    tokens = delay_ms / 1000 / config.token_seconds
    if abs(tokens - round(tokens)) > 1e-6:
        raise UnsupportedConfig(
            f"transcription_delay_ms is {delay_ms}, no multiple of {1000 * config.token_seconds}"
        )
    return round(tokens)


def _left_pad(document: Section, tokenizer: TekkenAudio | None) -> int:
    declared = tokenizer.left_pad_tokens if tokenizer else None
    return document.integer("n_left_pad_tokens", _LEFT_PAD_TOKENS if declared is None else declared)


_SHAPES: dict[str, Callable[[Section, Section | None, TekkenAudio | None], VoxtralConfig]] = {
    "multimodal": _mistral,
    "encoder_args": _mlx_audio,
    "audio_config": _transformers,
}
