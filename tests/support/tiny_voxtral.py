"""The tiny random Voxtral of the goldens as running modules, in blocks so small that it pages."""

from functools import cache

import mlx.core as mx
import numpy as np

from training.golden.audio import synthetic_audio
from training.golden.sample import BOS, STREAMING_PAD
from training.golden.weights import TINY, random_weights
from voxlive.decoders.decoder import TextDecoder
from voxlive.encoders.encoder import AudioEncoder, MelFrontEnd
from voxlive.engines.voxtral.stream import AudioBuffer
from voxlive.layers.transformer import Weights

BLOCK = 8
DELAY = 6


@cache
def _drawn():
    return random_weights()


def tiny_weights(dtype=mx.float32, config=TINY):
    tensors = _drawn() if config is TINY else random_weights(config)
    return Weights({name: mx.array(value) for name, value in tensors.items()}, {}, dtype)


def quantised_weights(choose, dense=False):
    """Matrices for which ``choose(name)`` gives (group size, bits), quantised that way.

    ``dense`` gives the same numbers unpacked, as a model that is not quantised.
    """
    tensors, settings = {}, {}
    for name, value in _drawn().items():
        module, _, kind = name.rpartition(".")
        how = choose(module) if kind == "weight" and value.ndim == 2 else None
        if how is None:
            tensors[name] = mx.array(value)
            continue
        packed = mx.quantize(mx.array(value), *how)
        if dense:
            tensors[name] = mx.dequantize(*packed, *how)
        else:
            settings[module] = how
            parts = ("weight", "scales", "biases")
            tensors |= {f"{module}.{part}": a for part, a in zip(parts, packed, strict=True)}
    return Weights(tensors, settings, mx.float32)


def tiny_encoder(slots=1, dtype=mx.float32, **options):
    return AudioEncoder(TINY, tiny_weights(dtype), slots=slots, block=BLOCK, **options)


def tiny_decoder(slots=1, dtype=mx.float32, **options):
    return TextDecoder(
        TINY, tiny_weights(dtype), slots=slots, bos=BOS, pad=STREAMING_PAD, block=BLOCK, **options
    )


def front_end():
    return MelFrontEnd(TINY.audio, TINY.mel_per_token)


def mel_of(audio, through=None):
    """The frames [tokens * 8, bins] of every token that is complete in a stream's ``audio``."""
    through = through or front_end()
    buffer = AudioBuffer(through)
    buffer.push(audio)
    return through(buffer.read(buffer.ready))


def mel_tokens(tokens, seed=0, left_pad=TINY.left_pad_tokens):
    """Mel [tokens * 8, bins] of a stream that starts with ``left_pad`` tokens of silence."""
    heard = tokens - left_pad
    audio = synthetic_audio(heard * TINY.samples_per_token + TINY.audio.n_fft, seed)
    stream = np.pad(audio, (left_pad * TINY.samples_per_token, 0))
    return mel_of(stream)[: tokens * TINY.mel_per_token]


def encode(encoder, slot, mel, sizes=(1,)):
    """All of ``mel`` through one row, in steps of ``sizes`` tokens in turn: [tokens, dim]."""
    parts, at, unit = [], 0, TINY.mel_per_token
    while at < len(mel):
        step = min(sizes[len(parts) % len(sizes)] * unit, len(mel) - at)
        parts.append(np.array(encoder.step([slot], mel[None, at : at + step])[0], np.float32))
        at += step
    return np.concatenate(parts)


def decode(decoder, slot, embeddings, delay=DELAY):
    """Greedy tokens of one row, alone: a list as long as the embeddings past the prompt, plus 1."""
    decoder.join(slot, delay)
    audio = mx.array(embeddings)[None]
    first = decoder.prompt_length(slot)
    tokens = [int(decoder.prefill([slot], audio[:, :first])[0])]
    tokens += [int(decoder.step([slot], audio[:, at])[0]) for at in range(first, audio.shape[1])]
    return tokens
