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
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable
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
MANY = 16
"""Rows in a round from which on it is one position: a second step is for the few that are behind,
and would cost everybody as much as the first."""
_PAUSE_S = 0.0003
"""Between looks for input while the device works: shorter than anybody notices."""
MAX_WAITING_S = 120
"""Seconds of audio, silence put in included, that may wait in a stream until they are encoded. A
session stops feeding long before."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the engine needs to know of the tokenizer."""

    pieces: Callable[[int], bytes]
    pad: int
    word: int


def _nothing() -> None:
    """After a round, where nobody asks."""


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
        self.after_round: Callable[[], object] = _nothing
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
        # Who brought something to work on, perhaps more than once; who has left.
        self._came: deque[VoxtralStream] = deque()
        self._left: list[VoxtralStream] = []
        self._working = False
        self._checking: Future[None] | None = None
        self._down = False
        self._failure: str | None = None
        self._failing = False
        # Of the engine's thread alone: slot capacity is the health check's own.
        self._rows: dict[VoxtralStream, Row] = {}
        self._in_round: dict[VoxtralStream, None] = {}  # streams that took input
        self._busy: list[VoxtralStream] = []  # whose rows have more to do than the last round did
        self._prepared: list[VoxtralStream] = []  # who came meanwhile, for the next round
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
            # To ask a GPU for its memory takes long, and every stream waits.
            if missing is None or (missing and missing > self._free_bytes()):
                raise EngineError(
                    "server_full",
                    "there is no memory for one more session; try again when one has ended",
                )
            self._streams.add(stream)
            self._came.append(stream)  # the silence on its left, with the next round
        return stream

    def give(self, stream: VoxtralStream, item: RowAudio | RowMark) -> None:
        """Hand an item to the stream's row.

        Without the lock, for which thousands of calls a second from several threads would queue:
        what is written here is read by the engine's thread after it has written what is read here.
        """
        if stream.closed or self._down:
            return
        stream.audio.append(item)
        if stream.audio.samples > self._max_waiting:
            self._fail(stream, "overrun", f"more than {MAX_WAITING_S} s of audio wait")
        # Audio that completes no token waits for what does.
        elif isinstance(item, RowMark) or stream.audio.waiting >= stream.missing:
            self._came.append(stream)
            if not self._working:
                with self._lock:
                    self._wake()

    def release(self, stream: VoxtralStream) -> bool:
        """Count the stream's slot free at once; its memory follows with the next round.

        Whether it was not so already.
        """
        with self._lock:
            if stream.closed:
                return False
            stream.closed = True
            self._streams.discard(stream)
            self._left.append(stream)
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
        if not (self._working or self._down):
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
        self.after_round()
        with self._lock:
            for stream in self._in_round:
                stream.missing = self._rows[stream].missing
                came = stream.audio.waiting
                if came and came >= stream.missing:
                    self._came.append(stream)
            self._in_round.clear()
            waiting = self._left or self._came or self._prepared or self._busy
            self._working = bool(waiting) and not self._down
            if self._working:
                self._submit()
            elif self._came:  # since it was looked, and before this was said not to work
                self._wake()

    def _round(self) -> None:
        if threading.get_ident() != self._owner:
            raise RuntimeError("the model is stepped on the thread that loaded it, no other")
        began = time.perf_counter()
        streams = self._drain_input()
        rows = self._with_room(streams.values())
        for tokens, group in plan_rounds(rows, CHUNK):
            self._prepare(group)
            mel = np.stack([row.take(tokens) for row in group])
            self._model.encode([row.slot for row in group], mel)
        # The words of others must not wait for all of a backlog.
        alone = len(rows) == len(self._rows)
        most = sys.maxsize if alone else STEPS if len(rows) < MANY else 1
        for slots, outputs in self._model.decode(self._penalties, most, self._prepare_next):
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
            # What follows a flush waits in its row: who is busy takes in, too.
            some = (*self._busy, *self._prepared, *self._take_who_came())
            brought = {stream: None for stream in some if stream in self._streams}
            self._prepared = []
        for stream in left:
            self._drop(stream)
        for stream in brought:
            if stream not in self._rows:
                self._rows[stream] = self._assign_slot(stream)
            self._absorb(self._rows[stream])
        self._in_round = brought
        rows = ((self._rows[stream], stream) for stream in brought)
        return {row.slot: stream for row, stream in rows if row.waiting}

    def _take_who_came(self) -> list[VoxtralStream]:
        return [self._came.popleft() for _ in range(len(self._came))]

    def _absorb(self, row: Row) -> None:
        if row.absorb():
            self._model.join(row.slot, row.options.delay_tokens)

    def _prepare_next(self) -> None:
        """While the device works: what the next round needs of those who have come meanwhile.

        Of a row that is in this round, no more than what does not depend on how that ends. Returns
        soon, and pauses where nobody has come.
        """
        came = self._take_who_came()
        if not came:
            time.sleep(_PAUSE_S)
            return
        self._prepared += came
        streams = [stream for stream in dict.fromkeys(came) if stream in self._rows]
        for stream in streams:
            row = self._rows[stream]
            if stream in self._in_round:
                row.absorb_audio()
            else:
                self._absorb(row)
        self._prepare([self._rows[stream] for stream in streams])

    def _prepare(self, rows: Iterable[Row]) -> None:
        """The mel of all that each row may encode in one round, of as many as possible at once."""
        missing: defaultdict[int, list[Row]] = defaultdict(list)
        for row in rows:
            missing[min(row.complete, CHUNK) - len(row.mels)].append(row)
        for tokens, group in missing.items():
            if tokens > 0:
                mels = self._model.front_end(np.stack([row.read(tokens) for row in group]))
                for row, mel in zip(group, mels, strict=True):
                    row.mels.extend(mel.reshape(tokens, -1, mel.shape[-1]))

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
