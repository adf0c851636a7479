"""The store, which the host alone opens, for a worker: what is written, resumed, and kept of audio.

What is written goes to the host's writer, so that the sessions of all workers are one batch. The
contract is that of ``store.writer``: nobody waits for long, and what is late is caught up. Audio
goes to the host's folder, half a second at a time: so a file has one writer, whichever worker has
its session, and a worker that wakes late is none any more.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from voxlive.store.audio import MAX_WAITING as MAX_AUDIO
from voxlive.store.audio import SessionAudio, to_16_bits
from voxlive.store.contract import OperationDropped, ProfileStore, ResumableStore, StoreError
from voxlive.store.writer import (
    CLOSE_TIMEOUT_S,
    MAX_WAIT_S,
    MAX_WAITING,
    SessionWriter,
    Written,
    weight_of,
)
from voxlive.values import SAMPLE_RATE
from voxlive.web.workers import (
    AudioClosed,
    AudioGiven,
    AudioOpened,
    AudioReported,
    AudioTaken,
    StoreCall,
    StoreWrite,
    StoreWritten,
)
from voxlive.web.workers.channel import WorkerChannel

if TYPE_CHECKING:
    from voxlive.store.audio import AudioFolder, AudioWriter, Report
    from voxlive.store.contract import (
        ClaimedSession,
        Operation,
        Owners,
        StoredProfile,
        StoredResumable,
    )
    from voxlive.values import Samples
    from voxlive.web.recorder import Recorder

_GATHERED = SAMPLE_RATE // 2


class HostWriter(SessionWriter):
    """The ``StoreWriter`` of a worker: the host's. On the event loop, but for ``put``."""

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self._numbers = count(1)
        # By number: the operation's weight, when it was given, and who waits for it.
        self._waiting: OrderedDict[int, tuple[int, float, Written | None]] = OrderedDict()
        self._weight = 0
        self._changed = threading.Condition()
        self.late = self.passed_by = self.dropped = 0
        channel.on(StoreWritten, self._on_written)

    @property
    def is_full(self) -> bool:
        """Whether what is new is dropped."""
        return self._weight >= MAX_WAITING

    @property
    def is_late(self) -> bool:
        """Whether nothing was written for longer than a client waits: it need not wait again."""
        with self._changed:
            oldest = next(iter(self._waiting.values()), None)
        return oldest is not None and time.monotonic() - oldest[1] > MAX_WAIT_S

    def put(self, operation: Operation, written: Written | None = None) -> StoreError | None:
        """See ``SessionWriter``."""
        weight = weight_of(operation)
        with self._changed:
            if self._weight + weight > MAX_WAITING:
                self.dropped += 1
                return OperationDropped("too much waits for the store")
            number = next(self._numbers)
            self._waiting[number] = weight, time.monotonic(), written
            self._weight += weight
            self._channel.tell(StoreWrite(number, operation))
        return None

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> int:
        """See ``SessionWriter``: the host writes what waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout_s)
            return self._weight

    def _on_written(self, done: StoreWritten) -> None:
        with self._changed:
            weight, _, written = self._waiting.pop(done.number)
            self._weight -= weight
            self._changed.notify_all()
        if written and not written.done():
            written.set_result(done.result)


class HostStore(ResumableStore, ProfileStore):
    """The store of a worker, by calls of the host's."""

    def __init__(self, channel: WorkerChannel, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self._loop = loop

    def resumable(self, token: str) -> StoredResumable | None:
        """See ``ResumableStore``."""
        found: StoredResumable | None = self._call("resumable", token)
        return found

    def resumable_named(self, name: str) -> StoredResumable | None:
        """See ``ResumableStore``."""
        found: StoredResumable | None = self._call("resumable_named", name)
        return found

    def claim(self, session: str, epoch: int, holder: str) -> ClaimedSession | None:
        """See ``ResumableStore``."""
        claimed: ClaimedSession | None = self._call("claim", session, epoch, holder)
        return claimed

    def keep_profile(self, profile: StoredProfile) -> None:
        """See ``ProfileStore``."""
        self._call("keep_profile", profile)

    def profiles(self, owners: Owners) -> tuple[StoredProfile, ...]:
        """See ``ProfileStore``."""
        found: tuple[StoredProfile, ...] = self._call("profiles", owners)
        return found

    def delete_profile(self, profile: str, owners: Owners) -> bool:
        """See ``ProfileStore``."""
        found: bool = self._call("delete_profile", profile, owners)
        return found

    def _call(self, name: str, *args: object) -> Any:
        call = self._channel.ask(StoreCall(name, args))
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


class HostAudio:
    """The audio folder of the host, for a worker: an ``AudioStore``. On the event loop.

    ``MAX_AUDIO`` bytes may be on their way; at the bound audio is dropped, and reported.
    """

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self._numbers = count(1)
        self._reports: dict[int, Report] = {}
        self._on_way = 0
        channel.on(AudioTaken, self._on_taken)
        channel.on(AudioReported, self._on_reported)

    def open(self, session: str, report: Report) -> SessionAudio:
        """See ``AudioStore``; what the host cannot open is reported."""
        number = next(self._numbers)
        self._reports[number] = report
        self._channel.tell(AudioOpened(number, session))
        return HostAudioWriter(self, number)

    def give(self, number: int, pieces: list[tuple[int, bytes]]) -> None:
        """Have pieces kept."""
        size = sum(len(data) for _, data in pieces)
        if self._on_way + size > MAX_AUDIO:
            message = "audio is not kept as fast as it comes; the session goes on"
            self._on_reported(AudioReported(number, "audio_late", message))
        elif pieces:
            self._on_way += size
            self._channel.tell(AudioGiven(number, tuple(pieces)))

    def close(self, number: int, end: int | None) -> None:
        """Nothing more comes."""
        self._channel.tell(AudioClosed(number, end))
        self._reports.pop(number, None)

    def _on_taken(self, taken: AudioTaken) -> None:
        self._on_way -= taken.size

    def _on_reported(self, reported: AudioReported) -> None:
        if report := self._reports.get(reported.number):
            report(reported.code, reported.message)


class HostAudioWriter(SessionAudio):
    """The audio of one session of a worker, which gathers some of it for each message."""

    def __init__(self, audio: HostAudio, number: int) -> None:
        self._audio = audio
        self._number = number
        self._pieces: list[tuple[int, bytes]] = []
        self._samples = 0

    def put(self, samples: Samples, at: int) -> None:
        """See ``SessionAudio``."""
        self._pieces.append((at, to_16_bits(samples).tobytes()))
        self._samples += len(samples)
        if self._samples >= _GATHERED:
            self._give()

    def close(self, end: int | None) -> None:
        """See ``SessionAudio``."""
        self._give()
        self._audio.close(self._number, end)

    def _give(self) -> None:
        self._audio.give(self._number, self._pieces)
        self._pieces, self._samples = [], 0


class ServeAudio:
    """At the host: the audio of one worker's sessions goes into the ``folder``."""

    def __init__(self, folder: AudioFolder, channel: WorkerChannel) -> None:
        self._folder = folder
        self._channel = channel
        self._writers: dict[int, AudioWriter] = {}
        channel.on(AudioOpened, self._open)
        channel.on(AudioGiven, self._put)
        channel.on(AudioClosed, self._close)

    def close(self) -> None:
        """The worker has gone: its sessions may go on at others."""
        while self._writers:
            self._writers.popitem()[1].close(None)

    def _open(self, opened: AudioOpened) -> None:
        report = partial(self._report, opened.number)
        try:
            self._writers[opened.number] = self._folder.open(opened.session, report)
        except StoreError as error:
            report("audio_failed", f"audio is not kept ({error.message}); the session goes on")

    def _put(self, given: AudioGiven) -> None:
        self._channel.tell(AudioTaken(sum(len(data) for _, data in given.pieces)))
        if writer := self._writers.get(given.number):
            for at, data in given.pieces:
                self._folder.put(writer, at, np.frombuffer(data, np.int16))

    def _close(self, closed: AudioClosed) -> None:
        if writer := self._writers.pop(closed.number, None):
            writer.close(closed.end)

    def _report(self, number: int, code: str, message: str) -> None:
        self._channel.tell(AudioReported(number, code, message))


def serve_store(recorder: Recorder, channel: WorkerChannel) -> None:
    """At the host: have a worker's calls and writes done."""

    async def call(asked: StoreCall) -> object:
        return await asyncio.to_thread(getattr(recorder.store, asked.name), *asked.args)

    def write(asked: StoreWrite) -> None:
        def on_written(written: Written) -> None:
            channel.tell(StoreWritten(asked.number, written.result()))

        recorder.writer.write(asked.operation).add_done_callback(on_written)

    channel.answer(StoreCall, call)
    channel.on(StoreWrite, write)
