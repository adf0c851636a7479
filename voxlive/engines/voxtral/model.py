"""The Voxtral model for many streams: encoder, decoder and the queue between them, in one batch.

``plan_rounds`` says which rows encode how many tokens of audio in one step, ``StreamCaches`` what
one stream takes of memory, ``RowOptions`` what model and delay make of a stream. A ``VoxtralModel``
has the caches of all streams; it belongs to one thread. The model is Voxtral Realtime (arXiv
2602.11298): causal encoder, one embedding for each 80 ms, one token for each embedding.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from voxlive.decoders.decoder import MAX_DELAY_TOKENS, TextDecoder, prompt_length
from voxlive.encoders.encoder import AudioEncoder, EmbeddingQueue, Floats, MelFrontEnd
from voxlive.engines.voxtral.nvidia import ComingTokens, CudaDecoder, CudaEncoder, CudaQueue
from voxlive.layers.cuda_layers import Operations
from voxlive.layers.rings import ring_positions
from voxlive.layers.transformer import padded_size

if TYPE_CHECKING:
    import mlx.core as mx

    from voxlive.checkpoints.config import VoxtralConfig
    from voxlive.layers.cuda import Gpu
    from voxlive.layers.transformer import Weights

TokensOnTheirWay: TypeAlias = "mx.array | ComingTokens"
CHUNK = 8
"""The most tokens of audio that a row encodes in one step."""
TOGETHER = 128
"""Tokens from which a step takes as much longer as it is larger: a backlog gains no more by it."""
PROMPTS_TOGETHER = 8
"""Prompts that run in one step."""
TRAIL_TOKENS = 4
"""Tokens of real audio beyond the delay after which the last words are normally out."""


class ReadyRow(Protocol):
    """What a plan needs to know of a row."""

    @property
    def ready(self) -> int:
        """Tokens of audio that wait to be encoded."""
        ...


R = TypeVar("R", bound=ReadyRow)


def _nothing() -> None:
    """While there is nothing to do."""


def most_rows(tokens: int) -> int:
    """Rows that may encode so many tokens each in one step; those without a backlog all may."""
    return sys.maxsize if tokens == 1 else TOGETHER // tokens


def plan_rounds(rows: Iterable[R], chunk: int) -> Iterator[tuple[int, list[R]]]:
    """Numbers of tokens, at most ``chunk``, and rows that encode so many in one step.

    Numbers are powers of two: few shapes are compiled, and rows with a like backlog go together.
    """
    groups: dict[int, list[R]] = defaultdict(list)
    for row in rows:
        most = min(row.ready, chunk)
        if most:
            groups[1 << (most.bit_length() - 1)].append(row)
    for tokens, group in groups.items():
        for at in range(0, len(group), most_rows(tokens)):
            yield tokens, group[at : at + most_rows(tokens)]


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
        return prompt_length(self.left_pad_tokens, self.delay_tokens)

    @property
    def look_ahead(self) -> int:
        """Samples beyond a token's end that its last mel frame needs."""
        return look_ahead(self.front_end)


def look_ahead(front_end: MelFrontEnd) -> int:
    """See ``RowOptions.look_ahead``."""
    config = front_end.config
    return config.n_fft // 2 - config.hop


class StreamCaches(NamedTuple):
    """Bytes of one stream's caches once it is older than both windows."""

    encoder: int
    decoder: int

    @classmethod
    def of(cls, config: VoxtralConfig, itemsize: int) -> StreamCaches:
        """What they will be, before there is a model, in values of ``itemsize`` bytes."""
        audio, text = config.encoder, config.decoder
        longest = prompt_length(config.left_pad_tokens, MAX_DELAY_TOKENS)
        position = 2 * itemsize
        return cls(
            ring_positions(audio.window, CHUNK * config.downsample)
            * position * audio.layers * audio.heads * audio.head_dim,
            ring_positions(text.window, longest)
            * position * text.layers * text.kv_heads * text.head_dim,
        )  # fmt: skip

    def lasting(self, budget: int) -> int:
        """Streams that ``budget`` bytes hold at full age."""
        return budget // (self.encoder + self.decoder)

    def most(self, budget: int) -> int:
        """Streams whose encoders, which are at full age within seconds, fit beside one decoder."""
        return (budget - self.decoder) // self.encoder


