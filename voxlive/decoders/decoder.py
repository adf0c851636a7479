"""What a stream's delay means to the decoder: its prompt, its conditioning and its clock.

Audio embeddings to tokens: the delay-conditioned decoder over a table of streams.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from voxlive.checkpoints.config import VoxtralConfig
from voxlive.layers.device import padded, zeros
from voxlive.layers.linear import Linear, Weights
from voxlive.layers.rings import View
from voxlive.layers.stack import Stack, StackShape, compiles, gelu

_PERIOD = 10_000.0


def time_embedding(delay_tokens: int, dim: int) -> mx.array:
    """Sinusoids of the delay in positions, cosines first, float32 [dim].

    Frequencies are ``exp(-ln(10000) i / (dim / 2))``, as in the released model.
    """
    half = dim // 2
    angle = delay_tokens * np.exp(-np.log(_PERIOD) * np.arange(half) / half)
    return mx.array(np.concatenate([np.cos(angle), np.sin(angle)]), mx.float32)


def prompt_length(left_pad_tokens: int, delay_tokens: int) -> int:
    """Positions before the first output: BOS, the silence on the left, the delay."""
    return 1 + left_pad_tokens + delay_tokens


def prompt(left_pad_tokens: int, delay_tokens: int, *, bos: int, pad: int) -> NDArray[np.int32]:
    """The prompt's token ids: BOS, then a pad for each further position."""
    ids = np.full(prompt_length(left_pad_tokens, delay_tokens), pad, np.int32)
    ids[0] = bos
    return ids


NOT_FINITE = -1
"""The token of a row whose numbers went wrong: its stream cannot go on."""


