"""A server's live side for as many simulated hours as one likes, with clients of every kind.

Everything is real but the sockets, the model and the clock: service, sessions, protocols, voice
detector. An engine says a word for each 0.4 s that it is fed. Beside sessions that last all day,
silent or speaking with pauses, connections are abandoned in every state that one can be in.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import random
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import psutil
from starlette.websockets import WebSocket
from support.clips import clip
from support.simulated import SimulatedDetector, simulate
from support.wire import s16le

from voxlive.engines.contract import (
    Committed,
    Drafted,
    DurationHistogram,
    EngineInfo,
    Message,
    Progressed,
    Reached,
    Sink,
    StreamOptions,
)
from voxlive.errors import EngineFull
from voxlive.processes.supervisor import Work
from voxlive.streaming.service import Service
from voxlive.vad.detector import SpeechModel
from voxlive.values import SAMPLE_RATE, Samples, Word
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels
from voxlive.web.protocols.asr import AsrProtocol
from voxlive.web.protocols.deepgram import DeepgramProtocol
from voxlive.web.protocols.live import LiveProtocol
from voxlive.web.protocols.mistral import MistralProtocol
from voxlive.web.protocols.realtime import RealtimeProtocol

WORD = 2 * SAMPLE_RATE // 5
_FORGOTTEN_S = 60


def held_by_process() -> tuple[float, int, int, int]:
    """MiB of memory, Python's blocks and objects, and the loop's tasks."""
    gc.collect()
    return (
        psutil.Process().memory_info().rss / 2**20,
        sys.getallocatedblocks(),
        len(gc.get_objects()),
        len(asyncio.all_tasks()),
    )


class WordyStream:
    """Answers at once, on the thread that feeds it; as the contract allows."""

    def __init__(self, engine: WordyEngine, sink: Sink) -> None:
        self.trail = engine.info.trail(StreamOptions())
        self._engine, self._sink = engine, sink
        self._heard = 0

    def _send(self, message: Message) -> None:
        if self in self._engine.streams:
            self._sink(message)

    def feed(self, audio: Samples, at: int) -> None:
        before, self._heard = self._heard // WORD, self._heard + len(audio)
        upto = at + len(audio)
        for number in range(before, self._heard // WORD):
            self._engine.words += 1
            self._send(Committed((Word(f" word{number % 100}", at, upto),)))
        self._send(Drafted(f" draft{self._heard % 7}"))
        self._send(Progressed(upto))

    def end_utterance(self, marker: int) -> None:
        self._send(Reached(marker))

    def flush(self, marker: int) -> None:
        self._send(Reached(marker))

    def close(self) -> None:
        self._engine.streams.discard(self)


class WordyEngine:
    """The contract, without a model."""

    def __init__(self, capacity: int) -> None:
        self.info = EngineInfo("wordy", "none", "cpu", capacity, ("en",), trail_margin=3200)
        self.steps = DurationHistogram()
        self.streams: set[WordyStream] = set()
        self.words = 0
        self.opened = 0

    @property
    def in_use(self) -> int:
        return len(self.streams)

    @property
    def work(self) -> Work:
        return Work(busy=False, done=self.words)

    def open(self, options: StreamOptions, sink: Sink) -> WordyStream:
        self.info.validate(options)
        if self.in_use >= self.info.capacity:
            raise EngineFull(self.info.capacity)
        stream = WordyStream(self, sink)
        self.streams.add(stream)
        self.opened += 1
        return stream

    def check(self, timeout: float) -> str | None:
        return None

    def shutdown(self) -> None:
        self.streams.clear()


class Loud:
    """A voice detector's network that takes whatever is loud for speech: for long days."""

    def step(self, frames: Samples, state: Samples) -> tuple[Samples, Samples]:
        return (np.abs(frames).max(axis=1) > 0.02).astype(np.float32), state


Frames = AsyncIterator[str | bytes]


