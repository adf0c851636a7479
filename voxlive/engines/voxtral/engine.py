"""The Voxtral engine: one thread owns MLX and steps every stream that has audio as one batch.

Streams hand over audio and marks under a lock; the thread works in rounds. A round takes what has
come, encodes up to a chunk of each row, decodes positions that have their audio, and posts words
back. A round that raises fails the streams that were in the middle of something, clears the caches
and goes on; health stays red until a step has succeeded again.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from voxlive.decoders.decoder import NOT_FINITE, Detokeniser
from voxlive.engines.contract import DurationHistogram, Failed
from voxlive.engines.voxtral.model import CHUNK, VoxtralModel, plan_rounds
from voxlive.engines.voxtral.stream import Row, RowAudio, RowMark, VoxtralStream
from voxlive.errors import EngineError, EngineFull
from voxlive.processes.supervisor import Work

if TYPE_CHECKING:
    from voxlive.engines.contract import EngineInfo, Sink, StreamOptions

log = logging.getLogger(__name__)

STEPS = 2
"""Positions that a stream decodes in one round beside others, whose next words wait for the end of
the round."""
MAX_WAITING_S = 120
"""Seconds of audio, silence put in included, that may wait in a stream until they are encoded. A
session stops feeding long before."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the engine needs to know of the tokenizer."""

    pieces: Callable[[int], bytes]
    pad: int
    word: int


