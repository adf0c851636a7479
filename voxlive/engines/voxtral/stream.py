"""One session's place in the Voxtral engine: what it hands over, its state, and whom it answers.

A ``Row`` is the stream's state on the engine's thread: audio in, tokens out. Pure: no clock. It is
reset in silence, never in mid-speech: what bounds it are the model's sliding windows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from voxlive.engines.contract import Committed, Drafted, Message, Progressed, Reached
from voxlive.values import SAMPLE_RATE, Timeline, Word

if TYPE_CHECKING:
    from voxlive.decoders.decoder import Detokeniser, TokenWord
    from voxlive.encoders.encoder import Floats, MelFrontEnd
    from voxlive.engines.contract import Sink
    from voxlive.engines.voxtral.model import RowOptions
    from voxlive.values import Samples

RESET_SILENCE = 2 * SAMPLE_RATE
"""A silence from which the model starts afresh."""
FLUSH_MARGIN = 10
"""Tokens of silence past the delay that a flush decodes, as the model's own tokenizer pads."""
MAX_BLANK_RUN = 200
"""Pads in a row of fed speech from which the model is taken to have stopped writing."""
LONGEST_WORD = 8
"""Tokens of audio between the start that a word is given and its end."""
SETTLED = 2
"""Pads after the last piece of text from which nothing more is taken to be on its way."""
_BLANK_RUN_SLOPE, _BLANK_RUN_MOST = 0.5, 7.0


@dataclass(frozen=True, slots=True)
class RowAudio:
    """Samples whose first stands at ``at`` on the session's clock."""

    samples: Samples
    at: int


@dataclass(frozen=True, slots=True)
class RowMark:
    """Answer ``marker`` once all words before it are committed.

    With ``flush`` they are brought out at once and the row is reset. Without ``flush``
    the speaker paused: the stream's ``trail`` of audio lies behind the speech.
    """

    marker: int
    flush: bool


