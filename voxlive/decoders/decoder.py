"""Audio embeddings to tokens, and tokens to words, for many streams at once.

``TextDecoder`` is Voxtral Realtime's decoder (arXiv 2602.11298): greedy, a token for each audio
embedding, its feed-forward layers scaled by the stream's delay.

``Detokeniser`` makes words of one stream's tokens as they come and takes nothing back. A word
begins at a marker, at a leading space or, in scripts that are written without spaces, at every
piece of text. It is complete when the next one begins or when a few pads follow, since the model
writes all pieces of a word without a pad between them. A character that is split over several
tokens waits until it is whole.
"""

from __future__ import annotations

import codecs
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from voxlive.checkpoints.config import VoxtralConfig
from voxlive.layers.rings import BLOCK, Rings, View
from voxlive.layers.transformer import (
    Linear,
    Stack,
    StackShape,
    Weights,
    compiles,
    gelu,
    padded,
    zeros,
)

MAX_DELAY_TOKENS = 30
"""The longest delay of a stream, in positions."""
NOT_FINITE = -1
"""The token of a row with a number that is not finite: its stream cannot go on."""
_PERIOD = 10_000.0
_SETTLED_PADS = 2
"""So many pads after its last piece complete a word."""

_MAX_CHARS = 64
"""A longer run without a boundary is cut into words of this length."""

_SPACELESS = (
    (0x0E00, 0x0F00),  # Thai, Lao
    (0x0F00, 0x1000),  # Tibetan
    (0x1000, 0x10A0),  # Myanmar
    (0x1780, 0x1800),  # Khmer
    (0x3040, 0x3100),  # kana
    (0x31F0, 0x3200),  # kana, small
    (0x3400, 0x4DC0),  # Han
    (0x4E00, 0xA000),
    (0xF900, 0xFB00),
    (0xFF66, 0xFFA0),  # kana, halfwidth
    (0x20000, 0x32000),  # Han, supplementary
)
_SPACELESS_STARTS = [start for start, _ in _SPACELESS]


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


class PromptedDecoder:
    """What decoders know of their slots: rings, delays, and the prompts that these make."""

    rings: Rings

    def __init__(
        self, config: VoxtralConfig, *, slots: int, bos: int, pad: int, max_delay_tokens: int
    ) -> None:
        self.config = config
        self.max_delay_tokens = max_delay_tokens
        self._bos, self._pad = bos, pad
        self._filler = slots
        self._delay = np.zeros(slots + 1, np.int64)

    def leave(self, slot: int, *, scrub: bool = False) -> None:
        """Give the slot's memory back; ``scrub`` as in ``Rings.leave``, after ``NOT_FINITE``."""
        self.rings.leave(slot, scrub=scrub)

    def prompt_length(self, slot: int) -> int:
        """Audio embeddings that ``prefill`` of this slot takes."""
        return prompt_length(self.config.left_pad_tokens, int(self._delay[slot]))

    def _start_over(self, slot: int, delay_tokens: int) -> None:
        if not 1 <= delay_tokens <= self.max_delay_tokens:
            raise ValueError(
                f"a delay is 1 to {self.max_delay_tokens} positions, not {delay_tokens}"
            )
        self.rings.leave(slot)
        self._delay[slot] = delay_tokens

    def _prompt_of(self, rows: Sequence[int]) -> NDArray[np.int32]:
        """The ids that rows begin with; ValueError where they do not begin together."""
        delay = int(self._delay[rows[0]])
        if any(self._delay[slot] != delay or self.rings.position(slot) for slot in rows):
            raise ValueError("a prefill takes rows that have just joined, all with one delay")
        return prompt(self.config.left_pad_tokens, delay, bos=self._bos, pad=self._pad)


