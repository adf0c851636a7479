"""Streaming Sortformer: who speaks, by a network that hears the speech itself, in its own process.

The network is NVIDIA's, in mlx-audio: for every 80 ms and each of four voices, in the order in
which they are first heard, the probability that it speaks. What it has heard is its memory, in a
process of its own (``sortformer_child.py``), which one starts for all sessions when the first of
them asks for speakers: a server whose sessions do not never loads MLX for it.

A stream's audio goes there a second at a time, where the voice detector has heard anybody in it.
What it answers stands at once. Its memory stays there: another server does not go on with it.
Bound: a question of each stream.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future
from itertools import count
from typing import NamedTuple

import numpy as np

from voxlive.processes.process import ChildProcess
from voxlive.speakers.profiles import VoiceProfile
from voxlive.speakers.tracker import (
    SpeakerOptionError,
    SpeakerOptions,
    SpeakerPart,
    SpeakerParts,
    Speakers,
    SpeakerState,
)
from voxlive.vad.gate import WINDOW, GateOptions
from voxlive.vad.network import Array, NetworkFailed
from voxlive.values import SAMPLE_RATE, Samples

CHUNK = 30 * WINDOW
"""Samples that the network is given at a time: 0.96 s, twelve of its frames."""
FRAME = SAMPLE_RATE * 8 // 100
"""Samples to an answer of the network: 80 ms."""

_CHILD = "voxlive.speakers.sortformer_child"
_SPEAKS = 0.5
_FOREVER = 1 << 62


class LoadSortformer(NamedTuple):
    """The first message to the process: the model's folder."""

    folder: str


class HearChunk(NamedTuple):
    """Audio of a stream, float32 [n], which goes on from what it has sent before."""

    number: int
    stream: int
    audio: bytes


class ForgetStream(NamedTuple):
    """The stream is over."""

    stream: int


class ChunkHeard(NamedTuple):
    """Float32 [frames, speakers] for the question of this number."""

    number: int
    answer: Array


class SpokenFrames(SpeakerParts):
    """Who speaks, of frames of 80 ms: the speakers of one stream from sample ``at`` on. Pure.

    Speakers are numbered from 0 in the order in which they are first heard here.
    """

    def __init__(self, options: SpeakerOptions, at: int = 0) -> None:
        super().__init__()
        self._most = options.speakers or options.max_speakers
        self._numbers: dict[int, int] = {}
        self._end = self._known = at
        self._finished = False

    @property
    def known(self) -> int:
        """See Speakers."""
        return _FOREVER if self._finished else self._known

    @property
    def end(self) -> int:
        """See Speakers."""
        return self._end

    @property
    def count(self) -> int:
        """See Speakers."""
        return len(self._numbers)

    def advance(self, samples: int) -> None:
        """So many have come, of which nothing is known yet."""
        self._end += samples

    def hear(self, start: int, end: int, frames: Array | None) -> None:
        """Take the network's float32 [n, speakers] for samples ``start`` to ``end``; None: silence.

        Of several who speak in a frame it is the likeliest.
        """
        self._known = end
        for number, frame in enumerate(() if frames is None else frames):
            at = start + number * FRAME
            best = int(frame.argmax())
            if frame[best] < _SPEAKS or at >= end:
                continue
            if best not in self._numbers and len(self._numbers) >= self._most:
                best = max(self._numbers, key=lambda one: float(frame[one]))
            speaker = self._numbers.setdefault(best, len(self._numbers))
            last = self.parts[-1] if self.parts else None
            if last and last.end == at and last.speaker == speaker:
                last.end = min(at + FRAME, end)
            else:
                self.parts.append(SpeakerPart(at, min(at + FRAME, end), speaker))

    def finish(self) -> None:
        """There is no more audio."""
        self._finished = True


