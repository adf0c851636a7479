"""An engine whose words follow from the clock of what it is fed, and which may die."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from voxlive.engines.contract import (
    Committed,
    Drafted,
    EngineInfo,
    Failed,
    Progressed,
    Reached,
    Sink,
    StreamOptions,
)
from voxlive.errors import EngineError, EngineFull
from voxlive.values import SAMPLE_RATE, Samples, Word

DIED = Failed("engine_failed", "the engine's process was killed by SIGKILL")


@dataclass
class ClockStream:
    """A word of 0.4 s begins every half second of the clock, and is committed once it was fed."""

    engine: ClockEngine
    sink: Sink
    options: StreamOptions
    trail: int = 0
    fed: list[tuple[int, Samples]] = field(default_factory=list)
    next: int = 0
    closed: bool = False
    dead: bool = False

    def feed(self, audio: Samples, at: int) -> None:
        assert not self.closed
        assert not self.fed or at >= self.fed[-1][0] + len(self.fed[-1][1])
        self.fed.append((at, audio))
        if self.lives():
            self._commit(0.4)
            self.sink(Drafted(f" {self.next}?"))
            self.sink(Progressed(at + len(audio)))

    def end_utterance(self, marker: int) -> None:
        self.flush(marker)

    def flush(self, marker: int) -> None:
        if self.lives():
            self._commit(0)
            self.sink(Reached(marker))

    def lives(self) -> bool:
        """Whether the engine survives this call."""
        self.engine.calls += not self.dead
        if not self.dead and self.engine.calls in self.engine.deaths:
            self.dead = True
            self.engine.away = self.engine.refusals
            self.sink(DIED)
        return not self.dead

    def _commit(self, fed_s: float) -> None:
        for start, end in self._ranges():
            while (begin := self.next * SAMPLE_RATE // 2) < end:
                if begin >= start:
                    if begin + fed_s * SAMPLE_RATE > end:
                        break
                    word = Word(f" {self.next}", begin, begin + 6400)
                    self.sink(Committed((word,)))
                self.next += 1

    def _ranges(self) -> list[tuple[int, int]]:
        """What was fed without a gap, each from its first sample to before its last."""
        ranges: list[tuple[int, int]] = []
        for at, audio in self.fed:
            adjoins = bool(ranges) and ranges[-1][1] == at
            start = ranges.pop()[0] if adjoins else at
            ranges.append((start, at + len(audio)))
        return ranges

    def close(self) -> None:
        self.closed = True


class ClockEngine:
    """Dies with the calls of its streams that have these numbers; then refuses so many to open."""

    def __init__(self, deaths: set[int] = frozenset(), refusals: int = 0) -> None:
        self.info = EngineInfo("clock", "none", "cpu", 2, ("en", "de"), takes_language=True)
        self.deaths, self.refusals = deaths, refusals
        self.calls = self.away = 0
        self.streams: list[ClockStream] = []
        self.ended = threading.Event()

    @property
    def in_use(self) -> int:
        return sum(not (stream.closed or stream.dead) for stream in self.streams)

    def open(self, options: StreamOptions, sink: Sink) -> ClockStream:
        if self.away:
            self.away -= 1
            raise EngineFull(2) if self.away % 2 else EngineError("engine_failed", "is loading")
        self.streams.append(ClockStream(self, sink, options))
        return self.streams[-1]

    def shutdown(self) -> None:
        self.ended.set()
