"""Encoder, decoder and the queue between them on an NVIDIA GPU, each step one CUDA graph.

The same models as ``AudioEncoder`` and ``TextDecoder``, in 16-bit floats: MLX loads their weights,
the kernels of ``layers/*.cu`` and cuBLAS work on them where they lie, and the streams' caches are
memory of their own. A step is recorded when a batch size first needs it. The host keeps count of
everything and sends it along with each step, so that the device only has what was computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from ctypes import c_int
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from voxlive.decoders.decoder import (
    MAX_DELAY_TOKENS,
    PromptedDecoder,
    prompt_length,
    time_embedding,
)
from voxlive.layers.cuda import DeviceMemory, Gpu, Graph, Pinned
from voxlive.layers.cuda_layers import (
    FEW_PACKED,
    HALVES,
    SPAN,
    THREADS,
    TILE,
    BatchRows,
    CudaRings,
    CudaStack,
    Matrix,
    Operations,
    Scale,
    owned,
)
from voxlive.layers.transformer import StackShape, Weights, gelu, padded_size

if TYPE_CHECKING:
    from voxlive.checkpoints.config import VoxtralConfig
    from voxlive.encoders.encoder import Floats

_GREEDY_THREADS = 1024
"""To a row of logits."""
_LOGIT_ROWS = 128
"""Whose logits are there together."""
_IN_FLIGHT = 8
"""Steps whose inputs may be under way."""


def takes(config: VoxtralConfig, dtype: mx.Dtype) -> bool:
    """Whether a model's shape and dtype are such that the kernels take it."""
    audio, text = config.encoder, config.decoder
    inputs = (
        3 * config.audio.mel_bins, 3 * audio.dim, audio.dim, audio.heads * audio.head_dim,
        audio.ffn_dim, config.downsample * audio.dim, text.dim, text.heads * text.head_dim,
        text.ffn_dim,
    )  # fmt: skip
    whole = not any(count % SPAN for count in (*inputs, audio.head_dim, text.head_dim))
    return dtype in HALVES and whole and not text.vocab_size % TILE


class StepInputs:
    """What the host sends along with a step: arrays of 4-byte values, one behind another."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        self._gpu = gpu
        self._memory = gpu.memory(nbytes, itemsize=1)
        self._pinned = [Pinned(gpu, nbytes) for _ in range(_IN_FLIGHT)]
        self._next = 0

    def arrays(
        self, *wanted: tuple[type[np.float32 | np.int32], tuple[int, ...]]
    ) -> tuple[list[Any], list[int]]:
        """Zeroed arrays to be filled before ``send``, and where they will lie on the device."""
        pinned = self._pinned[self._next]
        pinned.event.wait()
        arrays, places, at = [], [], 0
        for kind, shape in wanted:
            end = at + 4 * math.prod(shape)
            arrays.append(pinned.bytes[at:end].view(kind).reshape(shape))
            places.append(self._memory.pointer + at)
            at = -(-end // 16) * 16
        pinned.bytes[:at] = 0
        self._nbytes = at
        return arrays, places

    def send(self) -> None:
        """Copy the arrays to the device."""
        pinned = self._pinned[self._next]
        self._next = (self._next + 1) % _IN_FLIGHT
        self._gpu.upload(self._memory.pointer, pinned, self._nbytes)
        pinned.event.record()


class Recorded:
    """A model's steps as graphs, by what sets their shape."""

    def __init__(self, gpu: Gpu, rings: CudaRings) -> None:
        self._gpu, self._rings = gpu, rings
        self._graphs: dict[Hashable, Graph] = {}
        self._generation = -1

    def launch(self, key: Hashable, work: Callable[[], None]) -> None:
        """Send the step that ``work`` sends; pools of another size mean recording it again."""
        if self._generation != self._rings.generation:
            self._graphs.clear()
            self._generation = self._rings.generation
        if key not in self._graphs:
            self._graphs[key] = self._gpu.record(work)
        self._graphs[key].launch()


