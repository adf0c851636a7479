"""PCM to log-mel to audio embeddings, for many streams at once and each as its audio comes.

The log-mel frames are the same, to the bit, however the audio is cut or batched. The maths is
Whisper's with Voxtral's fixed ceiling: periodic Hann window, power spectrum, Slaney mel filters,
log10 floored at ``log_mel_max - 8``, then (x + 4) / 4. Frame k is centred on sample ``hop * k``, so
it needs samples up to ``hop * k + n_fft / 2``.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from voxlive.checkpoints.config import CONV_STRIDE, AudioConfig, VoxtralConfig
from voxlive.layers.mel import mel_filters
from voxlive.layers.rings import BLOCK, View
from voxlive.layers.transformer import Stack, StackShape, Weights, compiles, gelu, on_device, padded

Floats = NDArray[np.float32]


class MelFrontEnd:
    """The constants of a config, shared by all streams."""

    def __init__(self, config: AudioConfig, frames: int) -> None:
        """``frames`` is the number of frames worked out together, the mel frames per token."""
        self.config = config
        self.frames = frames
        self.samples = frames * config.hop
        turn = 2.0 * np.pi * np.arange(config.n_fft) / config.n_fft
        self._window = 0.5 - 0.5 * np.cos(turn)
        self._filters = mel_filters(config.mel_bins, config.n_fft, config.sample_rate).astype(
            np.float32
        )

    def __call__(self, audio: Floats) -> Floats:
        """``audio [..., m * samples + n_fft - hop] -> [..., m * frames, mel_bins]``, no padding.

        Spectra are worked out in float64: in float32 a bin far below the frame's loudest is off
        by 1e-5. Products run group by group in one fixed shape: their sums do not depend on m.
        """
        config = self.config
        spans = np.lib.stride_tricks.sliding_window_view(audio, config.n_fft, axis=-1)
        spectrum = np.fft.rfft(spans[..., :: config.hop, :] * self._window, axis=-1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        groups = power.reshape(-1, self.frames, power.shape[-1])
        log: Floats = np.log10(np.maximum(groups @ self._filters, 1e-10))
        log = np.maximum(log, np.float32(config.log_mel_max - 8.0))
        return ((log + 4.0) / 4.0).reshape(*power.shape[:-1], config.mel_bins)

    def span(self, tokens: int) -> int:
        """Samples that so many tokens' frames are made of: the last one's look ahead included."""
        return tokens * self.samples + self.config.n_fft - self.config.hop


class AudioEncoder:
    """Causal conv stem, windowed stack and adapter over a table of ``slots`` streams.

    A step takes whole tokens of ``config.mel_per_token`` mel frames, so the convolutions' phase
    is the same at every step. All methods belong on one thread.
    """

    def __init__(
        self,
        config: VoxtralConfig,
        weights: Weights,
        *,
        slots: int,
        chunk: int = 8,
        block: int = BLOCK,
        compiled: bool | None = None,
    ) -> None:
        """``chunk`` is the most tokens per row and step; ``compiled`` None means on GPUs only."""
        part = config.encoder
        self.config = config
        self.chunk = chunk
        self.dtype = weights.dtype
        self._frames = config.mel_per_token
        self._conv1 = weights.take("encoder.conv1.weight"), weights.take("encoder.conv1.bias")
        self._conv2 = weights.take("encoder.conv2.weight"), weights.take("encoder.conv2.bias")
        self._adapter = weights.linear("adapter.linear1"), weights.linear("adapter.linear2")
        mx.eval(self._conv1, self._conv2, [layer.arrays for layer in self._adapter])
        self._stack = Stack(
            weights,
            "encoder",
            StackShape.of(part),
            slots=slots,
            chunk=chunk * config.downsample,
            block=block,
        )
        self.rings = self._stack.rings
        self._filler = slots
        self._sent: list[mx.array] = []
        self._tails = self._new_tails()
        # A compiled step is one graph per shape, so batches come in few sizes.
        self._fixed = compiles(compiled)
        self._step_graph = mx.compile(self._run) if self._fixed else self._run

    def clear(self) -> None:
        """Start every slot over on new memory, after a step that failed."""
        self.rings.clear()
        self._sent = []
        self._tails = self._new_tails()

    def join(self, slot: int) -> None:
        """Start ``slot`` over, as a stream of which nothing is encoded yet."""
        self.rings.leave(slot)
        for tail in self._tails:
            tail[slot] = 0.0

    def leave(self, slot: int, *, scrub: bool = False) -> None:
        """Give the slot's memory back; ``scrub`` as in ``Rings.leave``."""
        self.rings.leave(slot, scrub=scrub)

    def step(self, rows: Sequence[int], mel: NDArray[np.float32]) -> mx.array:
        """Encode the next n tokens of each row: ``mel [B, n * mel_per_token, mel_bins]``.

        Returns embeddings [B, n, decoder dim], on their way. Rows must be distinct. Waits for the
        step before (see ``layers.rings``). ValueError for n above ``chunk`` or frames that are
        no whole tokens.
        """
        frames = self._frames
        tokens, rest = divmod(mel.shape[1], frames)
        if rest or not 1 <= tokens <= self.chunk:
            raise ValueError(
                f"a step takes {frames} to {self.chunk * frames} mel frames in whole tokens of "
                f"{frames}, not {mel.shape[1]}"
            )
        mx.eval(self._sent)
        n = tokens * self.config.downsample
        view = self._stack.view(rows, padded(rows, self._filler, fixed=self._fixed), n)
        # Half the bytes to copy where the model would not see the difference.
        sent = np.float32 if self.dtype == mx.float32 else np.float16
        batch = np.zeros((len(view.slots), *mel.shape[1:]), sent)
        batch[: len(rows)] = mel
        out, self._tails, self.rings.pools, table = self._step_graph(
            mx.array(batch), view, self._tails, self.rings.pools
        )
        self.rings.advance(rows, n, table)
        self._sent = [out, *self._tails, table]
        mx.async_eval(self._sent)  # type: ignore[no-untyped-call]
        embeddings: mx.array = out[: len(rows)]
        return embeddings

    def _new_tails(self) -> list[mx.array]:
        """The last inputs of both convolutions per slot; the one past the end is for fillers."""
        lefts = self._conv1[0].shape[1] - 1, self._conv2[0].shape[1] - CONV_STRIDE
        widths = self.config.audio.mel_bins, self.config.encoder.dim
        return [
            mx.zeros((self._filler + 1, left, width), self.dtype)
            for left, width in zip(lefts, widths, strict=True)
        ]

    def _run(
        self,
        mel: mx.array,
        view: View,
        tails: list[mx.array],
        pools: list[mx.array],
    ) -> tuple[mx.array, list[mx.array], list[mx.array], mx.array]:
        view = View(*view)
        x, tails = self._stem(mel.astype(self.dtype), view.slots, tails)
        x, pools = self._stack(x, view, pools)
        grouped = x.reshape(x.shape[0], -1, self.config.downsample * x.shape[-1])
        first, second = self._adapter
        table = view.moved(mel.shape[1] // CONV_STRIDE)
        return second(gelu(first(grouped))), tails, pools, table

    def _stem(
        self, mel: mx.array, slots: mx.array, tails: list[mx.array]
    ) -> tuple[mx.array, list[mx.array]]:
        """Two causal convolutions, each continued from its slot's last inputs."""
        x, kept = mel, []
        for (weight, bias), tail, stride in zip(
            (self._conv1, self._conv2), tails, (1, CONV_STRIDE), strict=True
        ):
            x = mx.concatenate([tail[slots], x], axis=1)
            tail[slots] = x[:, -tail.shape[1] :]
            kept.append(tail)
            x = gelu(mx.conv1d(x, weight, stride=stride) + bias)
        return x, kept


class EmbeddingQueue:
    """First in, first out, at most ``capacity`` embeddings for each of ``slots`` streams.

    The encoder takes several tokens a step where the decoder takes one, and a prompt takes many:
    this is what stands between them. All methods belong on one thread.
    """

    def __init__(self, *, slots: int, capacity: int, dim: int, dtype: mx.Dtype) -> None:
        self.capacity = capacity
        self._table = mx.zeros((slots, capacity, dim), dtype)
        self._count = np.zeros(slots, np.int64)
        # How many each stream has pushed and taken: the device finds the cells by itself.
        self._pushed = mx.zeros((slots,), mx.int32)
        self._taken = mx.zeros((slots,), mx.int32)

    def waiting(self, slot: int) -> int:
        """How many embeddings of ``slot`` wait."""
        return int(self._count[slot])

    def room(self, slot: int) -> int:
        """How many more ``slot`` can hold."""
        return self.capacity - int(self._count[slot])

    def clear(self, slot: int) -> None:
        """Drop what waits for ``slot``."""
        self._count[slot] = 0
        self._taken[slot : slot + 1] = self._pushed[slot : slot + 1]

    def push(self, rows: Sequence[int], embeddings: mx.array) -> None:
        """Append ``embeddings [B, n, dim]``; OverflowError when a row has no room for n."""
        n = embeddings.shape[1]
        if any(self.room(slot) < n for slot in rows):
            raise OverflowError(f"an embedding queue of {self.capacity} has no room for {n} more")
        slots = on_device(tuple(rows))
        self._table[slots[:, None], self._columns(self._pushed[slots], n)] = embeddings
        self._pushed = self._pushed.at[slots].add(n)
        self._count[rows] += n

    def take(self, rows: Sequence[int], n: int) -> mx.array:
        """Remove the first n of each row: [B, n, dim]; IndexError when a row has fewer."""
        if any(self._count[slot] < n for slot in rows):
            raise IndexError(f"not every row has {n} embeddings waiting")
        slots = on_device(tuple(rows))
        cells = slots[:, None], self._columns(self._taken[slots], n)
        self._taken = self._taken.at[slots].add(n)
        self._count[rows] -= n
        return self._table[cells]

    def take_one(self, rows: Sequence[int]) -> mx.array:
        """Remove the first of each row: [B, dim]."""
        return self.take(rows, 1)[:, 0]

    def blank(self, rows: int, n: int) -> mx.array:
        """Embeddings that say nothing: [rows, n, dim]."""
        return mx.zeros((rows, n, self._table.shape[-1]), self._table.dtype)

    def _columns(self, first: mx.array, n: int) -> mx.array:
        return (first[:, None] + mx.arange(n)) % self.capacity