@dataclass(frozen=True)
class DayDialect:
    """How a client of a protocol begins, sends audio, stays without audio, and ends."""

    protocol: type
    query: bytes
    begin: tuple[str, ...]
    audio: Callable[[bytes], str | bytes]
    end: str | bytes
    alive: str | None = None
    """What keeps it open without audio."""
    turn: str | None = None
    """What a speaker says after a turn: where all of one is kept until then."""


def _base64(kind: str) -> Callable[[bytes], str]:
    return lambda pcm: json.dumps({"type": kind, "audio": base64.b64encode(pcm).decode()})


DIALECTS = {
    "live": DayDialect(
        LiveProtocol, b"", ('{"type": "start", "format": "s16le"}',), bytes, '{"type": "stop"}'
    ),
    "asr": DayDialect(AsrProtocol, b"mode=diff", (), bytes, b""),
    "deepgram": DayDialect(
        DeepgramProtocol,
        b"encoding=linear16&sample_rate=16000&interim_results=true",
        (),
        bytes,
        '{"type": "CloseStream"}',
        '{"type": "KeepAlive"}',
    ),
    "realtime": DayDialect(
        RealtimeProtocol,
        b"intent=transcription",
        (
            '{"type": "session.update", "session": {"type": "transcription", "audio": {"input": '
            '{"format": {"type": "audio/pcm", "rate": 24000}}}}}',
        ),
        _base64("input_audio_buffer.append"),
        '{"type": "input_audio_buffer.commit"}',
    ),
    "mistral": DayDialect(
        MistralProtocol,
        b"model=x",
        (),
        _base64("input_audio.append"),
        '{"type": "input_audio.end"}',
        turn='{"type": "input_audio.flush"}',
    ),
}

STATES = ("before", "begun", "speaking", "unread", "stopped", "garbage")
"""In which a connection is abandoned."""


@dataclass
class Connection:
    """The ASGI side of one: what its client sends, and what becomes of what it is sent."""

    frames: Frames
    reads: bool = True
    messages: int = 0

    async def receive(self) -> dict[str, object]:
        if not self.messages:
            self.messages = 1
            return {"type": "websocket.connect"}
        async for frame in self.frames:
            kind = "text" if isinstance(frame, str) else "bytes"
            return {"type": "websocket.receive", kind: frame}
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(self, message: dict[str, object]) -> None:
        self.messages += 1
        if not self.reads and self.messages > 3:
            await asyncio.Event().wait()


@dataclass(frozen=True)
class Hour:
    """What there was at an hour's end: ``blocks`` and ``objects`` are Python's own counts."""

    hour: float
    rss_mib: float
    blocks: int
    objects: int
    tasks: int
    in_use: int
    lanes: int
    feeds: int
    opened: int
    words: int

    def __str__(self) -> str:
        return (
            f"hour {self.hour:5.2f}: RSS {self.rss_mib:7.1f} MiB, {self.blocks} blocks, "
            f"{self.objects} objects, {self.tasks} tasks, {self.in_use} slots, {self.lanes} lanes, "
            f"{self.feeds} feeds, {self.opened} sessions so far, {self.words} words so far"
        )


class Played(NamedTuple):
    """What a day came to: its readings, sessions that lasted all of it, those given up."""

    readings: list[Hour]
    lasting: int
    abandoned: int


