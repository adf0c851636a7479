"""A replay: recorded sessions answer in place of a model, with every message in its place.

``replay:DIR`` is an engine without a model. Its streams answer with the messages of sessions that
``voxlive serve --record`` has kept (``recording.py``), one recording for each session, in the order
of their names, over and over; a client chooses one by its name.

A recording is a list of inputs, the blocks of audio and the marks that a stream was given, with the
messages that came after each. A message is sent after its input has come again, with the delay that
it had, and at the latest before the next input: so a client that sends the same audio gets the same
messages in the same order, whatever its pace. For other audio the sample clock alone decides. A
mark that the recording does not have is answered with the words that begin before it.

Positions are samples at 16 kHz on the session's clock. Bounds: those of ``read_recordings``;
``_MAX_SESSIONS`` sessions whose next stream goes on where the last one ended.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from voxlive.engines.contract import (
    Committed,
    Drafted,
    DurationHistogram,
    Failed,
    Progressed,
    Reached,
)
from voxlive.engines.recording import read_recordings
from voxlive.errors import EngineFull, UnsupportedOption
from voxlive.processes.supervisor import Work
from voxlive.values import SAMPLE_RATE, samples

if TYPE_CHECKING:
    from voxlive.engines.contract import EngineOptions, SessionMessage, Sink, StreamOptions
    from voxlive.engines.recording import Recording
    from voxlive.values import Samples

_MAX_SESSIONS = 1000
_CAPACITY = 128
_TOLERANCE = SAMPLE_RATE // 10
"""So far from its place a mark may come: other encodings of the same audio move it a little."""
_GRACE_S = 2.0
"""How much later than recorded a mark is answered, where its answer waits for audio in vain."""
_MAX_UNPROCESSED = 25 * SAMPLE_RATE
"""Less than what a session lets wait in an engine."""


def _duration(text: str) -> float:
    """Seconds of "200ms", "3s" or "3". Raises ValueError."""
    number, scale = (text[:-2], 1e-3) if text.endswith("ms") else (text.removesuffix("s"), 1.0)
    seconds = float(number) * scale
    if not 0 <= seconds < 1e6:
        raise ValueError(text)
    return seconds


_OPTIONS: dict[str, Callable[[str], object]] = {
    "model": str,
    "delay": _duration,
    "kill-at": lambda text: samples(_duration(text)),
    "drop-at": lambda text: samples(_duration(text)),
}


@dataclass(frozen=True, slots=True)
class ReplaySpec:
    """``replay:DIR``, and after commas which recordings of it and what is to go wrong.

    ``delay``: every message comes so many seconds later. ``kill_at``: at this sample the engine
    dies under a session, ``drop_at``: its connection is cut, each once. ``model``: of the sessions
    in DIR those with this model alone.
    """

    folder: Path
    model: str | None = None
    delay: float = 0.0
    kill_at: int | None = None
    drop_at: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UnsupportedOption for what is none of its options."""
        path, *options = text.partition(":")[2].split(",")
        values: dict[str, Any] = {}
        for option in options:
            name, _, value = option.partition("=")
            try:
                values[name.replace("-", "_")] = _OPTIONS[name](value)
            except (KeyError, ValueError):
                raise UnsupportedOption(
                    f"{option!r} is no option of a replay: there are model=NAME, delay=200ms, "
                    "kill-at=3s and drop-at=3s",
                    "model",
                ) from None
        return cls(Path(path).expanduser(), **values)


def load(model: str, options: EngineOptions) -> ReplayEngine:
    """Read the recordings of ``replay:DIR``. Blocks.

    Raises UnsupportedOption for options of a model, and as ``read_recordings``.
    """
    options.require_no_rules("a replay")
    for name in ("quantize", "delay_ms"):
        if getattr(options, name) is not None:
            raise UnsupportedOption("a replay has no model to set this for: leave it out", name)
    spec = ReplaySpec.parse(model)
    recordings = read_recordings(spec.folder, spec.model)
    return ReplayEngine(recordings, spec, options.max_sessions or _CAPACITY)


@dataclass(eq=False)
class ReplayedSession:
    """What outlives a session's streams: its recording, and where the next stream begins.

    That is after the last mark that was reached: ``place`` has the number of the input, of the next
    answer to it, and of words that have come. ``markers``: marks that wait for their answer, by
    those of the recording.
    """

    recording: Recording
    place: tuple[int, int, int] = (0, 0, 0)
    markers: dict[int, int] = field(default_factory=dict)
    killed: bool = False