class TextDecoder:
    """Greedy decoder with sliding rings over a table of ``slots`` streams.

    Every position takes the token before it and one audio embedding and gives one token. The last
    token of each stream stays on the device. A step waits for the one before (see
    ``layers.rings``). All methods belong on one thread.
    """

    def __init__(
        self,
        config: VoxtralConfig,
        weights: Weights,
        *,
        slots: int,
        bos: int,
        pad: int,
        max_delay_tokens: int = 30,
        block: int = 32,
        attention: str | None = None,
        compiled: bool | None = None,
    ) -> None:
        """``compiled`` None means on GPUs only."""
        part = config.decoder
        self.config = config
        self.max_delay_tokens = max_delay_tokens
        self.dtype = weights.dtype
        self._bos, self._pad = bos, pad
        self._embed = weights.linear("decoder.embed")
        self._ada = [
            (weights.linear(f"{name}.linear1"), weights.linear(f"{name}.linear2"))
            for name in (f"decoder.layers.{i}.ada" for i in range(part.layers))
        ]
        mx.eval(self._embed.arrays, [layer.arrays for pair in self._ada for layer in pair])
        self._stack = Stack(
            weights,
            "decoder",
            StackShape(
                layers=part.layers,
                heads=part.heads,
                kv_heads=part.kv_heads,
                head_dim=part.head_dim,
                window=part.window,
                rope_theta=part.rope_theta,
                norm_eps=part.norm_eps,
            ),
            slots=slots,
            chunk=prompt_length(config.left_pad_tokens, max_delay_tokens),
            block=block,
            attention=attention,
        )
        self.rings = self._stack.rings
        self._filler = slots
        self._ffn_scales: dict[int, mx.array] = {}
        self._clear_slots()
        # A compiled step is one graph per shape, so batches come in few sizes.
        self._fixed = compiles(compiled)
        self._step_graph = mx.compile(self._run) if self._fixed else self._run

    def clear(self) -> None:
        """Start every slot over on new memory, after a step that failed; all must join again."""
        self.rings.clear()
        self._ffn_scales.clear()
        self._clear_slots()

    def join(self, slot: int, delay_tokens: int) -> None:
        """Start ``slot`` over with its own delay; ValueError beyond ``max_delay_tokens``."""
        if not 1 <= delay_tokens <= self.max_delay_tokens:
            raise ValueError(
                f"a delay is 1 to {self.max_delay_tokens} positions, not {delay_tokens}"
            )
        self.rings.leave(slot)
        self._delay[slot] = delay_tokens
        self._last[slot] = self._bos
        if delay_tokens not in self._ffn_scales:
            self._ffn_scales[delay_tokens] = self._ffn_scale(delay_tokens)
        self._scale[:, slot] = self._ffn_scales[delay_tokens]

    def leave(self, slot: int, *, scrub: bool = False) -> None:
        """Give the slot's memory back; ``scrub`` as in ``Rings.leave``, after ``NOT_FINITE``."""
        self.rings.leave(slot, scrub=scrub)

    def prompt_length(self, slot: int) -> int:
        """Audio embeddings that ``prefill`` of this slot takes."""
        return prompt_length(self.config.left_pad_tokens, int(self._delay[slot]))

    def prefill(self, rows: Sequence[int], audio: mx.array) -> mx.array:
        """Run the prompts of rows that have just joined, all with the same delay.

        ``audio [B, prompt_length, dim]`` -> the first output token of each row, int32 [B].
        """
        delay = int(self._delay[rows[0]])
        if any(self._delay[slot] != delay or self.rings.position(slot) for slot in rows):
            raise ValueError("a prefill takes rows that have just joined, all with one delay")
        ids = prompt(self.config.left_pad_tokens, delay, bos=self._bos, pad=self._pad)
        return self._step(rows, audio, None, mx.array(ids)[None])

    def step(
        self, rows: Sequence[int], audio: mx.array, pad_penalty: Sequence[float] | None = None
    ) -> mx.array:
        """The next token of each row: ``audio [B, dim]`` -> int32 [B], on their way.

        ``pad_penalty [B]`` is subtracted from the pad's logit (the guard against ruts of blanks).
        A token is ``NOT_FINITE`` where a row overflowed. Rows must be distinct.
        """
        some = pad_penalty is not None and any(pad_penalty)
        return self._step(rows, audio[:, None], pad_penalty if some else None, None)

    def logits(self, rows: Sequence[int], tokens: mx.array, audio: mx.array) -> mx.array:
        """Score given tokens: ``tokens [B, n]``, ``audio [B, n, dim]`` -> logits [B, n, vocab].

        Moves the rows on by n positions but leaves their last output token alone.
        """
        n = tokens.shape[1]
        x = self._embed.rows(tokens) + audio.astype(self.dtype)
        view = self._stack.view(rows, padded(rows, self._filler, fixed=False), n)
        x, self.rings.pools = self._stack(x, view, self.rings.pools, self._scale[:, view.slots])
        self.rings.advance(rows, n, view.moved(n))
        return self._embed(x)

    def _clear_slots(self) -> None:
        """What each slot has beside its rings; the one past the end is for fillers."""
        part, slots = self.config.decoder, self._filler + 1
        self._delay = np.zeros(slots, np.int64)
        self._sent: list[mx.array] = []
        self._last = mx.full((slots,), self._pad, mx.int32)
        self._scale = mx.ones((part.layers, slots, part.dim), self.dtype)

    def _ffn_scale(self, delay_tokens: int) -> mx.array:
        """1 + the delay's scale of every layer's feed-forward input, [layers, dim]."""
        t = time_embedding(delay_tokens, self.config.decoder.dim).astype(self.dtype)[None]
        scales = [second(gelu(first(t))) for first, second in self._ada]
        return 1.0 + mx.concatenate(scales)

    def _step(
        self,
        rows: Sequence[int],
        audio: mx.array,
        pad_penalty: Sequence[float] | None,
        forced: mx.array | None,
    ) -> mx.array:
        mx.eval(self._sent)
        n = audio.shape[1]
        view = self._stack.view(rows, padded(rows, self._filler, fixed=self._fixed), n)
        if fill := len(view.slots) - len(rows):
            audio = mx.pad(audio, [(0, fill), (0, 0), (0, 0)])
        tokens, self._last, self.rings.pools, table = self._step_graph(
            audio.astype(self.dtype),
            self._penalty(pad_penalty, len(view.slots)),
            view,
            forced,
            self._last,
            self._scale,
            self.rings.pools,
        )
        self.rings.advance(rows, n, table)
        self._sent = [tokens, self._last, table]
        mx.async_eval(self._sent)  # type: ignore[no-untyped-call]
        best: mx.array = tokens[: len(rows)]
        return best

    def _penalty(self, given: Sequence[float] | None, size: int) -> mx.array | None:
        """``given`` filled up to ``size``; a compiled step always has one, or it would be two."""
        if given is None:
            return zeros(size) if self._fixed else None
        return mx.array([*given, *[0.0] * (size - len(given))])

    def _run(
        self,
        audio: mx.array,
        penalty: mx.array | None,
        view: View,
        forced: mx.array | None,
        last: mx.array,
        scale: mx.array,
        pools: list[mx.array],
    ) -> tuple[mx.array, mx.array, list[mx.array], mx.array]:
        view = View(*view)
        slots = view.slots
        ids = last[slots][:, None] if forced is None else forced
        x = self._embed.rows(ids) + audio
        x, pools = self._stack(x, view, pools, scale[:, slots])
        tokens = _greedy(self._embed, x[:, -1], penalty, self._pad)
        last[slots] = mx.maximum(tokens, 0)
        return tokens, last, pools, view.moved(audio.shape[1])


def _greedy(head: Linear, hidden: mx.array, penalty: mx.array | None, pad: int) -> mx.array:
    """The likeliest token of each row [B] under the pad's penalty, or ``NOT_FINITE``."""
    logits = head(hidden)
    if penalty is not None:
        is_pad = mx.arange(logits.shape[-1]) == pad
        logits = mx.where(is_pad, logits - penalty[:, None].astype(logits.dtype), logits)
    tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
    finite = mx.isfinite(hidden.astype(mx.float32).sum(axis=-1))
    return mx.where(finite, tokens, NOT_FINITE)