class VoxtralModel:
    """The caches of ``slots`` streams over one set of weights."""

    def __init__(
        self,
        config: VoxtralConfig,
        weights: Weights,
        *,
        slots: int,
        bos: int,
        pad: int,
        gpu: Gpu | None = None,
        unpack: bool = False,
    ) -> None:
        """With ``gpu``, whose type is that of the weights, steps are CUDA graphs (``nvidia``).

        Then ``unpack`` keeps packed weights unpacked beside.
        """
        self.config = config
        self.advances = 0  # parts of rounds that were begun, each of which ends soon
        self.front_end = MelFrontEnd(config.audio, config.mel_per_token)
        longest = prompt_length(config.left_pad_tokens, MAX_DELAY_TOKENS)
        capacity, dim = longest + CHUNK, config.decoder.dim
        self.encoder: AudioEncoder | CudaEncoder
        self.decoder: TextDecoder | CudaDecoder
        self._queue: Any
        if gpu:
            most = padded_size(slots - 1)  # one slot is the health check's, alone
            queue = CudaQueue(gpu, slots=slots, capacity=capacity, dim=dim)
            encoder, decoder = (Operations(gpu, unpacks=unpack) for _ in range(2))
            self.encoder = CudaEncoder(
                encoder, config, weights, queue, slots=slots, chunk=CHUNK, most=max(most, TOGETHER)
            )
            self.decoder = CudaDecoder(
                decoder, config, weights, queue, slots=slots, bos=bos, pad=pad, most=most,
                prompts=PROMPTS_TOGETHER,
            )  # fmt: skip
            self._queue = queue
        else:
            self.encoder = AudioEncoder(config, weights, slots=slots, chunk=CHUNK)
            self.decoder = TextDecoder(config, weights, slots=slots, bos=bos, pad=pad)
            self._queue = EmbeddingQueue(
                slots=slots, capacity=capacity, dim=dim, dtype=weights.dtype
            )
        self._prompts: dict[int, int] = {}  # slots whose prompt is to run, and their delays
        self._running: set[int] = set()

    def row_options(self, delay_ms: int) -> RowOptions:
        """Of a stream with this delay, which must be one of the model's."""
        token_ms = 1000 * self.front_end.samples // self.config.audio.sample_rate
        return RowOptions(self.front_end, self.config.left_pad_tokens, delay_ms // token_ms)

    @property
    def trail_margin(self) -> int:
        """See ``EngineInfo.trail_margin``."""
        return TRAIL_TOKENS * self.front_end.samples + look_ahead(self.front_end)

    @property
    def stream_caches(self) -> StreamCaches:
        """What one stream takes."""
        return StreamCaches(self.encoder.rings.full_nbytes, self.decoder.rings.full_nbytes)

    @property
    def stream_nbytes(self) -> int:
        """Bytes of one stream's caches once it is older than both windows."""
        return sum(self.stream_caches)

    @property
    def nbytes(self) -> int:
        """Bytes of all caches now."""
        return self.encoder.rings.nbytes + self.decoder.rings.nbytes

    def missing_nbytes(self, others: int) -> int | None:
        """Bytes that must be free for a stream beside ``others`` to grow old; None past the bound.

        May be asked on any thread.
        """
        encoder = self.encoder.rings.missing_nbytes(others)
        decoder = self.decoder.rings.missing_nbytes(others)
        return None if encoder is None or decoder is None else encoder + decoder

    def bound(self, streams: int, nbytes: int, *, reserve: float) -> None:
        """Let the caches of ``streams`` streams take ``nbytes``, and those of the health check.

        Decoders share what the encoders at full age leave. ``reserve`` streams' caches at most are
        taken now.
        """
        encoder, decoder = self.encoder.rings, self.decoder.rings
        left = (nbytes - streams * encoder.full_nbytes) // decoder.block_nbytes
        check = self._queue.capacity
        for ring, positions, most in (
            (encoder, check * self.config.downsample, streams * encoder.per_ring),
            (decoder, check, min(streams * decoder.per_ring, left)),
        ):
            most += ring.blocks(positions)
            ring.bound(most, reserve=int(min(reserve * ring.per_ring, most)))

    def short(self, coming: Sequence[tuple[int, int]]) -> list[bool]:
        """Which of the given slots find no memory for the tokens that they are to encode now."""
        slots = [slot for slot, _ in coming]
        encoded = [tokens * self.config.downsample for _, tokens in coming]
        decoded = [tokens + self._queue.waiting(slot) for slot, tokens in coming]
        return [
            any(pair)
            for pair in zip(
                self.encoder.rings.short(slots, encoded),
                self.decoder.rings.short(slots, decoded),
                strict=True,
            )
        ]

    def join(self, slot: int, delay_tokens: int) -> None:
        """Start ``slot`` over: nothing encoded, the prompt to come."""
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

    def encode(self, slots: Sequence[int], mel: Floats) -> None:
        """Encode the next frames of each slot: ``mel [B, n * mel_per_token, mel_bins]``."""
        self._queue.push(slots, self.encoder.step(slots, mel))
        self.advances += 1

    def decode(
        self,
        penalties: Mapping[int, float],
        most: int = sys.maxsize,
        meanwhile: Callable[[], object] = _nothing,
    ) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        """Decode positions that have their audio: slots and their tokens, at most ``most`` a slot.

        A step is on its way before the tokens of the one before are read. ``penalties`` is asked
        for each step's rows and may change between two steps; while it is empty none waits.
        ``meanwhile`` is called again and again while a GPU works for which nothing can be done.
        """
        sent: list[tuple[Sequence[int], TokensOnTheirWay]] = []
        for _ in range(most):
            steps = [*self._prefill(), *self._step(penalties)]
            if not steps:
                break
            yield from _read(sent, meanwhile)
            self.advances += 1
            sent = steps
            if penalties:
                yield from _read(sent, meanwhile)
                sent = []
        yield from _read(sent, meanwhile)

    def compile_steps(self, rows: int) -> None:
        """Run all that a round may do for ``rows`` streams, so that everything is compiled."""
        slots = list(range(rows))
        for slot in slots:
            self.join(slot, self.config.delay_tokens)
        for tokens in (1 << power for power in range(CHUNK.bit_length())):
            if rows <= most_rows(tokens):
                self.encode(slots, self.silence(rows, tokens))
        if rows <= PROMPTS_TOGETHER:
            blank = self._queue.blank(rows, self.decoder.prompt_length(0))
            np.array(self.decoder.prefill(slots, blank))
        np.array(self.decoder.step(slots, self._queue.take_one(slots)))
        for rings in (self.encoder.rings, self.decoder.rings):
            rings.reanchor(0, 0)  # else its kernels are first compiled a minute into service
        for slot in slots:
            self.leave(slot)

    def try_out(self, slot: int) -> list[int]:
        """Two tokens of silence in a slot that nobody has; what others have waiting stays."""
        self.join(slot, 1)
        try:
            prompt = self.decoder.prompt_length(slot)
            for _ in range(-(-(prompt + 1) // CHUNK)):
                self.encode([slot], self.silence(1, CHUNK))
            first = self.decoder.prefill([slot], self._queue.take([slot], prompt))
            second = self.decoder.step([slot], self._queue.take_one([slot]))
            return [*np.array(first).tolist(), *np.array(second).tolist()]
        finally:
            self.leave(slot)

    def age(self, slots: Sequence[int]) -> None:
        """Let ``slots`` join as if both their windows were full: for measuring."""
        for slot in slots:
            self.join(slot, self.config.delay_tokens)
        self.encoder.rings.fill(slots)
        self.decoder.rings.fill(slots)

    def time_step(self, slots: Sequence[int]) -> None:
        """A step of both halves, awaited: for measuring."""
        self.encode(slots, self.silence(len(slots), 1))
        np.array(self.decoder.step(slots, self._queue.take_one(slots)))

    def silence(self, rows: int, tokens: int) -> Floats:
        """What ``encode`` takes for so many tokens of silence in each row."""
        return self.front_end(np.zeros((rows, self.front_end.span(tokens)), np.float32))

    def _prefill(self) -> Iterator[tuple[Sequence[int], TokensOnTheirWay]]:
        ready: dict[int, list[int]] = defaultdict(list)
        for slot, delay in self._prompts.items():
            if self._queue.waiting(slot) >= self.decoder.prompt_length(slot):
                ready[delay].append(slot)
        batches = (
            slots[at : at + PROMPTS_TOGETHER]
            for slots in ready.values()
            for at in range(0, len(slots), PROMPTS_TOGETHER)
        )
        for slots in batches:
            audio = self._queue.take(slots, self.decoder.prompt_length(slots[0]))
            yield slots, self.decoder.prefill(slots, audio)
            for slot in slots:
                del self._prompts[slot]
                self._running.add(slot)

    def _step(
        self, penalties: Mapping[int, float]
    ) -> Iterator[tuple[Sequence[int], TokensOnTheirWay]]:
        slots = [slot for slot in self._running if self._queue.waiting(slot)]
        if slots:
            audio = self._queue.take_one(slots)
            yield (
                slots,
                self.decoder.step(slots, audio, [penalties.get(slot, 0.0) for slot in slots]),
            )


def _read(
    steps: Sequence[tuple[Sequence[int], TokensOnTheirWay]], meanwhile: Callable[[], object]
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    for slots, tokens in steps:
        while isinstance(tokens, ComingTokens) and not tokens.ready:
            meanwhile()
        yield slots, np.array(tokens).tolist()
