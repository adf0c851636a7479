"""A session's stream that outlives its engine.

A process with an engine may crash, hang or be replaced. What the session gave to its stream since
the last mark that was reached is kept, and given to another stream once there is an engine again:
nobody loses a word. Words that were committed from that audio before are recognised once more and
left out, by their times.

Positions are samples at 16 kHz on the session's clock. Bounds: ``MAX_KEPT`` samples a session, of
which the oldest are dropped; ``MAX_BACKLOG`` samples that an engine may have to process;
``MAX_FAILURES`` in the same audio and ``RECOVERY_S`` without an engine, after which the session
fails with the engine's own error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voxlive.engines.contract import (
    Committed,
    Drafted,
    Failed,
    LanguageFound,
    Message,
    PacedStream,
    Progressed,
    Reached,
    SessionMessage,
    Withdrawn,
)
from voxlive.errors import EngineError
from voxlive.streaming.queues import Wakeup
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voxlive.engines.contract import Sink, Stream
    from voxlive.values import Samples, Word

log = logging.getLogger(__name__)

MAX_BACKLOG = 30 * SAMPLE_RATE
"""Samples that an engine may have to process before more are held back."""
MAX_KEPT = 60 * SAMPLE_RATE
"""Samples that a session keeps to give them again: more than an engine may have to process."""
MAX_FAILURES = 3
"""Of an engine in the same audio, which then may be what it fails of."""
RECOVERY_S = 60.0
"""For so long a session waits for an engine."""
_RETRY_S = 0.1
_RECOVERABLE = "engine_failed"
_NOT_YET = (_RECOVERABLE, "server_full")


class Backlog:
    """The audio that an engine was fed and has not processed, as ranges of samples. Pure.

    ``samples`` is its length; silence that was not fed does not count. Adjoining ranges are one, so
    there are as many as there are pauses within the backlog.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._ranges: deque[tuple[int, int]] = deque()

    def feed(self, start: int, end: int) -> None:
        """The engine was fed samples ``start`` to ``end``."""
        self.samples += end - start
        if self._ranges and self._ranges[-1][1] == start:
            start, _ = self._ranges.pop()
        self._ranges.append((start, end))

    def progress(self, upto: int) -> None:
        """The engine has processed everything before sample ``upto``."""
        while self._ranges and self._ranges[0][0] < upto:
            start, end = self._ranges.popleft()
            self.samples -= min(end, upto) - start
            if upto < end:
                self._ranges.appendleft((upto, end))


class FedAudio(NamedTuple):
    """Float32 samples [n] for ``Stream.feed``, of which the first is sample ``at``."""

    audio: Samples
    at: int

    @property
    def end(self) -> int:
        """The sample after the last."""
        return self.at + len(self.audio)


class Mark(NamedTuple):
    """For ``Stream.flush`` or, without ``flush``, ``Stream.end_utterance``."""

    marker: int
    flush: bool


class StreamJournal:
    """What a stream was given since the last mark that it reached, in order. Pure.

    Entries are numbered from the session's first: those from ``first`` to before ``end`` are kept.
    """

    def __init__(self, max_samples: int = MAX_KEPT) -> None:
        self.first = 0
        self._max_samples = max_samples
        self._samples = 0
        self._entries: deque[FedAudio | Mark] = deque()

    @property
    def end(self) -> int:
        """The number of the next entry."""
        return self.first + len(self._entries)

    def __getitem__(self, number: int) -> FedAudio | Mark:
        return self._entries[number - self.first]

    def audio(self) -> Iterator[FedAudio]:
        """The audio that is kept."""
        return (entry for entry in self._entries if isinstance(entry, FedAudio))

    def marks(self) -> Iterator[int]:
        """The marks that were not reached."""
        return (entry.marker for entry in self._entries if isinstance(entry, Mark))

    def add(self, entry: FedAudio | Mark) -> None:
        """Keep an entry. Beyond the bound the oldest audio is dropped, but never a mark."""
        self._entries.append(entry)
        self._samples += len(entry.audio) if isinstance(entry, FedAudio) else 0
        while self._samples > self._max_samples:
            if isinstance(self._entries[0], FedAudio):
                self._drop_first()
            else:
                self._empty_oldest()

    def reached(self, marker: int) -> int:
        """All words from before this mark are out: drop what stands before it, and the mark.

        Returns where the audio before it ends, 0 where none is kept.
        """
        end = 0
        if marker in self.marks():
            while isinstance(first := self._entries[0], FedAudio) or first.marker != marker:
                end = first.end if isinstance(first, FedAudio) else end
                self._drop_first()
            self._drop_first()
        return end

    def _empty_oldest(self) -> None:
        """Drop the oldest audio from behind marks; its entry stays, since entries are numbered."""
        for index, entry in enumerate(self._entries):
            if isinstance(entry, FedAudio) and len(entry.audio):
                self._samples -= len(entry.audio)
                self._entries[index] = FedAudio(entry.audio[:0], entry.end)
                return

    def _drop_first(self) -> None:
        self.first += 1
        dropped = self._entries.popleft()
        self._samples -= len(dropped.audio) if isinstance(dropped, FedAudio) else 0