class CudaQueue:
    """See ``EmbeddingQueue``: cells of a table on the device, counted on the host."""

    def __init__(self, gpu: Gpu, *, slots: int, capacity: int, dim: int) -> None:
        self.capacity = capacity
        self._nobody = slots * capacity
        self.table = gpu.memory(slots * capacity + 1, dim, itemsize=2)
        self._pushed = np.zeros(slots, np.int64)
        self._taken = np.zeros(slots, np.int64)

    def waiting(self, slot: int) -> int:
        """How many embeddings of ``slot`` wait."""
        return int(self._pushed[slot] - self._taken[slot])

    def clear(self, slot: int) -> None:
        """Drop what waits for ``slot``."""
        self._pushed[slot] = self._taken[slot] = 0

    def coming(self, rows: Sequence[int], n: int) -> NDArray[np.int32]:
        """The cells [B, n] of each row's next embeddings."""
        return self._cells(self._pushed, rows, n)

    def push(self, rows: Sequence[int], embeddings: int) -> None:
        """Count ``embeddings`` in each row, which a step has put where they belong."""
        if any(self.waiting(slot) + embeddings > self.capacity for slot in rows):
            raise OverflowError(
                f"an embedding queue of {self.capacity} has no room for {embeddings} more"
            )
        self._pushed[list(rows)] += embeddings

    def take(self, rows: Sequence[int], n: int) -> NDArray[np.int32]:
        """The cells [B, n] of each row's first embeddings; IndexError when a row has fewer."""
        if any(self.waiting(slot) < n for slot in rows):
            raise IndexError(f"not every row has {n} embeddings waiting")
        cells = self._cells(self._taken, rows, n)
        self._taken[list(rows)] += n
        return cells

    def take_one(self, rows: Sequence[int]) -> NDArray[np.int32]:
        """The cells [B] of each row's first embedding."""
        return self.take(rows, 1)[:, 0]

    def blank(self, rows: int, n: int) -> NDArray[np.int32]:
        """Cells that belong to nobody."""
        return np.full((rows, n), self._nobody, np.int32)

    @property
    def nobody(self) -> int:
        """The cell of fillers."""
        return self._nobody

    def _cells(self, counts: NDArray[np.int64], rows: Sequence[int], n: int) -> NDArray[np.int32]:
        slots = np.asarray(rows, np.int64)
        columns = (counts[slots][:, None] + np.arange(n)) % self.capacity
        cells: NDArray[np.int32] = (slots[:, None] * self.capacity + columns).astype(np.int32)
        return cells


