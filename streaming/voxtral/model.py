"""Encoder, decoder and the queue between them, stepped as one batch. All of it on one thread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ...decoders.decoder import NOT_FINITE, TextDecoder
from ...encoders.encoder import AudioEncoder
from ...encoders.mel import Floats, MelFrontEnd
from ...encoders.queue import EmbeddingQueue

if TYPE_CHECKING:
    from ...checkpoints.config import VoxtralConfig
    from ...layers.linear import Weights

__all__ = ["NOT_FINITE", "Model"]

CHUNK = 8
"""The most tokens of audio that a row encodes in one step."""


class Model:
    """The caches of ``slots`` streams over one set of weights."""

    def __init__(
        self, config: VoxtralConfig, weights: Weights, *, slots: int, bos: int, pad: int
    ) -> None:
        self.config = config
        self.front_end = MelFrontEnd(config.audio, config.mel_per_token)
        self.encoder = AudioEncoder(config, weights, slots=slots, chunk=CHUNK)
        self.decoder = TextDecoder(config, weights, slots=slots, bos=bos, pad=pad)
        longest = 1 + config.left_pad_tokens + self.decoder.max_delay_tokens
        self._queue = EmbeddingQueue(
            slots=slots, capacity=longest + CHUNK, dim=config.decoder.dim, dtype=weights.dtype
        )
        self._prompts: dict[int, int] = {}  # slots whose prompt is to run, and their delays
        self._running: set[int] = set()

    @property
    def stream_nbytes(self) -> int:
        """Bytes of one stream's caches once it is older than both windows."""
        return self.encoder.rings.full_nbytes + self.decoder.rings.full_nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all caches now."""
        return self.encoder.rings.nbytes + self.decoder.rings.nbytes

    def join(self, slot: int, delay_tokens: int) -> None:
        """Start ``slot`` over: nothing heard, the prompt to come."""
        self.encoder.join(slot)
        self.decoder.join(slot, delay_tokens)
        self._queue.clear(slot)
        self._running.discard(slot)
        self._prompts[slot] = delay_tokens

    def leave(self, slot: int) -> None:
        """Give the slot's memory back, zeroed, whatever state it was in."""
        self.encoder.leave(slot, scrub=True)
        self.decoder.leave(slot, scrub=True)
        self._queue.clear(slot)
        self._running.discard(slot)
        self._prompts.pop(slot, None)

    def clear(self) -> None:
        """Forget every stream and every cached number, after a step that failed."""
        self.encoder.clear()
        self.decoder.clear()
        for slot in (*self._running, *self._prompts):
            self._queue.clear(slot)
        self._running.clear()
        self._prompts.clear()

    def encode(self, slots: Sequence[int], mel: Sequence[Floats]) -> None:
        """Encode the next mel frames of each slot, all the same number of whole tokens."""
        self._queue.push(slots, self.encoder.step(slots, np.stack(mel)))

    def decode(
        self, penalties: Mapping[int, float]
    ) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        """Decode every position that has its audio: slots and their tokens, step after step.

        A step is on its way before the tokens of the one before are read. ``penalties`` is asked
        for each step's rows and may change between two steps; while it is empty none waits.
        """
        sent: list[tuple[Sequence[int], mx.array]] = []
        while steps := [*self._prefill(), *self._step(penalties)]:
            yield from _read(sent)
            sent = steps
            if penalties:
                yield from _read(sent)
                sent = []
        yield from _read(sent)

    def time_step(self, slots: Sequence[int]) -> None:
        """A step of both halves for slots that have just joined, awaited: for measuring."""
        mel = np.zeros((len(slots), self.front_end.frames, self.config.audio.mel_bins), np.float32)
        embeddings = self.encoder.step(slots, mel)
        mx.eval(self.decoder.step(slots, embeddings[:, 0]))

    def _prefill(self) -> Iterator[tuple[Sequence[int], mx.array]]:
        ready: dict[int, list[int]] = defaultdict(list)
        for slot, delay in self._prompts.items():
            if self._queue.waiting(slot) >= self.decoder.prompt_length(slot):
                ready[delay].append(slot)
        for slots in ready.values():
            audio = self._queue.take(slots, self.decoder.prompt_length(slots[0]))
            yield slots, self.decoder.prefill(slots, audio)
            for slot in slots:
                del self._prompts[slot]
                self._running.add(slot)

    def _step(self, penalties: Mapping[int, float]) -> Iterator[tuple[Sequence[int], mx.array]]:
        slots = [slot for slot in self._running if self._queue.waiting(slot)]
        if slots:
            audio = self._queue.take(slots, 1)[:, 0]
            yield (
                slots,
                self.decoder.step(slots, audio, [penalties.get(slot, 0.0) for slot in slots]),
            )


def _read(
    steps: Sequence[tuple[Sequence[int], mx.array]],
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    for slots, tokens in steps:
        yield slots, np.array(tokens).tolist()