class RecoverableStream:
    """See the module: a ``Stream`` for one session, on whose loop it is made and called.

    ``open_stream`` takes a sink and the language that was found before, if one was; what it raises
    at first, making this raises. ``on_message`` is called on the loop with an engine's messages,
    ``on_recovered`` when another stream has been opened, with the first sample that is recognised
    again; where nothing is, the one behind what was fed. ``backlog`` is what was fed and has not
    been processed, ``paced`` is whether the engine's streams are ``PacedStream``.

    One that goes on with another server's begins at sample ``at``; ``committed`` is the end of the
    last word that was committed there, ``language`` what was found.
    """

    def __init__(
        self,
        open_stream: Callable[[Sink, str | None], Stream],
        on_message: Callable[[SessionMessage], None],
        on_recovered: Callable[[int], None],
        at: int = 0,
        committed: int | None = None,
        language: str | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._open_stream = open_stream
        self._on_message = on_message
        self._on_recovered = on_recovered
        self.on_idle: Callable[[], object] = lambda: None
        """Called when a recovery has ended."""
        self.backlog = Backlog()
        self._journal = StreamJournal()
        self._given = 0  # entries of the journal that the stream has, by number
        self._given_upto = self._processed = at  # samples
        self._progressed = Wakeup()
        self._fed_upto = self._received = at
        self._language = language
        self._committed = committed  # the end of the last word since the last mark
        self._repeating = committed is not None
        self._failures = 0
        self._failed_at = 0
        self._moving: asyncio.TimerHandle | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._closed = False
        self._generation = 0
        self._stream: Stream | None = open_stream(self._sink(), language)
        self.trail = self._stream.trail
        self.paced = isinstance(self._stream, PacedStream)

    # Of a stream that is paced.

    def step(self, received: int) -> int:
        """How many samples the session may receive next: a second, or up to PacedStream's step."""
        if self.paced and isinstance(self._stream, PacedStream):
            upto = self._stream.step()
            if upto is not None and upto > received:
                return min(SAMPLE_RATE, upto - received)
        return SAMPLE_RATE

    async def settle(self) -> None:
        """Return once what comes before further input has been passed on."""
        if not self.paced:
            return
        settled = None
        while self._stream is not settled and isinstance(self._stream, PacedStream):
            settled = self._stream
            settled.settle()
            await asyncio.sleep(0)  # what was sent has arrived
            if self._recovery:
                await asyncio.sleep(0)  # a stream that failed has been replaced

    def advance(self, received: int) -> None:
        """See PacedStream; a stream that replaces this one begins with it."""
        self._received = received
        if self.paced and isinstance(self._stream, PacedStream):
            self._stream.advance(received)

    def feed(self, audio: Samples, at: int) -> None:
        """See the contract; the audio is kept."""
        self._fed_upto = at + len(audio)
        self.backlog.feed(at, self._fed_upto)
        self._add(FedAudio(np.array(audio, np.float32), at))

    def end_utterance(self, marker: int) -> None:
        """See the contract."""
        self._add(Mark(marker, flush=False))

    def flush(self, marker: int) -> None:
        """See the contract."""
        self._add(Mark(marker, flush=True))

    @property
    def idle(self) -> bool:
        """Whether no mark is waited for."""
        return self._recovery is None and not any(True for _ in self._journal.marks())

    @property
    def empty(self) -> bool:
        """Whether there is nothing that would be given to another stream."""
        return self.idle and next(self._journal.audio(), None) is None

    @property
    def waits_for_slot(self) -> bool:
        """Whether another stream is to be opened and was not yet."""
        recovers = self._stream is None and self._recovery is not None
        return recovers or self._moving is not None

    def move(self, within_s: float) -> None:
        """Open another stream in place of this one at the next mark, else after ``within_s``.

        At once where nothing waits for a mark. What was fed since the last one is fed again.
        """
        if self._stream is None or self._closed or self._moving:
            return  # the next stream that is opened is another one anyway
        self._moving = self._loop.call_later(within_s, self._move)
        if self.empty:
            self._move()

    def reopen(self, open_stream: Callable[[Sink, str | None], Stream], within_s: float) -> None:
        """``move``, to a stream that this opens, as do those that follow."""
        self._open_stream = open_stream
        self.move(within_s)

    def _move(self) -> None:
        self.release()
        self._start_recovery(Failed("server_full", "the engine that follows has no slot left"))

    def release(self) -> None:
        """Give the slot back for now; what is kept stays. ``reclaim`` takes one again.

        What the stream has sent and is on its way here counts no more.
        """
        self._generation += 1
        if self._moving:
            self._moving.cancel()
            self._moving = None
        if self._stream:
            self._stream.close()
            self._stream = None

    def reclaim(self, failure: Failed) -> None:
        """Take a slot again, if it was released; ``failure`` comes where none is to be had."""
        if self._released:
            self._start_recovery(failure)

    def close(self) -> None:
        """See the contract."""
        self._closed = True
        self.release()
        if self._recovery:
            self._recovery.cancel()

    def _add(self, entry: FedAudio | Mark) -> None:
        current = self._given == self._journal.end
        self._journal.add(entry)
        if self._stream and current:
            self._give(self._stream)
        elif isinstance(entry, Mark) and self._released:
            # Nobody comes back for it: the session ends, or its client has gone for good.
            self._loop.call_soon(self._reach_without_slot)

    @property
    def _released(self) -> bool:
        return self._stream is None and self._recovery is None and not self._closed

    def _reach_without_slot(self) -> None:
        """Have the marks reached that a stream without a slot was given since it was released.

        Only what was fed before them needs a slot again.
        """
        if not self._released:
            return
        if next(self._journal.audio(), None) is not None:
            self._start_recovery(Failed("server_full", "no slot became free for the last words"))
            return
        for marker in tuple(self._journal.marks()):
            self._receive(self._generation, Reached(marker))

    def _give(self, stream: Stream) -> None:
        """Give the stream the next entry."""
        self._given = max(self._given, self._journal.first)
        match self._journal[self._given]:
            case FedAudio(audio, at):
                if len(audio):
                    self._given_upto = at + len(audio)
                    stream.feed(audio, at)
            case Mark(marker, flush=True):
                stream.flush(marker)
            case Mark(marker):
                stream.end_utterance(marker)
        self._given += 1

    # What the engine answers.

    def _sink(self) -> Sink:
        return partial(self._post, self._generation)

    def _post(self, generation: int, message: Message) -> None:
        """Take a message on the engine's thread.

        It waits for its turn on the loop; so many can wait as the engine makes of the audio in it.
        """
        if not self._closed:
            # The loop may close before the call when a server is torn down.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._receive, generation, message)

    def _receive(self, generation: int, message: Message) -> None:
        if generation != self._generation:
            return
        match message:
            case Failed(code) if code == _RECOVERABLE and self._failures < MAX_FAILURES:
                self.release()
                self._failures, self._failed_at = self._failures + 1, self._fed_upto
                log.warning("the engine failed under a session: %s", message.message)
                self._start_recovery(message)
            case Committed(words):
                self._commit(words)
            case Drafted() if self._repeating:
                pass  # it may have words in it that are committed
            case LanguageFound(language):
                if self._language is None:
                    self._language = language
                    self._on_message(message)
            case Progressed(upto):
                self._processed = max(self._processed, upto)
                self.backlog.progress(upto)
                self._progressed.notify()
                if upto > self._failed_at:
                    self._failures = 0
                self._on_message(message)
            case Reached(marker):
                upto = self._journal.reached(marker)
                # Another server may have committed words from behind this mark.
                if not (self._repeating and self._committed and upto < self._committed):
                    self._committed, self._repeating = None, False
                self._on_message(message)
                if self._moving:
                    self._move()
            case Withdrawn(within_s):
                self.move(within_s)
            case _:
                self._on_message(message)

    def _commit(self, words: tuple[Word, ...]) -> None:
        """Pass words on but those that were committed before the engine failed.

        They are known by their times: by the middle, since another recognition of the same word
        may differ a little in where it ends.
        """
        upto = self._committed
        if self._repeating and upto is not None:
            words = tuple(w for w in words if w.start >= upto or w.start + w.end > 2 * upto)
        if words:
            self._repeating = False
            self._committed = words[-1].end
            self._on_message(Committed(words))

    # Another stream.

    def _start_recovery(self, failure: Failed) -> None:
        if self._recovery:
            self._recovery.cancel()
        self._recovery = self._loop.create_task(self._recover(failure))
        self._recovery.add_done_callback(self._on_recovery_ended)

    def _on_recovery_ended(self, task: asyncio.Task[None]) -> None:
        if self._recovery is task:
            self._recovery = None
            self.on_idle()

    async def _recover(self, failure: Failed) -> None:
        until = self._loop.time() + RECOVERY_S
        while self._stream is None:
            try:
                self._stream = self._open_stream(self._sink(), self._language)
            except EngineError as error:
                if error.code not in _NOT_YET or self._loop.time() > until:
                    self._on_message(failure)
                    return
                await asyncio.sleep(_RETRY_S)
        self._repeating = self._committed is not None
        self._given = self._journal.first
        self.backlog = Backlog()
        for audio in self._journal.audio():
            self.backlog.feed(audio.at, audio.end)
        first = next(self._journal.audio(), None)
        self._given_upto = self._processed = first.at if first else self._fed_upto
        self._on_recovered(first.at if first else self._fed_upto)
        self.advance(self._received)
        await self._give_rest(self._stream)

    async def _give_rest(self, stream: Stream) -> None:
        """Give what is kept, as the engine has room for it."""
        while self._given < self._journal.end and not self._closed:
            while self._given_upto - self._processed > MAX_BACKLOG:
                await self._progressed.wait()
            self._give(stream)