class AudioBuffer:
    """A stream's audio and marks, in order, from ``feed`` until the audio is encoded.

    The one place where they wait. Any thread appends items. The engine's thread admits them one by
    one: a mark is removed then, and audio counts towards whole tokens of the front end, which
    computes those of all streams at once. What bounds the buffer is its caller, by ``samples``.
    """

    def __init__(self, front_end: MelFrontEnd) -> None:
        self._front_end = front_end
        self._items: deque[Any] = deque()  # samples that are admitted, then RowAudio and RowMark
        self._admitted = 0  # of the items
        self._framed = 0  # samples of these
        # Samples ever: the first is written by who appends, the second by the engine's thread.
        self._appended = self._taken_over = 0
        self.restart()

    @property
    def next(self) -> RowAudio | RowMark | None:
        """The first item that has not been admitted."""
        return self._items[self._admitted] if self._admitted < len(self._items) else None

    @property
    def waiting(self) -> int:
        """Samples that have not been admitted."""
        return self._appended - self._taken_over

    @property
    def samples(self) -> int:
        """All that have not been encoded."""
        return self.waiting + self._framed

    @property
    def ready(self) -> int:
        """Tokens that are complete: one is when ``n_fft / 2 - hop`` samples after its end came."""
        return max(0, (self._framed - self._front_end.span(0)) // self._front_end.samples)

    @property
    def missing(self) -> int:
        """Samples that complete a token where none is."""
        return self._front_end.span(1) - self._framed

    @property
    def rest(self) -> int:
        """Samples that complete the next token behind those that are."""
        return self._front_end.span(self.ready + 1) - self._framed

    def append(self, item: RowAudio | RowMark) -> None:
        """Add an item, whose samples must not change any more."""
        self._items.append(item)
        if isinstance(item, RowAudio):
            self._appended += len(item.samples)

    def admit(self) -> None:
        """Admit the item that is ``next``."""
        item = self._items[self._admitted]
        if type(item) is RowMark:
            del self._items[self._admitted]
            return
        samples = item.samples
        self._items[self._admitted] = samples
        self._admitted += 1
        self._framed += len(samples)
        self._taken_over += len(samples)

    def push(self, audio: Floats) -> None:
        """Put float32 samples [n], which must not change any more, behind what is admitted."""
        self._items.insert(self._admitted, audio)
        self._admitted += 1
        self._framed += len(audio)

    def read(self, tokens: int) -> Floats:
        """The audio of the next ``tokens``, float32 [span(tokens)]; ValueError beyond ``ready``."""
        if tokens > self.ready:
            raise ValueError(f"{self.ready} tokens are complete, not {tokens}")
        need, found = self._front_end.span(tokens), 0
        parts: list[Floats] = []
        while found < need:
            parts.append(self._items.popleft())
            found += len(parts[-1])
        audio = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._items.appendleft(audio)
        self._admitted += 1 - len(parts)
        return audio[:need]

    def drop(self, tokens: int) -> None:
        """Drop the next ``tokens``, which were read."""
        gone = tokens * self._front_end.samples
        self._items.appendleft(self._items.popleft()[gone:])
        self._framed -= gone

    def restart(self) -> None:
        """Drop the audio that is admitted: the next item is that of a new stream."""
        for _ in range(self._admitted):
            self._items.popleft()
        self._admitted = self._framed = 0
        # Left of the first sample is silence. A batch reflects the audio there instead, which is
        # the same for a stream that begins with silence.
        self.push(np.zeros(self._front_end.config.n_fft // 2, np.float32))


class StreamOwner(Protocol):
    """The engine, as its streams see it."""

    def give(self, stream: VoxtralStream, item: RowAudio | RowMark) -> None:
        """Hand an item to the stream's row."""
        ...

    def release(self, stream: VoxtralStream) -> bool:
        """The stream is over; whether it was not so already."""
        ...


class VoxtralStream:
    """See the module. Its row lives on the engine's thread."""

    def __init__(self, engine: StreamOwner, options: RowOptions, trail: int, sink: Sink) -> None:
        self.options = options
        self.trail = trail
        self.sink = sink
        self.audio = AudioBuffer(options.front_end)
        self.missing = 0  # samples of audio from which a round is worth it
        self.closed = False
        self._engine = engine

    def feed(self, audio: Samples, at: int) -> None:
        """See the contract; beyond the engine's ``MAX_WAITING_S`` it fails with ``overrun``."""
        self._engine.give(self, RowAudio(np.array(audio, np.float32), at))

    def end_utterance(self, marker: int) -> None:
        """See the contract."""
        self._engine.give(self, RowMark(marker, flush=False))

    def flush(self, marker: int) -> None:
        """See the contract."""
        self._engine.give(self, RowMark(marker, flush=True))

    def close(self) -> None:
        """See the contract."""
        self._engine.release(self)

    def send(self, message: Message) -> None:
        """To the sink, unless the stream was closed meanwhile."""
        if not self.closed:
            self.sink(message)


def pad_penalty(run: int) -> float:
    """What to take off the pad's logit after ``run`` pads in a row of fed speech."""
    return min(_BLANK_RUN_MOST, _BLANK_RUN_SLOPE * max(0, run - MAX_BLANK_RUN))


@dataclass(frozen=True, slots=True)
class _Due:
    """Markers that are due once ``decoded`` tokens have been; none for a flush of our own."""

    decoded: int
    markers: tuple[int, ...]
    flush: bool


class Row:
    """Everything of one stream but its caches. ``send`` takes its messages, in order.

    Where a method returns True the caches must be restarted before the next step.
    """

    def __init__(
        self,
        slot: int,
        options: RowOptions,
        audio: AudioBuffer,
        words: Detokeniser,
        send: Callable[[Message], None],
    ) -> None:
        self.slot = slot
        self.options = options
        self.blank_runs = 0
        self._words = words
        self._send = send
        self._audio = audio
        self._blocked = False  # audio waits for the mark before it
        self._due: _Due | None = None
        self._draft = ""
        self._committed_upto = 0
        self._word_end = 0
        self._decoded = 0
        self._timeline = Timeline()
        self._unmarked = False
        self.mels: list[Floats] = []
        """Mel of the next tokens, one by one, as far as the front end is."""
        self._begin()

    @property
    def ready(self) -> int:
        """Tokens of audio to encode now: none before those are decoded that have been."""
        return 0 if self._is_behind() else self._audio.ready

    @property
    def waiting(self) -> bool:
        """Whether there is anything to do before more audio comes."""
        return self._is_behind() or self.ready > 0 or self._blocked or self._is_due()

    @property
    def missing(self) -> int:
        """Samples of audio without which the next round would have nothing to encode."""
        return self._audio.missing

    @property
    def _queued(self) -> int:
        """Tokens of audio that there have been."""
        return self._encoded + self._audio.ready

    @property
    def quiet(self) -> bool:
        """Whether a reset now would lose nothing."""
        return not (self._unmarked or self._due or self._blocked)

    @property
    def near_penalty(self) -> bool:
        """Whether the next outputs decide about a penalty, so that each must be awaited."""
        return self._words.pad_run >= MAX_BLANK_RUN - 2

    @property
    def pad_penalty(self) -> float:
        """See the function of this name."""
        return pad_penalty(self._words.pad_run)

    def absorb(self) -> bool:
        """Admit new items, in order. Audio behind a mark waits until the mark is reached, so that
        what is decided there does not depend on when it came.
        """
        restart = False
        while (item := self._audio.next) and self._admits(item):
            match item:
                case RowAudio() if self._silent_before(item) and self._unmarked:
                    self._pad_out()
                case RowAudio():
                    if self._silent_before(item):
                        self.reset()
                        restart = True
                    self._admit(item)
                case RowMark(marker, flush):
                    self._audio.admit()
                    if flush:
                        self._pad_out(marker)
                    else:
                        self._pause(marker)
        self._blocked = item is not None
        return restart

    def absorb_audio(self) -> None:
        """Admit audio that simply goes on: also while positions of the row are being decoded."""
        while isinstance(item := self._audio.next, RowAudio):
            if self._due or self._silent_before(item):
                return
            self._admit(item)

    @property
    def complete(self) -> int:
        """Tokens of audio that are there, whether or not they may be encoded now."""
        return self._audio.ready

    def read(self, tokens: int) -> Floats:
        """The audio of the next tokens without ``mels``, for the front end."""
        known = len(self.mels)
        return self._audio.read(known + tokens)[known * self.options.per_token :]

    def take(self, tokens: int) -> Floats:
        """The mel of the next tokens, from ``mels``; from now on they count as encoded."""
        taken = self.mels[:tokens]
        del self.mels[:tokens]
        self._encoded += tokens
        self._audio.drop(tokens)
        return np.concatenate(taken) if tokens > 1 else taken[0]

    def on_token(self, token: int) -> None:
        """The decoder's next output; the first one is that of the whole prompt."""
        self._decoded = self._decoded + 1 if self._decoded else self.options.prompt
        self._commit(self._words.push(token))
        self.blank_runs += self._words.pad_run == MAX_BLANK_RUN + 1

    def settle(self) -> bool:
        """After a round: send the draft, the progress and the marks that were reached."""
        restart = False
        while (due := self._due) and self._is_due():
            self._due = None
            restart = self._reach(due) or restart
        self._send_draft(self._words.draft)
        if self._timeline.length:
            wanted = 0 if self._due or self._blocked else self._fed_upto + self._audio.rest
            self._send(Progressed(self._progress(), wanted))
        return restart

    def reset(self) -> None:
        """Start afresh because the caches are gone; for a row that is ``quiet``."""
        self._commit(self._words.restart())
        self._begin()

    def _is_behind(self) -> bool:
        """Whether positions wait to be decoded; those of the prompt are one."""
        return self._encoded >= max(self._decoded + 1, self.options.prompt)

    def _is_due(self) -> bool:
        return self._due is not None and self._due.decoded <= self._decoded

    def _admits(self, item: RowAudio | RowMark) -> bool:
        due = self._due
        return due is None or (isinstance(item, RowMark) and not due.flush)

    def _silent_before(self, audio: RowAudio) -> bool:
        return bool(self._timeline.length) and audio.at - self._fed_upto >= RESET_SILENCE

    def _admit(self, audio: RowAudio) -> None:
        self._timeline.extend(audio.at, len(audio.samples))
        self._fed_upto = audio.at + len(audio.samples)
        self._unmarked = True
        self._audio.admit()

    def _pause(self, marker: int) -> None:
        self._unmarked = False
        # Of less audio than the first step takes nothing is decoded, so there is nothing to await.
        due = self._queued if self._queued >= self.options.prompt else 0
        self._due = _Due(due, (*self._awaited, marker), flush=False)

    @property
    def _awaited(self) -> tuple[int, ...]:
        return self._due.markers if self._due else ()

    def _pad_out(self, *markers: int) -> None:
        """Silence up to a whole token, for the delay and for the margin: the last words.

        They may be those of a pause whose mark has not been reached, which then waits for them.
        """
        self._unmarked = False
        per_token = self.options.per_token
        due = 0
        if self._timeline.length:
            tokens = self.options.delay_tokens + 1 + FLUSH_MARGIN
            rest = -self._timeline.length % per_token
            silence = rest + tokens * per_token + self.options.look_ahead
            self._audio.push(np.zeros(silence, np.float32))
            due = self._queued
        self._due = _Due(due, (*self._awaited, *markers), flush=True)

    def _reach(self, due: _Due) -> bool:
        """Answer the marks that were reached; a pause in mid-word is made a flush."""
        words, fed = self._words, bool(self._timeline.length)
        if due.flush:
            self._commit(words.restart())
        elif words.pad_run >= SETTLED or not fed:
            self._commit(words.finish())
        else:
            self._pad_out(*due.markers)
            return False
        self._send_draft(words.draft)
        for marker in due.markers:
            self._send(Reached(marker))
        # A row that was fed nothing is as it began, and of its silence some may be encoded.
        if due.flush and fed:
            self._begin()
        return due.flush and fed

    def _commit(self, words: list[TokenWord]) -> None:
        if words:
            self._send(Committed(tuple(self._timed(word) for word in words)))

    def _timed(self, word: TokenWord) -> Word:
        """Onto the session's clock: in order, and not past the audio that was fed.

        The model marks ends only: a word is taken to start where the one before it ended, but not
        more than ``LONGEST_WORD`` before its own end.
        """
        per_token = self.options.per_token
        ended = word.end(per_token)
        began = max(self._word_end, ended - LONGEST_WORD * per_token)
        self._word_end = min(ended, self._timeline.length)
        start = max(self._committed_upto, self._timeline.clock(began, end=False))
        self._committed_upto = max(start, self._timeline.clock(ended))
        return Word(word.text, start, self._committed_upto)

    def _send_draft(self, text: str) -> None:
        if text != self._draft:
            self._draft = text
            self._send(Drafted(text))

    def _progress(self) -> int:
        """The clock up to which all is decoded; a rest that is no whole token counts."""
        if self._decoded == self._queued and not self._blocked:
            return self._fed_upto
        decoded = max(0, self._decoded - self.options.left_pad_tokens) * self.options.per_token
        kept = decoded - (self.options.delay_tokens + FLUSH_MARGIN) * self.options.per_token
        self._timeline.forget(kept)
        return self._timeline.clock(decoded)

    def _begin(self) -> None:
        """As a stream that was fed nothing but the silence on its left."""
        self._encoded = 0
        self._decoded = 0
        self.mels.clear()
        self._audio.restart()
        self._timeline = Timeline()
        self._word_end = 0
        self._fed_upto = 0
        self._unmarked = False
        left = self.options.left_pad_tokens * self.options.per_token
        self._audio.push(np.zeros(left, np.float32))