class CudaEncoder:
    """See ``AudioEncoder``: a step's embeddings go to the queue."""

    def __init__(
        self, ops: Operations, config: VoxtralConfig, weights: Weights, queue: CudaQueue, *,
        slots: int, chunk: int, most: int,
    ) -> None:  # fmt: skip
        """``most`` is the most tokens of a step in all its rows."""
        part, gpu = config.encoder, ops.gpu
        self.config, self.chunk, self.dtype = config, chunk, weights.dtype
        self._gpu, self._queue, self._filler = gpu, queue, slots
        self._frames, self._bins = config.mel_per_token, config.audio.mel_bins
        self._conv1, self._conv2 = (
            Matrix.convolution(
                ops, weights.take(f"encoder.{name}.weight"), weights.take(f"encoder.{name}.bias")
            )
            for name in ("conv1", "conv2")
        )
        self._adapter1, self._adapter2 = (
            Matrix.of(ops, weights.linear(f"adapter.{name}")) for name in ("linear1", "linear2")
        )
        self._ops = ops
        shape = StackShape.of(part)
        self._stack = CudaStack(
            self._ops, weights, "encoder", shape, chunk=chunk * config.downsample, slots=slots
        )
        self.rings = self._stack.rings
        self._new_tails()
        s, frames, positions = self._ops.scratch, most * self._frames, most * config.downsample
        self._stack.prepare(positions, self._adapter1, self._adapter2)
        s.reserve("unfolded", max(frames * 3 * self._bins, positions * 3 * part.dim))
        s.reserve("conv1", frames * part.dim)
        s.reserve("adapted", most * config.decoder.dim)
        s.reserve("embeddings", most * config.decoder.dim)
        sent = frames * self._bins + most * (4 + self.rings.per_ring) + 64
        self._inputs = StepInputs(gpu, 4 * sent)
        self._recorded = Recorded(gpu, self.rings)

    def clear(self) -> None:
        """Start every slot over on new memory, after a step that failed."""
        self.rings.clear()
        self._new_tails()

    def join(self, slot: int) -> None:
        """Start ``slot`` over, as a stream of which nothing is encoded yet."""
        self.rings.leave(slot)
        for tail, nbytes in self._tails:
            part = nbytes // (self._filler + 1)
            self._gpu.fill_zero(tail.pointer + slot * part, part)

    def leave(self, slot: int, *, scrub: bool = False) -> None:
        """Give the slot's memory back; ``scrub`` as in ``Rings.leave``."""
        self.rings.leave(slot, scrub=scrub)

    def step(self, rows: Sequence[int], mel: Floats) -> int:
        """Encode the next n tokens of each row: ``mel [B, n * mel_per_token, mel_bins]``.

        They go to the queue's next cells; returns n. ValueError as ``AudioEncoder.step``.
        """
        tokens, rest = divmod(mel.shape[1], self._frames)
        if rest or not 1 <= tokens <= self.chunk:
            raise ValueError(
                f"a step takes {self._frames} to {self.chunk * self._frames} mel frames in whole "
                f"tokens of {self._frames}, not {mel.shape[1]}"
            )
        n, batch = tokens * self.config.downsample, padded_size(len(rows))
        count, whole = len(rows), np.int32
        (frames, slots, starts, cells, blocks), places = self._inputs.arrays(
            (np.float32, (batch, *mel.shape[1:])), (whole, (batch,)), (whole, (batch,)),
            (whole, (batch, tokens)), (whole, (batch, self.rings.per_ring)),
        )  # fmt: skip
        frames[:count] = mel
        slots[:count], slots[count:] = rows, self._filler
        cells[:count], cells[count:] = self._queue.coming(rows, tokens), self._queue.nobody
        starts[:count], blocks[:count] = self.rings.rows(rows, n)
        self._inputs.send()
        self._recorded.launch((batch, tokens), lambda: self._send(batch, tokens, *places))
        self.rings.count(rows, n)
        return int(tokens)

    def _new_tails(self) -> None:
        """The last inputs of both convolutions per slot; the one past the end is for fillers."""
        widths = 2 * self._bins, self.config.encoder.dim
        self._tails = [
            (memory, memory.nbytes)
            for memory in (
                self._gpu.memory(self._filler + 1, width, itemsize=2) for width in widths
            )
        ]

    def _send(
        self, batch: int, tokens: int, mel: int, slots: int, start: int, cells: int, blocks: int
    ) -> None:
        ops, s, dim = self._ops, self._ops.scratch, self.config.encoder.dim
        frames, n = tokens * self._frames, tokens * self.config.downsample
        rows = BatchRows(batch, n, start, blocks)
        (first, _), (second, _) = self._tails
        unfolded = s("unfolded", batch * max(frames * 3 * self._bins, n * 3 * dim))
        self._unfold(
            mel, "float", slots, first.pointer, unfolded, batch, frames, (self._bins, 1, 2)
        )
        heard = s("conv1", batch * frames * dim)
        ops.linear(unfolded, self._conv1, heard, batch * frames, gelu=True)
        self._unfold(heard, ops.half, slots, second.pointer, unfolded, batch, frames, (dim, 2, 1))
        ops.linear(unfolded, self._conv2, s("x", rows.total * dim), rows.total, gelu=True)
        normed = self._stack.run(rows, None)
        count, wide = batch * tokens, self.config.decoder.dim
        adapted, embeddings = s("adapted", count * wide), s("embeddings", count * wide)
        ops.linear(normed, self._adapter1, adapted, count, gelu=True)
        ops.linear(adapted, self._adapter2, embeddings, count)
        kernel = ops.kernel(
            "scatter", [wide], THREADS,
            f"const {ops.half}* x, const int* cells, {ops.half}* table, int rows",
            f"step::scatter<T, {wide}>(x, cells, table, rows);",
        )  # fmt: skip
        table = self._queue.table.pointer
        self._gpu.launch(kernel, ops.each(count * wide), embeddings, cells, table, c_int(count))

    def _unfold(
        self, frames: int, kind: str, slots: int, tails: int, to: int, batch: int, count: int,
        sizes: tuple[int, int, int],
    ) -> None:  # fmt: skip
        width, stride, left = sizes
        half = self._ops.half
        kernel = self._ops.kernel(
            "unfold", [width, stride, left], THREADS,
            f"const {kind}* frames, const int* slots, {half}* tails, {half}* inputs, int count",
            f"step::unfold<T, {kind}, {width}, {stride}, {left}>"
            "(frames, slots, tails, inputs, count);",
        )  # fmt: skip
        first = kind == "float"  # in the step
        self._gpu.launch(
            kernel, (batch, 1, 1), frames, slots, tails, to, c_int(count), overlap=not first
        )