class ReplayEngine:
    """See the module and the contract. One thread sends what is due."""

    def __init__(self, recordings: list[Recording], spec: ReplaySpec, capacity: int) -> None:
        """At least one recording; all have the same model."""
        self.spec = spec
        self.steps = DurationHistogram()
        sessions = f"{len(recordings)} recorded session{'s' if len(recordings) > 1 else ''}"
        self.info = replace(
            recordings[0].info,
            capacity=capacity,
            note=f"a replay of {sessions}; no model is loaded",
            warning=None,
            names=tuple(one.name for one in recordings),
            drop_at=spec.drop_at,
        )
        self._recordings = recordings
        self._next = 0
        self._sessions: OrderedDict[str, ReplayedSession] = OrderedDict()
        self._streams: set[ReplayStream] = set()
        self._lock = threading.Lock()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()

    @property
    def in_use(self) -> int:
        """See the contract."""
        return len(self._streams)

    @property
    def work(self) -> Work:
        """None: it has no process that could hang."""
        return Work(busy=False, done=0)

    def open(self, options: StreamOptions, sink: Sink) -> ReplayStream:
        """See the contract."""
        self.info.validate(options)
        with self._lock:
            if len(self._streams) >= self.info.capacity:
                raise EngineFull(self.info.capacity)
            stream = ReplayStream(self, self._session(options), options, sink)
            self._streams.add(stream)
        return stream

    def _session(self, options: StreamOptions) -> ReplayedSession:
        """The session's own, a new one of the recording that it names, or of the next one."""
        if found := self._sessions.get(options.session):
            return found
        named = [one for one in self._recordings if one.name == options.name]
        if not named:
            named = [self._recordings[self._next % len(self._recordings)]]
            self._next += 1
        session = ReplayedSession(named[0])
        if options.session:
            self._sessions[options.session] = session
            if len(self._sessions) > _MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return session

    def release(self, stream: ReplayStream) -> None:
        """The stream has ended."""
        with self._lock:
            self._streams.discard(stream)

    def check(self, timeout: float) -> str | None:  # noqa: ARG002
        """See the contract."""
        return None

    def shutdown(self) -> None:
        """See the contract."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call on the engine's thread; those of the same moment in the order of this."""
        with self._changed:
            heapq.heappush(self._calls, (time.monotonic() + seconds, next(self._numbers), call))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed:
                    wait_s = self._calls[0][0] - time.monotonic() if self._calls else None
                    if wait_s is not None and wait_s <= 0:
                        break
                    self._changed.wait(wait_s)
                else:
                    return
                _, _, call = heapq.heappop(self._calls)
            call()