class VoxtralEngine:
    """See the module. ``thread`` is the one on which ``model`` was loaded."""

    def __init__(
        self,
        model: VoxtralModel,
        words: Vocabulary,
        info: EngineInfo,
        thread: ThreadPoolExecutor,
        free_bytes: Callable[[], int],
    ) -> None:
        self.info = info
        self.rounds = 0
        self.steps = DurationHistogram()
        self._model = model
        self._vocabulary = words
        self._thread = thread
        self._free_bytes = free_bytes
        self._owner = thread.submit(threading.get_ident).result()
        self._lock = threading.Lock()
        self._max_waiting = MAX_WAITING_S * model.config.audio.sample_rate
        self._streams: set[VoxtralStream] = set()
        # Who brought something to work on; who has left.
        self._with_input: dict[VoxtralStream, None] = {}
        self._left: list[VoxtralStream] = []
        self._working = False
        self._checking: Future[None] | None = None
        self._down = False
        self._failure: str | None = None
        self._failing = False
        # Of the engine's thread alone: slot capacity is the health check's own.
        self._rows: dict[VoxtralStream, Row] = {}
        self._in_round: list[VoxtralStream] = []  # streams that took input
        self._busy: list[VoxtralStream] = []  # whose rows have more to do than the last round did
        self._free = list(range(info.capacity))
        self._penalties: dict[int, float] = {}

    # Called from anywhere.

    @property
    def in_use(self) -> int:
        """How many slots are taken."""
        return len(self._streams)

    @property
    def work(self) -> Work:
        """See the contract."""
        checking = self._checking
        busy = self._working or bool(checking and not checking.done())
        return Work(busy, self.rounds + self._model.advances)

    def open(self, options: StreamOptions, sink: Sink) -> VoxtralStream:
        """See the contract; EngineError where there is no memory for one more."""
        self.info.validate(options)
        delay_ms = options.delay_ms or self.info.default_delay_ms or 0
        row = self._model.row_options(delay_ms)
        stream = VoxtralStream(self, row, self.info.trail(options), sink)
        with self._lock:
            if self._down:
                raise EngineError("shutting_down", "the engine was shut down")
            if len(self._streams) >= self.info.capacity:
                raise EngineFull(self.info.capacity)
            missing = self._model.missing_nbytes(len(self._streams))
            if missing is None or missing > max(0, self._free_bytes()):
                raise EngineError(
                    "server_full",
                    "there is no memory for one more session; try again when one has ended",
                )
            self._streams.add(stream)
            self._with_input[stream] = None  # the silence on its left, with the next round
        return stream

    def give(self, stream: VoxtralStream, item: RowAudio | RowMark) -> None:
        """Hand an item to the stream's row."""
        with self._lock:
            if stream.closed or self._down:
                return
            stream.audio.append(item)
            overrun = stream.audio.samples > self._max_waiting
            # Audio that completes no token waits for what does.
            if not overrun and (
                isinstance(item, RowMark) or stream.audio.waiting >= stream.missing
            ):
                self._with_input[stream] = None
                self._wake()
        if overrun:
            self._fail(stream, "overrun", f"more than {MAX_WAITING_S} s of audio wait")

    def release(self, stream: VoxtralStream) -> bool:
        """Count the stream's slot free at once; its memory follows with the next round.

        Whether it was not so already.
        """
        with self._lock:
            if stream.closed:
                return False
            stream.closed = True
            self._streams.discard(stream)
            self._with_input.pop(stream, None)
            self._left.append(stream)
            if not self._down:
                self._wake()
        return True

    def _fail(self, stream: VoxtralStream, code: str, message: str) -> None:
        if self.release(stream):
            stream.sink(Failed(code, message))

    def check(self, timeout: float) -> str | None:
        """See the contract: a failure since the last check, else a step on a slot of its own."""
        with self._lock:
            if self._down:
                return "the engine was shut down"
            failure, self._failure = self._failure, None
            if failure:
                return failure
            self._checking = probe = self._thread.submit(self._probe)
        try:
            error = probe.exception(timeout)
        except TimeoutError:
            return f"the model did not finish a step in {timeout:g} s"
        return None if error is None else f"a step of the model failed: {error}"

    def shutdown(self) -> None:
        """See the contract."""
        with self._lock:
            self._down = True
        for stream in tuple(self._streams):
            self.release(stream)
        self._thread.shutdown(cancel_futures=True)

    # The rounds. ``_wake`` is called under the lock, the rest on the engine's thread.

    def _wake(self) -> None:
        if not self._working:
            self._working = True
            self._submit()

    def _submit(self) -> None:
        """A round and, behind it on the same thread, what follows from its outcome."""
        self._thread.submit(self._settle, self._thread.submit(self._round))

    def _settle(self, outcome: Future[None]) -> None:
        error = outcome.exception()
        if error is not None:
            self._recover(error)
        self._failing = error is not None
        with self._lock:
            for stream in self._in_round:
                stream.missing = self._rows[stream].missing
                came = stream.audio.waiting
                if came and came >= stream.missing and not stream.closed:
                    self._with_input[stream] = None
            self._in_round.clear()
            waiting = self._left or self._with_input or self._busy
            self._working = bool(waiting) and not self._down
            if self._working:
                self._submit()

    def _round(self) -> None:
        if threading.get_ident() != self._owner:
            raise RuntimeError("the model is stepped on the thread that loaded it, no other")
        began = time.perf_counter()
        streams = self._drain_input()
        rows = self._with_room(streams.values())
        for tokens, group in plan_rounds(rows, CHUNK):
            audio = np.stack([row.take(tokens) for row in group])
            self._model.encode([row.slot for row in group], self._model.front_end(audio))
        # The words of others must not wait for all of a backlog.
        most = STEPS if len(rows) < len(self._rows) else sys.maxsize
        for slots, outputs in self._model.decode(self._penalties, most):
            for slot, token in zip(slots, outputs, strict=True):
                self._on_token(streams[slot], token)
        for row in rows:
            if row.settle():
                self._model.join(row.slot, row.options.delay_tokens)
        self._busy = [stream for stream in streams.values() if self._rows[stream].waiting]
        self.rounds += 1
        if rows:
            self.steps.observe(time.perf_counter() - began)

    def _drain_input(self) -> dict[int, VoxtralStream]:
        """Let streams leave and join and take what they brought; by slot, who has work to do."""
        with self._lock:
            left, self._left = self._left, []
            new, self._with_input = self._with_input, {}
            # What follows a flush waits in its row: who is busy takes in, too.
            brought = [
                stream for stream in dict.fromkeys((*self._busy, *new)) if stream in self._streams
            ]
        for stream in left:
            self._drop(stream)
        for stream in brought:
            if stream not in self._rows:
                self._rows[stream] = self._assign_slot(stream)
            row = self._rows[stream]
            if row.absorb():
                self._model.join(row.slot, row.options.delay_tokens)
        self._in_round = brought
        rows = ((self._rows[stream], stream) for stream in brought)
        return {row.slot: stream for row, stream in rows if row.waiting}

    def _with_room(self, streams: Collection[VoxtralStream]) -> list[Row]:
        """The streams' rows but for those whose caches can grow no more: these fail.

        It comes to that only where more sessions were allowed than memory holds at full age.
        """
        rows = [self._rows[stream] for stream in streams]
        short = self._model.short([(row.slot, min(row.ready, CHUNK)) for row in rows])
        for stream in compress(streams, short):
            self._fail(
                stream, "server_full", "the memory for sessions is full, this one cannot go on"
            )
        return [row for row, lacks in zip(rows, short, strict=True) if not lacks]

    def _assign_slot(self, stream: VoxtralStream) -> Row:
        slot = self._free.pop()
        self._model.join(slot, stream.options.delay_tokens)
        words = Detokeniser(
            self._vocabulary.pieces, pad=self._vocabulary.pad, word=self._vocabulary.word
        )
        return Row(slot, stream.options, stream.audio, words, stream.send)

    def _drop(self, stream: VoxtralStream) -> None:
        row = self._rows.pop(stream, None)
        if row is not None:
            self._model.leave(row.slot)
            self._penalties.pop(row.slot, None)
            self._free.append(row.slot)

    def _on_token(self, stream: VoxtralStream, token: int) -> None:
        if stream.closed:
            return
        if token == NOT_FINITE:
            self._fail(stream, "engine_failed", "the model's numbers overflowed in this stream")
            return
        row = self._rows[stream]
        row.on_token(token)
        if row.near_penalty:
            self._penalties[row.slot] = row.pad_penalty
        else:
            self._penalties.pop(row.slot, None)

    def _recover(self, error: BaseException) -> None:
        """Fail who was in the middle of something; the rest begin afresh on clean caches.

        If that was tried just now and did not help, everyone fails.
        """
        log.error("a step of the model failed", exc_info=error)
        failure = f"a step of the model failed: {error}"
        self._failure = failure
        traceback.clear_frames(error.__traceback__)  # they hold the caches that now must go
        self._model.clear()
        self._penalties.clear()
        self._in_round.clear()
        self._busy.clear()
        for stream, row in tuple(self._rows.items()):
            if row.quiet and not self._failing:
                row.reset()
                self._model.join(row.slot, row.options.delay_tokens)
                self._busy.append(stream)
            else:
                self._fail(stream, "engine_failed", failure)

    def _probe(self) -> None:
        if NOT_FINITE in self._model.try_out(self.info.capacity):
            raise FloatingPointError("the model's numbers overflowed on silence")
