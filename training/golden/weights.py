"""A small random Voxtral Realtime model that is the same, bit for bit, on every machine.

Only uniform draws of the frozen legacy generator are used, one generator per tensor, so neither
NumPy's version nor the order of the tensors matters. Names and shapes are voxlive's canonical
ones: convolutions [out, k, in], queries and keys in interleaved rotary order.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from voxlive.checkpoints.config import AudioConfig, DecoderConfig, EncoderConfig, VoxtralConfig

Array = NDArray[np.float32]

TINY = VoxtralConfig(
    audio=AudioConfig(sample_rate=16000, n_fft=400, hop=160, mel_bins=128, log_mel_max=1.5),
    encoder=EncoderConfig(
        dim=64,
        layers=3,
        heads=6,
        head_dim=16,
        ffn_dim=128,
        window=32,
        rope_theta=10_000.0,
        norm_eps=1e-5,
    ),
    decoder=DecoderConfig(
        dim=128,
        layers=4,
        heads=6,
        kv_heads=2,
        head_dim=32,
        ffn_dim=192,
        vocab_size=512,
        window=64,
        rope_theta=1_000_000.0,
        norm_eps=1e-6,
        ada_dim=32,
    ),
    downsample=4,
    delay_tokens=6,
    left_pad_tokens=32,
)
SEED = 7
_FINAL_NORM = {"decoder.norm.weight": 3.6}
"""Small embeddings under a large last norm: tokens follow the audio more than each other."""


def shapes(config: VoxtralConfig) -> dict[str, tuple[int, ...]]:
    """Every canonical tensor of a model with its shape."""
    return {name: shape for name, shape, _ in _tensors(config)}


def random_weights(config: VoxtralConfig = TINY, seed: int = SEED) -> dict[str, Array]:
    """float32 weights whose attention looks about, whose delays matter and whose tokens vary."""
    return {name: _draw(name, shape, gain, seed) for name, shape, gain in _tensors(config)}


def _draw(name: str, shape: tuple[int, ...], gain: float, seed: int) -> Array:
    random = np.random.RandomState(zlib.crc32(name.encode()) ^ seed)
    unit = 2 * random.random_sample(shape) - 1
    if name.endswith("norm.weight"):
        return (_FINAL_NORM.get(name, 1) * (1 + gain * unit)).astype(np.float32)
    fan_in = 1 if len(shape) == 1 or name == "decoder.embed.weight" else math.prod(shape[1:])
    return (gain * math.sqrt(3 / fan_in) * unit).astype(np.float32)


def _tensors(config: VoxtralConfig) -> Iterator[tuple[str, tuple[int, ...], float]]:
    yield from _encoder(config)
    yield from _decoder(config.decoder)


def _encoder(config: VoxtralConfig) -> Iterator[tuple[str, tuple[int, ...], float]]:
    encoder, dim, text = config.encoder, config.encoder.dim, config.decoder.dim
    heads = encoder.heads * encoder.head_dim
    yield "encoder.conv1.weight", (dim, 3, config.audio.mel_bins), 4.0
    yield "encoder.conv1.bias", (dim,), 0.1
    yield "encoder.conv2.weight", (dim, 3, dim), 3.0
    yield "encoder.conv2.bias", (dim,), 0.1
    for layer in range(encoder.layers):
        at = f"encoder.layers.{layer}"
        yield f"{at}.attn_norm.weight", (dim,), 0.5
        yield f"{at}.q.weight", (heads, dim), 1.6
        yield f"{at}.q.bias", (heads,), 0.3
        yield f"{at}.k.weight", (heads, dim), 1.6
        yield f"{at}.v.weight", (heads, dim), 1.0
        yield f"{at}.v.bias", (heads,), 0.1
        yield f"{at}.o.weight", (dim, heads), 1.5
        yield f"{at}.o.bias", (dim,), 0.1
        yield f"{at}.ffn_norm.weight", (dim,), 0.5
        yield f"{at}.gate.weight", (encoder.ffn_dim, dim), 1.0
        yield f"{at}.up.weight", (encoder.ffn_dim, dim), 1.0
        yield f"{at}.down.weight", (dim, encoder.ffn_dim), 1.5
        yield f"{at}.down.bias", (dim,), 0.1
    yield "encoder.norm.weight", (dim,), 0.5
    yield "adapter.linear1.weight", (text, dim * config.downsample), 1.5
    yield "adapter.linear2.weight", (text, text), 7.5


def _decoder(decoder: DecoderConfig) -> Iterator[tuple[str, tuple[int, ...], float]]:
    dim = decoder.dim
    queries, keys = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    yield "decoder.embed.weight", (decoder.vocab_size, dim), 0.25
    for layer in range(decoder.layers):
        at = f"decoder.layers.{layer}"
        yield f"{at}.attn_norm.weight", (dim,), 0.5
        yield f"{at}.q.weight", (queries, dim), 1.4
        yield f"{at}.k.weight", (keys, dim), 1.4
        yield f"{at}.v.weight", (keys, dim), 1.5
        yield f"{at}.o.weight", (dim, queries), 4.0
        yield f"{at}.ffn_norm.weight", (dim,), 0.5
        yield f"{at}.gate.weight", (decoder.ffn_dim, dim), 1.5
        yield f"{at}.up.weight", (decoder.ffn_dim, dim), 1.5
        yield f"{at}.down.weight", (dim, decoder.ffn_dim), 4.0
        yield f"{at}.ada.linear1.weight", (decoder.ada_dim, dim), 1.0
        yield f"{at}.ada.linear2.weight", (dim, decoder.ada_dim), 1.0
    yield "decoder.norm.weight", (dim,), 0.5
