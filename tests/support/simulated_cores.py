"""Streams of utterances on simulated cores: passes take the time that a function says they take.

Nothing waits and there are no threads, so what comes of many sessions is the same on every machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import count

from voxlive.engines.contract import Message
from voxlive.engines.utterances.engine import PassScheduler, ScheduledStream
from voxlive.engines.utterances.utterance import DuePass, UtteranceStream
from voxlive.recognisers.contract import Recognition
from voxlive.values import SAMPLE_RATE, Samples

MakePass = Callable[[DuePass], tuple[Recognition, float]]
"""What a pass finds, and how many seconds it takes."""


class SimulatedStream(ScheduledStream):
    """A stream with what it was sent and when.

    ``drafts``: when each began and ended; ``finals``: when each was due, began and ended.
    """

    def __init__(self, utterances: UtteranceStream) -> None:
        super().__init__(utterances)
        self.messages: list[tuple[float, Message]] = []
        self.drafts: list[tuple[float, float]] = []
        self.finals: list[tuple[float, float, float]] = []


class SimulatedCores:
    """Threads that make passes for streams, on a clock of their own."""

    def __init__(self, threads: int, make_pass: MakePass) -> None:
        self.now = 0.0
        self.streams: list[SimulatedStream] = []
        self.busy_s = 0.0
        self._free = threads
        self._scheduler = PassScheduler(threads)
        self._make_pass = make_pass
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at ``time`` seconds."""
        heapq.heappush(self._events, (time, next(self._order), action))

    def add(self, utterances: UtteranceStream) -> SimulatedStream:
        """Another stream."""
        self.streams.append(SimulatedStream(utterances))
        return self.streams[-1]

    def feed(self, stream: SimulatedStream, audio: Samples, at: int, time: float) -> None:
        """Feed audio that begins at sample ``at`` on the stream's clock, at ``time``."""

        def feed() -> None:
            stream.utterances.feed(audio, at)
            stream.update(self.now)

        self.at(time, feed)

    def mark(self, stream: SimulatedStream, marker: int, time: float) -> None:
        """Mark the end of an utterance at ``time``."""

        def mark() -> None:
            self._send(stream, stream.utterances.mark(marker))
            stream.update(self.now)

        self.at(time, mark)

    def run(self) -> None:
        """Until nothing is left to do."""
        while self._events:
            self.now, _, action = heapq.heappop(self._events)
            action()
            while self._free and (stream := self._scheduler.choose(self.streams)):
                self._begin(stream)

    def _begin(self, stream: SimulatedStream) -> None:
        due = stream.utterances.begin()
        assert due is not None
        began, since = self.now, stream.since
        found, took_s = self._make_pass(due)
        self._free -= 1
        self.busy_s += took_s

        def done() -> None:
            self._free += 1
            self._send(stream, stream.done(found, took_s, final=due.final))
            stream.update(self.now)
            if due.final:
                stream.finals.append((since, began, self.now))
            else:
                stream.drafts.append((began, self.now))

        self.at(self.now + took_s, done)

    def _send(self, stream: SimulatedStream, messages: Iterable[Message]) -> None:
        stream.messages += [(self.now, message) for message in messages]


def chunks(audio: Samples, seconds: float = 0.1) -> Iterator[tuple[int, Samples]]:
    """Audio in pieces, each with its first sample."""
    size = round(seconds * SAMPLE_RATE)
    return ((at, audio[at : at + size]) for at in range(0, len(audio), size))