class Day:
    """An idle and a speaking session of each dialect, a silent one, and every ``every_s`` seconds
    one that is given up. A speaker says one clip of 5 s in ``period_s``, over and over.
    """

    def __init__(self, network: SpeechModel, seed: int, every_s: float, period_s: int = 12) -> None:
        self._period_s = period_s
        self._random = random.Random(seed)
        self._every_s = every_s
        self.engine = WordyEngine(64)
        self.detector = SimulatedDetector(network)
        self.service = Service(self.engine, self.detector)
        self.live = LiveEndpoints(LiveModels(self.service))
        self.serve = {
            name: self.live.endpoint(dialect.protocol) for name, dialect in DIALECTS.items()
        }
        self._tasks: set[asyncio.Task[None]] = set()
        self.abandoned = 0
        self.lasting = 0
        speech = s16le(clip("doctor").samples)
        self._clip = speech[: len(speech) // 32000 * 32000]

    def _connect(self, name: str, frames: Frames, *, reads: bool = True) -> asyncio.Task[None]:
        connection = Connection(frames, reads)
        scope = {
            "type": "websocket",
            "path": "/",
            "query_string": DIALECTS[name].query,
            "headers": [],
            "subprotocols": [],
            "server": ("test", 80),
        }
        socket = WebSocket(scope, connection.receive, connection.send)
        task = asyncio.create_task(self.serve[name](socket))
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.result()

    async def _idle(self, dialect: DayDialect) -> Frames:
        """Connected, begun, and then nothing but what keeps it alive."""
        for frame in dialect.begin:
            yield frame
        if not dialect.alive:
            yield dialect.audio(bytes(3200))
        while True:
            await asyncio.sleep(5)
            if dialect.alive:
                yield dialect.alive

    async def _silence(self, dialect: DayDialect) -> Frames:
        for frame in dialect.begin:
            yield frame
        while True:
            await asyncio.sleep(1)
            yield dialect.audio(bytes(32000))

    async def _speech(self, dialect: DayDialect, late_s: float) -> Frames:
        """A clip, then a pause, all day; a second of audio at a time."""
        await asyncio.sleep(late_s)
        for frame in dialect.begin:
            yield frame
        while True:
            for second in range(self._period_s):
                await asyncio.sleep(1)
                pcm = self._clip[32000 * second : 32000 * (second + 1)]
                yield dialect.audio(pcm or bytes(32000))
            if dialect.turn:
                yield dialect.turn

    async def _given_up(self, dialect: DayDialect, state: str) -> Frames:
        if state == "before":
            return
        if state == "garbage":
            yield '{"type": "nonsense"'
            yield b"\x00" * 7
            return
        for frame in dialect.begin:
            yield frame
        if state == "begun":
            await asyncio.sleep(self._random.uniform(0, 30))
            return
        for second in range(self._random.randint(1, 4)):
            yield dialect.audio(self._clip[32000 * second : 32000 * (second + 1)])
            await asyncio.sleep(self._random.uniform(0, 1))
        if state == "stopped":
            yield dialect.end
        if state == "unread":
            while True:
                yield dialect.audio(self._clip[:32000])
                await asyncio.sleep(1)

    async def _abandon(self) -> None:
        states = [(name, state) for name in DIALECTS for state in STATES]
        while True:
            self._random.shuffle(states)
            for name, state in states:
                await asyncio.sleep(self._random.uniform(0, 2 * self._every_s))
                frames = self._given_up(DIALECTS[name], state)
                self._connect(name, frames, reads=state != "unread")
                self.abandoned += 1

    async def run(self, hours: int, hour_s: float, told: Callable[[Hour], None]) -> list[Hour]:
        """Every lasting session begins, then one reading an hour, which may be made shorter.

        A reading is made a minute after the last connection was given up: when it is forgotten.
        """
        for number, (name, dialect) in enumerate(DIALECTS.items()):
            for frames in (self._idle(dialect), self._speech(dialect, 1.7 * number)):
                self._connect(name, frames)
        self._connect("live", self._silence(DIALECTS["live"]))
        self.lasting = len(self._tasks)
        readings = []
        for hour in range(1, hours + 1):
            abandoning = asyncio.create_task(self._abandon())
            await asyncio.sleep(hour_s - _FORGOTTEN_S)
            abandoning.cancel()
            await asyncio.sleep(_FORGOTTEN_S)
            readings.append(self._read(hour * hour_s / 3600))
            told(readings[-1])
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.service.aclose(0)
        return readings

    def _read(self, hour: float) -> Hour:
        return Hour(
            hour,
            *held_by_process(),
            self.engine.in_use,
            self.detector.in_use,
            len(list(self.live.feeds)),
            self.engine.opened,
            self.engine.words,
        )


def play(day: Callable[[], Day], hours: int, hour_s: float, told: Callable[[Hour], None]) -> Played:
    """A day from its beginning to its end."""

    async def main() -> Played:
        made = day()
        readings = await made.run(hours, hour_s, told)
        return Played(readings, made.lasting, made.abandoned)

    return simulate(main())
