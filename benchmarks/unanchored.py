"""A Voxtral model whose positions are never moved back, to compare a long session with.

Positions count on for days, so its rotary angles are worked out in float64 (which MLX has on CPUs
alone); all else is the product's own code. It is given the tokens that were said and gives its own
scores for each, many positions a step: nothing that it says feeds back.
"""

from __future__ import annotations

from collections import deque

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from voxlive.checkpoints.local_model import Checkpoint
from voxlive.decoders.decoder import TextDecoder, prompt
from voxlive.encoders.encoder import AudioEncoder, MelFrontEnd
from voxlive.engines.voxtral.loading import load_weights
from voxlive.engines.voxtral.stream import AudioBuffer
from voxlive.layers.transformer import ATTENTIONS, GatherAttention

_ENDLESS = 1 << 30
_SPAN = 32
"""Positions scored in one step."""
_CHUNK = 8


class FarAttention(GatherAttention):
    """Rotary angles from float64, exact at any position."""

    def rotated(self, x: mx.array, start: mx.array) -> mx.array:
        """See ``GatherAttention.rotated``."""
        size, n = self.shape.head_dim, x.shape[2]
        pairs = mx.arange(0, size, 2).astype(mx.float64) / size
        speed = mx.array(self.shape.rope_theta, mx.float64) ** -pairs
        at = (start[:, None] + mx.arange(n)).astype(mx.float64)
        angle = (at[:, None, :, None] * speed) % (2 * np.pi)
        cos, sin = mx.cos(angle).astype(mx.float32), mx.sin(angle).astype(mx.float32)
        even, odd = x[..., ::2], x[..., 1::2]
        return mx.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


class Unanchored:
    """One stream: audio and the tokens that a model said to it. On the thread that made it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        ATTENTIONS["far"] = FarAttention
        self._config = config = checkpoint.config
        weights = load_weights(checkpoint.plan, dtype=mx.float32)
        tekken = checkpoint.tekken
        self._encoder = AudioEncoder(config, weights, slots=1, chunk=_CHUNK, attention="far")
        self._decoder = TextDecoder(
            config,
            weights,
            slots=1,
            bos=tekken.bos,
            pad=tekken.streaming_pad,
            attention="far",
        )
        self._encoder.rings.limit = self._decoder.rings.limit = _ENDLESS
        self._encoder.join(0)
        self._decoder.join(0, config.delay_tokens)
        self._front_end = MelFrontEnd(config.audio, config.mel_per_token)
        self._buffer = AudioBuffer(self._front_end)
        self._embeddings = mx.zeros((1, 0, config.decoder.dim))
        self._prompt = prompt(
            config.left_pad_tokens,
            config.delay_tokens,
            bos=tekken.bos,
            pad=tekken.streaming_pad,
        ).tolist()
        self._last = tekken.bos
        self.compared = 0
        self.gaps: list[float] = []
        """How much lower each token that differs scored than the best one."""
        self.push(np.zeros(config.left_pad_tokens * self._front_end.samples, np.float32))

    @property
    def position(self) -> int:
        """The encoder's next position, the furthest of all."""
        return self._encoder.rings.position(0)

    def push(self, audio: NDArray[np.float32]) -> None:
        """Hear more."""
        self._buffer.push(audio)
        parts = []
        while self._buffer.ready >= _CHUNK:
            mel = self._front_end(self._buffer.read(_CHUNK)[None])
            self._buffer.drop(_CHUNK)
            parts.append(self._encoder.step([0], mel))
        self._embeddings = mx.concatenate([self._embeddings, *parts], axis=1)
        mx.eval(self._embeddings)

    def compare(self, tokens: deque[int]) -> None:
        """Score ``tokens`` as far as there is audio for them; what was compared is taken out."""
        while len(tokens) >= (new := _SPAN if self.compared else 1):
            said = [tokens.popleft() for _ in range(new)]
            inputs = [self._last, *said[:-1]] if self.compared else self._prompt
            audio, self._embeddings = mx.split(self._embeddings, [len(inputs)], axis=1)
            scores = np.array(self._decoder.logits([0], mx.array([inputs]), audio)[0, -new:])
            for token, row in zip(said, scores, strict=True):
                if row.argmax() != token:
                    self.gaps.append(float(row.max() - row[token]))
            self.compared += new
            self._last = said[-1]
