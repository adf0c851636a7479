"""An engine that commits a word for every second that it is fed, and audio for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

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
from voxlive.streaming.events import Event
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.streaming.service import Service
from voxlive.values import SAMPLE_RATE, Samples, Word

PCM = AudioFormat("s16le", SAMPLE_RATE, 1)
OPEN = SessionOptions(PCM, gate=None)


class LoudnessModel:
    """A voice detector's network that takes whatever is loud for speech."""

    def step(self, frames: Samples, state: Samples) -> tuple[Samples, Samples]:
        return (np.abs(frames).max(axis=1) > 0.1).astype(np.float32), state


@dataclass
class CountingStream:
    sink: Sink
    progress: bool = True
    fed: list[tuple[int, Samples]] = field(default_factory=list)
    committed: int = 0
    closed: bool = False
    trail: int = 0

    def feed(self, audio: Samples, at: int) -> None:
        assert not self.closed
        if self.fed:
            assert at >= self.fed[-1][0] + len(self.fed[-1][1])
        self.fed.append((at, audio))
        fed = sum(len(samples) for _, samples in self.fed)
        while (self.committed + 1) * SAMPLE_RATE <= fed:
            self.committed += 1
            self.sink(Committed((Word(f" w{self.committed}", at, at + len(audio)),)))
        if self.progress:
            self.sink(Progressed(at + len(audio)))

    def end_utterance(self, marker: int) -> None:
        self.sink(Reached(marker))

    def flush(self, marker: int) -> None:
        self.sink(Drafted(" soon"))
        self.sink(Reached(marker))

    def close(self) -> None:
        self.closed = True


class CountingEngine:
    def __init__(self, capacity: int = 1) -> None:
        self.info = EngineInfo("counting", "none", "cpu", capacity, ("en",))
        self.streams: list[CountingStream] = []
        self.progress = True

    @property
    def in_use(self) -> int:
        return sum(not stream.closed for stream in self.streams)

    def open(self, options: StreamOptions, sink: Sink) -> CountingStream:
        if self.in_use == self.info.capacity:
            raise EngineFull(self.info.capacity)
        self.streams.append(CountingStream(sink, self.progress))
        return self.streams[-1]

    def check(self, timeout: float) -> str | None:
        return None

    def shutdown(self) -> None:
        pass


def pcm(samples: Samples) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def tone(seconds: float) -> Samples:
    return np.full(int(seconds * SAMPLE_RATE), 0.5, np.float32)


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def of(kind: type, events: list[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


async def events_of(
    service: Service, options: SessionOptions, audio: Samples, cuts: Sequence[int]
) -> list[Event]:
    """A session's events, for audio in pieces that end at these samples; the service ends too."""
    session = service.open(options)
    data = pcm(audio)

    async def send() -> None:
        at = 0
        for cut in (*cuts, len(audio)):
            await session.push(data[2 * at : 2 * cut])
            at = cut
        await session.stop()

    sending = asyncio.create_task(send())
    events = [event async for event in session.events()]
    await sending
    await service.aclose()
    return events
