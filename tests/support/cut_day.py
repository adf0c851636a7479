"""Resumable sessions for as many simulated hours as one likes, over lines that break.

Everything is real but the sockets, the model and the clock, the store as well. An engine's words
follow from the clock of what it is fed, so that a client knows which ones it must get: all of
them, once, in order, with numbers that have no gap. Beside sessions that last all day there are
some whose client never comes back.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
from support.counting import pcm
from support.day import Loud, held_by_process
from support.line import START, Line
from support.simulated import SimulatedDetector, SimulatedLoop, simulate

from voxlive.engines.contract import (
    Committed,
    Drafted,
    EngineInfo,
    Progressed,
    Reached,
    Sink,
    StreamOptions,
)
from voxlive.errors import EngineFull
from voxlive.store.backends import open_store
from voxlive.store.contract import Operation
from voxlive.streaming.service import Service
from voxlive.values import SAMPLE_RATE, Samples, Word
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels
from voxlive.web.recorder import Recorder

_WORD, _WORD_END = 8000, 6400
_FORGOTTEN_S = 180
"""Before a reading: no line breaks, and those that never come back are given up."""
_SPEECH_S = 2


class PeriodicStream:
    """A word of 0.4 s begins every half second of the clock; it keeps no audio."""

    def __init__(self, engine: PeriodicEngine, sink: Sink) -> None:
        self.trail = 0
        self._engine, self._sink = engine, sink
        self._start = self._end = self._next = 0

    def feed(self, audio: Samples, at: int) -> None:
        if at != self._end:
            self._start, self._next = at, -(-at // _WORD)
        self._end = at + len(audio)
        self._commit(_WORD_END)
        self._sink(Drafted(f" {self._next}?"))
        self._sink(Progressed(self._end))

    def end_utterance(self, marker: int) -> None:
        self._commit(0)
        self._sink(Reached(marker))

    def flush(self, marker: int) -> None:
        self.end_utterance(marker)

    def _commit(self, length: int) -> None:
        while (begin := self._next * _WORD) + length < self._end:
            self._sink(Committed((Word(f" {self._next}", begin, begin + _WORD_END),)))
            self._next += 1

    def close(self) -> None:
        self._engine.streams.discard(self)


class PeriodicEngine:
    """The contract, without a model."""

    def __init__(self, capacity: int) -> None:
        self.info = EngineInfo("periodic", "none", "cpu", capacity, ("en",))
        self.streams: set[PeriodicStream] = set()

    @property
    def in_use(self) -> int:
        return len(self.streams)

    def open(self, _options: StreamOptions, sink: Sink) -> PeriodicStream:
        if self.in_use >= self.info.capacity:
            raise EngineFull(self.info.capacity)
        stream = PeriodicStream(self, sink)
        self.streams.add(stream)
        return stream

    def shutdown(self) -> None:
        self.streams.clear()


class CutClient:
    """A client that speaks 2 s of every ``period_s`` and keeps nothing that it can make again."""

    def __init__(self, day: CutDay, rng: random.Random, sources: tuple[str, ...] = ()) -> None:
        self._day, self._rng, self._sources = day, rng, sources
        self._start = START | ({"sources": sources, "suppress_leaks": False} if sources else {})
        self._token = ""
        self._have = -1
        self._acknowledged = 0
        self._last = dict.fromkeys(sources or ("",), -1)
        self.cuts = 0
        self.period_words: Counter[int] = Counter()
        """How many periods of a source had so many words."""
        self._counted = dict.fromkeys(self._last, (0, 0))  # period, words in it

    async def run(self) -> None:
        """Until it is cancelled: connect, speak in real time, lose the line, come back."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        while True:
            line, at = await self._connect()
            until = loop.time() + self._rng.uniform(1, 2 * self._day.cut_every_s)
            while loop.time() < until or self._day.calm:
                now = int(loop.time() - began_at) * SAMPLE_RATE
                while at < now:
                    end = min(at - at % SAMPLE_RATE + SAMPLE_RATE, now)
                    line.send(self._audio(at, end))
                    at = end
                await asyncio.sleep(1)
                self._take(await line.read(0))
            self._take(await line.read(self._rng.randrange(3)))
            await line.break_off()
            self.cuts += 1
            await asyncio.sleep(self._rng.choice((0, 0.3, 5, 20)))

    async def _connect(self) -> tuple[Line, int]:
        line = Line(self._day.endpoints)
        if not self._token:
            line.send(self._start)
            [ready] = await line.until("ready")
            self._token, self._have = ready["resume"], ready["seq"]
            return line, 0
        resume = {"have": self._have, "from": self._acknowledged, "token": self._token}
        line.send({"type": "resume", **resume})
        [resumed] = await line.until("resumed")
        assert resumed["samples"] >= self._acknowledged
        return line, resumed["samples"]

    def _audio(self, start: int, end: int) -> bytes:
        period = self._day.period_s * SAMPLE_RATE
        channels = []
        for number in range(len(self._last)):
            # Sources take turns.
            place = (np.arange(start, end) + number * period // 2) % period
            channels.append(np.where(place < _SPEECH_S * SAMPLE_RATE, np.float32(0.5), 0))
        return pcm(np.stack(channels, axis=1).astype(np.float32))

    def _take(self, messages: list[dict]) -> None:
        for message in messages:
            assert message["type"] != "error", message
            if "seq" in message:
                assert message["seq"] == self._have + 1, (self._have, message)
                self._have = message["seq"]
            if message["type"] == "ack":
                assert message["samples"] >= self._acknowledged
                self._acknowledged = message["samples"]
            if message["type"] == "words":
                self._count(message.get("source", ""), [int(w["text"]) for w in message["words"]])

    def _count(self, source: str, numbers: list[int]) -> None:
        for number in numbers:
            assert number > self._last[source], (source, number, self._last)
            self._last[source] = number
            period, words = self._counted[source]
            now = number * _WORD // (self._day.period_s * SAMPLE_RATE)
            if now != period:
                # Its second source is half a period ahead: its first utterance is another one.
                if period:
                    self.period_words[words] += 1
                period, words = now, 0
            self._counted[source] = period, words + 1


@dataclass(frozen=True)
class CutHour:
    """What there was at an hour's end: ``blocks`` and ``objects`` are Python's own counts.

    ``sent``, ``sent_chars``: messages in the store for clients that come back; ``size``: its bytes.
    """

    hour: float
    rss_mib: float
    blocks: int
    objects: int
    tasks: int
    in_use: int
    lanes: int
    feeds: int
    resumable: int
    cuts: int
    given_up: int
    words: int
    sent: int
    sent_chars: int
    size: int

    def __str__(self) -> str:
        return (
            f"hour {self.hour:5.2f}: RSS {self.rss_mib:6.1f} MiB, {self.blocks} blocks, "
            f"{self.objects} objects, {self.tasks} tasks, {self.in_use} slots, {self.lanes} lanes, "
            f"{self.feeds} feeds, {self.resumable} resumable, {self.cuts} cuts and "
            f"{self.given_up} given up so far; store: {self.words} words, {self.sent} messages of "
            f"{self.sent_chars} characters, {self.size / 2**20:.2f} MiB"
        )


class CutDay:
    """Two sessions of one source, one of two; a line breaks every ``cut_every_s`` on the average.

    Every ``give_up_s`` a session begins whose client never comes back.
    """

    SOURCES = ((), (), ("me", "them"))

    def __init__(
        self, folder: Path, seed: int, cut_every_s: float, give_up_s: float, period_s: int
    ) -> None:
        self.cut_every_s, self.period_s = cut_every_s, period_s
        self.calm = False
        self._give_up_s = give_up_s
        self._rng = random.Random(seed)
        self._engine = PeriodicEngine(16)
        self._detector = SimulatedDetector(Loud())
        self._service = Service(self._engine, self._detector)
        self._file = folder / "sessions.db"
        self._recorder = Recorder(open_store(folder), resume=timedelta(days=7))
        self._let_time_wait_for_the_store()
        self.endpoints = LiveEndpoints(LiveModels(self._service), recorder=self._recorder)
        self.clients = [
            CutClient(self, random.Random(f"{seed} {number}"), sources)
            for number, sources in enumerate(self.SOURCES)
        ]
        self._given_up = 0

    async def run(
        self, hours: int, hour_s: float, told: Callable[[CutHour], None]
    ) -> list[CutHour]:
        """One reading an hour, which may be made shorter, when every line has been whole awhile."""
        speaking = [asyncio.create_task(client.run()) for client in self.clients]
        readings = []
        for hour in range(1, hours + 1):
            self.calm = False
            leaving = asyncio.create_task(self._leave_for_ever())
            await asyncio.sleep(hour_s - _FORGOTTEN_S)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            self.calm = True
            await asyncio.sleep(_FORGOTTEN_S)
            for task in speaking:
                if task.done():
                    task.result()
            readings.append(self._read(hour * hour_s / 3600))
            told(readings[-1])
        for task in speaking:
            task.cancel()
        await asyncio.gather(*speaking, return_exceptions=True)
        await self._service.aclose(0)
        await self.endpoints.wait_closed(1)
        self._recorder.close()
        return readings

    def _let_time_wait_for_the_store(self) -> None:
        """No time passes before the loop knows of everything that is written."""
        loop, writer = asyncio.get_running_loop(), self._recorder.writer
        unwritten: set[asyncio.Future] = set()
        write = writer.write

        def write_and_count(operation: Operation) -> asyncio.Future:
            written = write(operation)
            unwritten.add(written)
            written.add_done_callback(unwritten.discard)
            return written

        writer.write = write_and_count
        assert isinstance(loop, SimulatedLoop)
        loop.working.append(lambda: bool(unwritten))

    async def _leave_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(1, 2 * self._give_up_s))
            line = Line(self.endpoints)
            try:
                line.send(START)
                await line.until("ready")
                for _ in range(self._rng.randrange(4)):
                    line.send(pcm(np.full(SAMPLE_RATE, 0.5, np.float32)))
                    await asyncio.sleep(self._rng.uniform(0, 1))
            finally:  # also where the hour ends in between
                await line.break_off()
            self._given_up += 1

    def _read(self, hour: float) -> CutHour:
        with sqlite3.connect(self._file) as database:
            # Its log has a bound of its own, and is not what is kept.
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            kept = database.execute("SELECT count(*), total(length(json)) FROM sent").fetchone()
        database.close()
        stats = self._recorder.store.stats()
        return CutHour(
            hour,
            *held_by_process(),
            self._engine.in_use,
            self._detector.in_use,
            len(list(self.endpoints.feeds)),
            len(self.endpoints.resumables._sessions),
            sum(client.cuts for client in self.clients),
            self._given_up,
            stats.words,
            int(kept[0]),
            int(kept[1]),
            self._file.stat().st_size,
        )


def play_cut_day(
    day: Callable[[], CutDay], hours: int, hour_s: float, told: Callable[[CutHour], None]
) -> tuple[CutDay, list[CutHour]]:
    """A day from its beginning to its end."""

    async def main() -> tuple[CutDay, list[CutHour]]:
        made = day()
        return made, await made.run(hours, hour_s, told)

    return simulate(main())
