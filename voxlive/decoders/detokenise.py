"""Output tokens to words, one token at a time: no MLX, no history, nothing taken back.

A word begins at a marker, at a leading space, or, in scripts written without spaces, at every
piece of text. It is complete when the next one begins or when a few pads follow: the model gives
all pieces of a word in one go. Characters split over several tokens are held until they are whole.
"""

from __future__ import annotations

import codecs
import unicodedata
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

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
    """One stream's open word: at most ``_MAX_CHARS`` characters, or one piece, and three bytes."""

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