class TextDecoder(PromptedDecoder):
    """Greedy decoder with sliding-window caches over a table of ``slots`` streams.

    A position takes the sum of two embeddings, of the token before it and of its audio, and gives
    one token. The last token of each stream stays on the device. A step waits for the one before
    (see ``layers.rings``). All methods belong on one thread.
    """

    def __init__(
        self,
        config: VoxtralConfig,
        weights: Weights,
        *,
        slots: int,
        bos: int,
        pad: int,
        max_delay_tokens: int = MAX_DELAY_TOKENS,
        block: int = BLOCK,
        compiled: bool | None = None,
    ) -> None:
        """``compiled`` None means on GPUs only."""
        super().__init__(config, slots=slots, bos=bos, pad=pad, max_delay_tokens=max_delay_tokens)
        part = config.decoder
        self.dtype = weights.dtype
        self._embed = weights.linear("decoder.embed")
        self._ada = [
            (weights.linear(f"{name}.linear1"), weights.linear(f"{name}.linear2"))
            for name in (f"decoder.layers.{i}.ada" for i in range(part.layers))
        ]
        mx.eval(self._embed.arrays, [layer.arrays for pair in self._ada for layer in pair])
        self._stack = Stack(
            weights,
            "decoder",
            StackShape.of(part),
            slots=slots,
            chunk=prompt_length(config.left_pad_tokens, max_delay_tokens),
            block=block,
        )
        self.rings = self._stack.rings
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
        self._start_over(slot, delay_tokens)
        self._last[slot] = self._bos
        if delay_tokens not in self._ffn_scales:
            self._ffn_scales[delay_tokens] = self._ffn_scale(delay_tokens)
        self._scale[:, slot] = self._ffn_scales[delay_tokens]

    def prefill(self, rows: Sequence[int], audio: mx.array) -> mx.array:
        """Run the prompts of rows that have just joined, all with the same delay.

        ``audio [B, prompt_length, dim]`` -> the first output token of each row, int32 [B]. Raises
        ValueError for other rows.
        """
        return self._step(rows, audio, None, mx.array(self._prompt_of(rows))[None])

    def step(
        self, rows: Sequence[int], audio: mx.array, pad_penalty: Sequence[float] | None = None
    ) -> mx.array:
        """The next token of each row: ``audio [B, dim]`` -> int32 [B], on their way.

        ``pad_penalty [B]`` is subtracted from the pad's logit (the guard against endless blanks).
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
        self._delay[:] = 0
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


@dataclass(frozen=True, slots=True)
class TokenWord:
    """One word. ``text`` has its own leading space.

    ``first`` and ``last`` are output indices since the last restart, 0 for the token that the
    prompt's last position gives: of the marker or else of its first piece, and of its last piece.
    """

    text: str
    first: int
    last: int

    def end(self, per_token: int) -> int:
        """Where the word ended, in samples of real audio since the stream's (re)start.

        Output k ends at ``(len(prompt) - left pad - delay + k) * per_token = (k + 1) * per_token``:
        the prompt is BOS, the pad on the left and the delay, so the delay is already off. The model
        begins to write a word in the position in which it ended (arXiv 2602.11298, section 3.1);
        its further pieces only follow.
        """
        return (self.first + 1) * per_token


class Detokeniser:
    """The tokens of one stream to words.

    It holds the open word, at most ``_MAX_CHARS`` characters or one longer piece, and up to three
    bytes of a character that is not whole.
    """

    def __init__(self, pieces: Callable[[int], bytes], *, pad: int, word: int) -> None:
        """``pieces`` gives a token's bytes, none for control tokens; ``word`` is the marker."""
        self._pieces = pieces
        self._pad, self._word = pad, word
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._before = ""
        self._start_over()

    def _start_over(self) -> None:
        self._decoder.reset()
        self._text = ""
        self._first = self._last = 0
        self._mark: int | None = None
        # Bytes of an unfinished character are in the decoder; it began at this output.
        self._held = False
        self._held_at = 0
        self._index = self._pads = 0
        self._restarted = True

    @property
    def draft(self) -> str:
        """The open word so far, with its leading space; empty when there is none."""
        return self._spaced() if self._text.strip() else ""

    @property
    def pad_run(self) -> int:
        """How many pads have come in a row."""
        return self._pads

    def push(self, token: int) -> list[TokenWord]:
        """Take the next output token; returns the words that are now complete."""
        index = self._index
        self._index += 1
        if token == self._pad:
            self._pads += 1
            if self._held or self._pads < _SETTLED_PADS:
                return []
            self._mark = None
            return self._close()
        self._pads = 0
        if token == self._word:
            done = self.finish()
            self._mark = index
            return done
        return self._add(self._pieces(token), index)

    def finish(self) -> list[TokenWord]:
        """The open word as it stands, if any: no more belongs to it."""
        return self._give_up_held() + self._close()

    def restart(self) -> list[TokenWord]:
        """Finish, and start over at output 0 as the decoder does.

        The first word after it gets a space where the text so far would run into it.
        """
        done = self.finish()
        self._start_over()
        return done

    def _add(self, piece: bytes, index: int) -> list[TokenWord]:
        if not piece:
            return []
        done = []
        if self._held and not 0x80 <= piece[0] < 0xC0:
            # The character will never be whole: it belongs to the word before this piece.
            done = self._give_up_held()
        start = self._held_at if self._held else index
        text = self._decoder.decode(piece)
        self._held = bool(self._decoder.getstate()[0])
        self._held_at = index if text else start
        return done + self._append(text, start, index)

    def _give_up_held(self) -> list[TokenWord]:
        """Bytes that will never be a character become U+FFFD."""
        self._held = False
        return self._append(self._decoder.decode(b"", final=True), self._held_at, self._held_at)

    def _append(self, text: str, start: int, end: int) -> list[TokenWord]:
        """Text of outputs ``start`` to ``end``, which may complete the word before it."""
        if not text:
            return []
        done = self._close() if self._begins_word(text) else []
        if not self._text.strip():
            self._text = self._text[-_MAX_CHARS:]
            if text.strip():
                self._first = start if self._mark is None else self._mark
                self._mark = None
        self._text += text
        self._last = end
        return done

    def _begins_word(self, text: str) -> bool:
        if not self._text.strip():
            return False
        if text[0].isspace() or self._text[-1].isspace():
            return True
        if len(self._text) + len(text) > _MAX_CHARS:
            return True
        joins = unicodedata.category(text[0])[0] in "MP"
        return not joins and (_is_spaceless(self._text[-1]) or _is_spaceless(text[0]))

    def _close(self) -> list[TokenWord]:
        if not self._text.strip():
            return []
        word = TokenWord(self._spaced(), self._first, self._last)
        self._restarted = False
        self._before = self._text[-1]
        self._text = ""
        return [word]

    def _spaced(self) -> str:
        apart = self._restarted and _run_together(self._before, self._text[0])
        return " " + self._text if apart else self._text


def _is_spaceless(character: str) -> bool:
    """Whether a character's script is written without spaces between words."""
    code = ord(character)
    at = bisect_right(_SPACELESS_STARTS, code) - 1
    return at >= 0 and code < _SPACELESS[at][1]


def _run_together(before: str, after: str) -> bool:
    """Whether the last character before a restart and the first one after it need a space."""
    if not before or before.isspace() or after.isspace():
        return False
    if unicodedata.category(after) in ("Pe", "Pf", "Po") or unicodedata.category(after)[0] == "M":
        return False
    wide = unicodedata.east_asian_width(before) in "WF"
    return not (wide or _is_spaceless(before) or _is_spaceless(after))