class ReplayStream:
    """See the module and the contract: a ``PacedStream`` that goes through one recording."""

    def __init__(
        self, engine: ReplayEngine, session: ReplayedSession, options: StreamOptions, sink: Sink
    ) -> None:
        self.trail = session.recording.trail
        self._engine = engine
        self._session = session
        self._recording = session.recording
        self._drafts = options.drafts
        self._sink = sink
        self._lock = threading.RLock()
        self._input, self._answer, self._given = session.place
        self._input_at = self._given_at = time.monotonic()
        self._received = self._fed = self._processed = 0
        self._pending: list[int] = []  # marks that are not answered
        self._markers = dict(session.markers)
        self._ended = self._closed = False
        self._schedule()

    def step(self) -> int | None:
        """See PacedStream: as the recorded session received it, and up to where a fault is due."""
        inputs = self._recording.inputs
        later = (inputs[at].received for at in range(self._input + 1, len(inputs)))
        block = next((end for end in later if end > self._received), None)
        kill_at = None if self._session.killed else self._engine.spec.kill_at
        return min((end for end in (block, kill_at) if end and end > self._received), default=None)

    def settle(self) -> None:
        """See PacedStream."""
        with self._lock:
            while self._has_answers and not self._ended:
                self._release()

    def advance(self, received: int) -> None:
        """See PacedStream."""
        with self._lock:
            self._advance(received)

    def feed(self, audio: Samples, at: int) -> None:
        """See the contract."""
        with self._lock:
            if self._ended:
                return
            self._fed = at + len(audio)
            self._advance(self._fed)
            last = self._input == len(self._recording.inputs) - 1 and not self._has_answers
            if last or self._fed - self._processed > _MAX_UNPROCESSED:
                self._send(Progressed(self._fed))

    def end_utterance(self, marker: int) -> None:
        """See the contract."""
        self._mark(marker, self._fed, flush=False)

    def flush(self, marker: int) -> None:
        """See the contract."""
        self._mark(marker, self._received, flush=True)

    def close(self) -> None:
        """See the contract."""
        self._ended = self._closed = True
        self._engine.release(self)

    @property
    def _has_answers(self) -> bool:
        return self._answer < len(self._recording.answers[self._input])

    def _advance(self, received: int) -> None:
        if received <= self._received or self._ended:
            return
        before, self._received = self._received, received
        self._given_at = time.monotonic()
        self._move(self._last_input(before))
        kill_at = self._engine.spec.kill_at
        if kill_at is not None and kill_at <= received and not self._session.killed:
            self._session.killed = True
            self._end(Failed("engine_failed", "the replay's engine was killed, as kill-at asks"))

    def _last_input(self, before: int) -> int:
        """The last input up to what is received; a mark may still come until ``before``."""
        last = self._input
        for index in range(self._input + 1, len(self._recording.inputs)):
            given = self._recording.inputs[index]
            if given.received > (self._received if given.marker is None else before):
                break
            last = index
        return last

    def _move(self, index: int) -> None:
        """Go on to this input, with all that came before it."""
        while self._input < index and not self._ended:
            self.settle()
            self._input, self._answer = self._input + 1, 0
        self._input_at = time.monotonic()
        self._schedule()

    def _mark(self, marker: int, at: int, *, flush: bool) -> None:
        with self._lock:
            self._given_at = time.monotonic()
            self._pending.append(marker)
            # The stream before this one may have had it as well, and its place.
            if self._ended or marker in self._markers.values():
                return
            index = self._find_mark(at, flush)
            if index is None:
                self._answer_pending(at)
                return
            given = self._recording.inputs[index]
            assert given.marker is not None
            self._markers[given.marker] = marker
            self._move(index)
            wait_s = self._recording.answered[given.marker] - given.t + _GRACE_S
            self._answer_late(marker, at, wait_s)

    def _find_mark(self, at: int, flush: bool) -> int | None:
        """The recorded mark of this kind about there; None: there is none, or it had no answer."""
        for index in range(self._input + 1, len(self._recording.inputs)):
            given = self._recording.inputs[index]
            if given.marker is not None:
                if given.at > at + _TOLERANCE:
                    break
                about_there = given.flush == flush and given.at >= at - _TOLERANCE
                if about_there and given.marker in self._recording.answered:
                    return index
        return None

    def _answer_late(self, marker: int, at: int, wait_s: float) -> None:
        """Answer a mark, once nothing has come for so long, that waits for audio to be answered."""
        with self._lock:
            if marker not in self._pending or self._ended:
                return
            left_s = self._given_at + wait_s - time.monotonic()
            if left_s > 0:
                self._engine.call_later(left_s, lambda: self._answer_late(marker, at, wait_s))
            else:
                self._answer_pending(at)

    def _answer_pending(self, at: int) -> None:
        """Answer all marks, with the words of the recording that begin before sample ``at``."""
        rest = self._recording.words[self._given :]
        if words := tuple(takewhile(lambda word: word.start < at, rest)):
            self._send(Committed(words))
            self._given += len(words)
        self._send(Progressed(self._fed))
        for marker in self._pending:
            self._send(Reached(marker))
        self._pending.clear()
        self._markers.clear()
        self._save()

    def _save(self) -> None:
        """The session's next stream begins here."""
        self._session.place = self._input, self._answer, self._given
        self._session.markers = dict(self._markers)

    def _schedule(self) -> None:
        """Have the next answer sent when it is due."""
        if self._has_answers and not self._ended:
            place = self._input, self._answer
            due = self._input_at + self._recording.answers[self._input][self._answer].delay_s
            wait_s = max(0.0, due - time.monotonic())
            self._engine.call_later(wait_s, lambda: self._release_due(place))

    def _release_due(self, place: tuple[int, int]) -> None:
        with self._lock:
            if place == (self._input, self._answer) and not self._ended:
                self._release()
                self._schedule()

    def _release(self) -> None:
        """Send the next answer, as far as it is not out already or has no meaning here."""
        answer = self._recording.answers[self._input][self._answer]
        self._answer += 1
        match answer.message:
            case Committed(words):
                new = words[max(0, self._given - answer.words_before) :]
                self._given = max(self._given, answer.words_before + len(words))
                if new:
                    self._send(Committed(new))
            case Drafted() if not self._drafts or self._given > answer.words_before:
                pass
            case Reached(recorded):
                marker = self._markers.pop(recorded, None)
                if marker in self._pending:
                    self._pending.remove(marker)
                    self._send(Reached(marker))
                    self._save()
            case Failed() as failed:
                self._end(failed)
            case None:
                self._save()
                self._end(Failed("engine_failed", "the recorded session's engine failed here"))
            case message:
                self._send(message)

    def _end(self, failure: Failed) -> None:
        self._send(failure)
        self._ended = True
        self._engine.release(self)

    def _send(self, message: SessionMessage) -> None:
        if isinstance(message, Progressed):
            self._processed = max(self._processed, message.upto)
        if self._ended:
            return
        if self._engine.spec.delay:
            self._engine.call_later(self._engine.spec.delay, lambda: self._deliver(message))
        else:
            self._deliver(message)

    def _deliver(self, message: SessionMessage) -> None:
        if not self._closed:
            self._sink(message)