class SortformerSpeakers(SpokenFrames):
    """The same, of a stream whose audio the process hears."""

    keeps_states = False

    def __init__(
        self, process: SortformerProcess, options: SpeakerOptions, gate: GateOptions, at: int
    ) -> None:
        super().__init__(options, at)
        self._process = process
        self._stream = process.open()
        self._exit = gate.exit_threshold
        self._audio = np.zeros(0, np.float32)  # from ``known`` on
        self._spoken = 0  # the windows behind ``known`` in which somebody was heard
        self._windows = 0

    async def receive(self, samples: Samples, probabilities: Iterable[float]) -> None:
        """See Speakers."""
        self._audio = np.concatenate((self._audio, samples))
        for probability in probabilities:
            self.advance(WINDOW)
            self._windows += 1
            self._spoken += float(probability) >= self._exit
            if self._windows * WINDOW == CHUNK:
                await self._ask(CHUNK)

    async def _ask(self, length: int) -> None:
        chunk, self._audio = self._audio[:length], self._audio[length:]
        start, spoken = self._known, self._spoken
        self._windows = self._spoken = 0
        frames = await self._process.ask(self._stream, chunk) if spoken and len(chunk) else None
        self.hear(start, start + length, frames)

    async def flush(self) -> None:
        """See Speakers."""
        await self._ask(len(self._audio))
        self.finish()

    @property
    def state(self) -> SpeakerState | None:
        """None: what the network remembers is in its process."""
        return None

    def go_on(self, state: SpeakerState | None, window: int) -> None:
        """There is no state to go on from: they begin anew."""

    def voice(self, speaker: int) -> Samples | None:  # noqa: ARG002
        """None: the network has no vectors of voices."""
        return None

    def profile_of(
        self,
        speaker: int,  # noqa: ARG002
        profiles: Sequence[VoiceProfile],  # noqa: ARG002
        taken: Collection[str],  # noqa: ARG002
    ) -> VoiceProfile | None:
        """None, as ``voice``."""
        return None

    def close(self) -> None:
        """See Speakers."""
        self._process.forget(self._stream)


class SortformerProcess:
    """The process that hears the speakers of all sessions, started with the first of them.

    ``folder``: the model's, in mlx-audio's layout. One that dies takes the speakers of its sessions
    with it (NetworkFailed); the next session starts another one.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._child: ChildProcess[LoadSortformer | HearChunk | ForgetStream] | None = None
        self._reader: threading.Thread | None = None
        self._started = threading.Event()
        self._waiting: dict[int, Future[Array]] = {}
        self._numbers, self._streams = count(), count()
        self._closed = False

    def speakers(self, options: SpeakerOptions, gate: GateOptions, at: int) -> Speakers:
        """Those of a stream. Raises NetworkFailed after ``close``, SpeakerOptionError."""
        if options.profiles:
            message = "voices are known again by the speaker-encoder: this server has another model"
            raise SpeakerOptionError(message, "profiles")
        return SortformerSpeakers(self, options, gate, at)

    def open(self) -> int:
        """A stream's number there."""
        with self._lock:
            if self._closed:
                raise NetworkFailed("the speakers' process was closed")
            if self._reader is None:
                # The child dies with the thread that starts it.
                self._started.clear()
                self._reader = threading.Thread(target=self._run, name="sortformer", daemon=True)
                self._reader.start()
        return next(self._streams)

    async def ask(self, stream: int, audio: Samples) -> Array:
        """The network's answer to the next audio of a stream: float32 [frames, speakers].

        Raises NetworkFailed.
        """
        done: Future[Array] = Future()
        number = next(self._numbers)
        await asyncio.to_thread(self._started.wait)
        with self._lock:
            if self._child is None:
                raise NetworkFailed("the speakers' process has ended")
            self._waiting[number] = done
            self._child.sender.put(HearChunk(number, stream, audio.tobytes()))
        return await asyncio.wrap_future(done)

    def forget(self, stream: int) -> None:
        """The stream is over."""
        with self._lock:
            if self._child:
                self._child.sender.put(ForgetStream(stream))

    def close(self) -> None:
        """End the process. Blocks until it has. May be called twice."""
        with self._lock:
            self._closed = True
            child, reader = self._child, self._reader
        if child:
            child.disconnect()
        if reader:
            reader.join()

    def _run(self) -> None:
        child: ChildProcess[LoadSortformer | HearChunk | ForgetStream]
        child = ChildProcess(_CHILD, "sortformer")
        child.sender.put(LoadSortformer(self._folder))
        with self._lock:
            self._child = child
        self._started.set()
        for message in child.messages():
            if isinstance(message, ChunkHeard):
                self._on_heard(message)
        with self._lock:
            self._child = self._reader = None
            left, self._waiting = self._waiting, {}
        reason = child.last_line or "it was ended"
        for done in left.values():
            if done.set_running_or_notify_cancel():
                done.set_exception(NetworkFailed(f"the speakers' process has ended: {reason}"))
        child.end()

    def _on_heard(self, heard: ChunkHeard) -> None:
        with self._lock:
            done = self._waiting.pop(heard.number, None)
        if done and done.set_running_or_notify_cancel():
            done.set_result(heard.answer)