class TokenReader:
    """Brings steps' tokens to the host, as many steps' as are sent before one is read."""

    def __init__(self, gpu: Gpu, most: int) -> None:
        """``most`` is the most tokens of a step."""
        self._gpu, self._most = gpu, most
        self._free: list[Pinned] = []

    def read(self, place: int, batch: int, count: int) -> ComingTokens:
        """The first ``count`` of ``batch`` tokens at a place of the device's memory."""
        pinned = self._free.pop() if self._free else Pinned(self._gpu, 4 * self._most)
        self._gpu.download(pinned, place, 4 * batch)
        return ComingTokens(pinned, count, self._free)


@dataclass(slots=True)
class ComingTokens:
    """int32 [B] on their way; as an array they are waited for."""

    _pinned: Pinned
    _count: int
    _free: list[Pinned]
    _read: NDArray[np.int32] | None = field(default=None)

    @property
    def ready(self) -> bool:
        """Whether they are there."""
        return self._read is not None or self._pinned.event.passed

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.int32]:
        if self._read is None:
            self._pinned.event.wait()
            tokens: NDArray[np.int32] = self._pinned.bytes.view(np.int32)
            self._read = tokens[: self._count].copy()
            self._free.append(self._pinned)
        return self._read


class CudaDecoder(PromptedDecoder):
    """See ``TextDecoder``: a step's audio is cells of the queue."""

    rings: CudaRings

    def __init__(
        self, ops: Operations, config: VoxtralConfig, weights: Weights, queue: CudaQueue, *,
        slots: int, bos: int, pad: int, most: int, prompts: int,
    ) -> None:  # fmt: skip
        """``most`` rows step together, of ``prompts`` the prompts run together."""
        super().__init__(config, slots=slots, bos=bos, pad=pad, max_delay_tokens=MAX_DELAY_TOKENS)
        part, gpu = config.decoder, ops.gpu
        self.dtype = weights.dtype
        self._gpu, self._queue = gpu, queue
        self._embed = Matrix.of(ops, weights.linear("decoder.embed"))
        self._scales = self._ffn_scales(weights)
        self._ops = ops
        longest = prompt_length(config.left_pad_tokens, MAX_DELAY_TOKENS)
        self._usual_prompt = prompt_length(config.left_pad_tokens, config.delay_tokens)
        self._stack = CudaStack(
            ops, weights, "decoder", StackShape.of(part), chunk=longest, slots=slots
        )
        self.rings = rings = self._stack.rings
        self._last = gpu.memory(slots + 1, itemsize=4)
        s, positions = self._ops.scratch, max(most, prompts * longest)
        self._stack.prepare(positions)
        s.reserve("logits", min(most, _LOGIT_ROWS) * part.vocab_size, 4)
        s.reserve("hidden", most * part.dim)
        s.reserve("tokens", most, 4)
        per_row = 8 + self.rings.per_ring
        self._inputs = StepInputs(gpu, 4 * (2 * positions + most * per_row + 64))
        self._recorded = Recorded(gpu, rings)
        self._tokens = TokenReader(gpu, most)

    def clear(self) -> None:
        """Start every slot over on new memory, after a step that failed; all must join again."""
        self.rings.clear()
        self._delay[:] = 0

    def join(self, slot: int, delay_tokens: int) -> None:
        """Start ``slot`` over with its own delay; ValueError beyond ``max_delay_tokens``."""
        self._start_over(slot, delay_tokens)

    def prefill(self, rows: Sequence[int], audio: NDArray[np.int32]) -> ComingTokens:
        """Run the prompts of rows that have just joined, all with the same delay.

        ``audio [B, prompt_length]`` cells -> the first output token of each row. ValueError for
        other rows.
        """
        return self._step(rows, audio, None, self._prompt_of(rows))

    def step(
        self,
        rows: Sequence[int],
        audio: NDArray[np.int32],
        pad_penalty: Sequence[float] | None = None,
    ) -> ComingTokens:
        """The next token of each row, whose audio is in the cells ``audio [B]``, on their way."""
        return self._step(rows, audio[:, None], pad_penalty, None)

    def _ffn_scales(self, weights: Weights) -> DeviceMemory:
        """1 + every delay's scale of every layer's feed-forward input, [layers, delays, dim]."""
        part = self.config.decoder
        delays = range(self.max_delay_tokens + 1)
        times = mx.stack([time_embedding(delay, part.dim) for delay in delays])
        scales = []
        for layer in range(part.layers):
            first, second = (
                weights.linear(f"decoder.layers.{layer}.ada.{name}")
                for name in ("linear1", "linear2")
            )
            # A row at a time, as a stream that joins has it.
            each = [second(gelu(first(row[None].astype(weights.dtype)))) for row in times]
            scales.append(1.0 + mx.concatenate(each))
        return owned(self._gpu, mx.stack(scales).astype(weights.dtype))

    def _step(
        self,
        rows: Sequence[int],
        audio: NDArray[np.int32],
        pad_penalty: Sequence[float] | None,
        forced: NDArray[np.int32] | None,
    ) -> ComingTokens:
        n, batch = audio.shape[1], padded_size(len(rows))
        count, whole = len(rows), np.int32
        (slots, starts, delays, penalties, cells, given, blocks), places = self._inputs.arrays(
            (whole, (batch,)), (whole, (batch,)), (whole, (batch,)), (np.float32, (batch,)),
            (whole, (batch, n)), (whole, (batch, n)), (whole, (batch, self.rings.per_ring)),
        )  # fmt: skip
        slots[:count], slots[count:] = rows, self._filler
        delays[:] = self._delay[slots]
        cells[:count], cells[count:] = audio, self._queue.nobody
        given[:] = -1 if forced is None else forced
        if pad_penalty is not None:
            penalties[:count] = pad_penalty
        starts[:count], blocks[:count] = self.rings.rows(rows, n)
        self._inputs.send()
        if forced is None or n == self._usual_prompt:
            self._recorded.launch((batch, n), lambda: self._send(batch, n, *places))
        else:  # in many lengths
            self._send(batch, n, *places)
        self.rings.count(rows, n)
        return self._tokens.read(self._ops.scratch("tokens", batch, 4), batch, count)

    def _send(
        self, batch: int, n: int, slots: int, start: int, delays: int, penalties: int, cells: int,
        given: int, blocks: int,
    ) -> None:  # fmt: skip
        ops, s, part = self._ops, self._ops.scratch, self.config.decoder
        rows, dim, m = BatchRows(batch, n, start, blocks), part.dim, self._embed
        embed = ops.kernel(
            "embed", [dim, m.bits, m.group], THREADS,
            f"const int* given, const int* slots, const int* last, {ops.weight(m)} table, "
            f"const int* cells, const {ops.half}* audio, {ops.half}* x, int n, int rows",
            "step::embed(given, slots, last, table, cells, audio, x, n, rows);",
        )  # fmt: skip
        x = s("x", rows.total * dim)
        self._gpu.launch(
            embed, ops.each(rows.total * dim), given, slots,
            self._last.pointer, m.argument, cells, self._queue.table.pointer, x, c_int(n),
            c_int(rows.total), overlap=False,
        )  # fmt: skip
        row = 2 * (self.max_delay_tokens + 1) * dim
        hidden = self._stack.run(
            rows, lambda layer: Scale(self._scales.pointer + layer * row, delays, n)
        )
        if n > 1:
            last = s("hidden", batch * dim)
            kernel = ops.kernel(
                "last_position", [dim], THREADS,
                f"const {ops.half}* x, {ops.half}* y, int n, int batch",
                f"step::last_position<T, {dim}>(x, y, n, batch);",
            )  # fmt: skip
            self._gpu.launch(kernel, ops.each(batch * dim), hidden, last, c_int(n), c_int(batch))
            hidden = last
        most = _LOGIT_ROWS if m.dense else FEW_PACKED
        for at in range(0, batch, most):
            self._greedy(hidden + 2 * at * dim, min(most, batch - at), at, slots, penalties)

    def _greedy(self, hidden: int, rows: int, at: int, slots: int, penalties: int) -> None:
        """Tokens of ``rows`` rows, those from ``at`` on."""
        ops, s, vocab = self._ops, self._ops.scratch, self.config.decoder.vocab_size
        logits = s("logits", rows * vocab, 4)
        ops.linear(hidden, self._embed, logits, rows, exact=True)
        kernel = ops.kernel(
            "greedy", [vocab], _GREEDY_THREADS,
            "const float* logits, const float* penalties, int pad, const int* slots, int* last, "
            "int* tokens",
            f"step::greedy<{vocab}, {_GREEDY_THREADS}>"
            "(logits, penalties, pad, slots, last, tokens);",
        )  # fmt: skip
        self._gpu.launch(
            kernel, (rows, 1, 1), logits, penalties + 4 * at, c_int(self._pad), slots + 4 * at,
            self._last.pointer, s("tokens", at + rows, 4) + 4 * at,
        )  # fmt: skip
