"""The modules of a Voxtral Realtime model under voxlive's own names, with their shapes.

Linear weights are [out, in], convolutions [out, k, in], the embedding [vocab, dim]; rotary pairs of
queries and keys lie side by side. The output projection is the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .config import DecoderConfig, VoxtralConfig

_KERNEL = 3


@dataclass(frozen=True, slots=True)
class Module:
    """``shape`` is its weight's. ``matrix``: linear or embedding, so that it may be quantised.

    ``rotary`` is the head_dim of queries and keys, 0 for others. ``small`` matrices are left as
    they are when weights are quantised on loading.
    """

    name: str
    shape: tuple[int, ...]
    bias: bool = False
    matrix: bool = True
    rotary: int = 0
    small: bool = False


def modules(config: VoxtralConfig) -> Iterator[Module]:
    """Every module of the model, in the order in which audio passes through it."""
    yield from _encoder(config)
    yield from _decoder(config.decoder)


def _encoder(config: VoxtralConfig) -> Iterator[Module]:
    encoder, dim, text = config.encoder, config.encoder.dim, config.decoder.dim
    heads = encoder.heads * encoder.head_dim
    stem = {"conv1": config.audio.mel_bins, "conv2": dim}
    for name, channels in stem.items():
        yield Module(f"encoder.{name}", (dim, _KERNEL, channels), bias=True, matrix=False)
    for layer in range(encoder.layers):
        at = f"encoder.layers.{layer}."
        yield Module(f"{at}attn_norm", (dim,), matrix=False)
        yield Module(f"{at}q", (heads, dim), bias=True, rotary=encoder.head_dim)
        yield Module(f"{at}k", (heads, dim), rotary=encoder.head_dim)
        yield Module(f"{at}v", (heads, dim), bias=True)
        yield Module(f"{at}o", (dim, heads), bias=True)
        yield Module(f"{at}ffn_norm", (dim,), matrix=False)
        yield Module(f"{at}gate", (encoder.ffn_dim, dim))
        yield Module(f"{at}up", (encoder.ffn_dim, dim))
        yield Module(f"{at}down", (dim, encoder.ffn_dim), bias=True)
    yield Module("encoder.norm", (dim,), matrix=False)
    yield Module("adapter.linear1", (text, dim * config.downsample))
    yield Module("adapter.linear2", (text, text))


def _decoder(decoder: DecoderConfig) -> Iterator[Module]:
    dim = decoder.dim
    queries, keys = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    yield Module("decoder.embed", (decoder.vocab_size, dim))
    for layer in range(decoder.layers):
        at = f"decoder.layers.{layer}."
        yield Module(f"{at}attn_norm", (dim,), matrix=False)
        yield Module(f"{at}q", (queries, dim), rotary=decoder.head_dim)
        yield Module(f"{at}k", (keys, dim), rotary=decoder.head_dim)
        yield Module(f"{at}v", (keys, dim))
        yield Module(f"{at}o", (dim, queries))
        yield Module(f"{at}ffn_norm", (dim,), matrix=False)
        yield Module(f"{at}gate", (decoder.ffn_dim, dim))
        yield Module(f"{at}up", (decoder.ffn_dim, dim))
        yield Module(f"{at}down", (dim, decoder.ffn_dim))
        yield Module(f"{at}ada.linear1", (decoder.ada_dim, dim), small=True)
        yield Module(f"{at}ada.linear2", (dim, decoder.ada_dim), small=True)
    yield Module("decoder.norm", (dim,), matrix=False)
