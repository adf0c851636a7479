"""One slot of the engine: a worker process, the thread that listens to it, and who has it.

A session's place in the PocketSphinx engine.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from enum import IntEnum
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING

import numpy as np

from voxlive.engines.contract import DurationHistogram, Failed, Sink
from voxlive.engines.pocketsphinx.wire import (
    MAX_AUDIO,
    Command,
    SphinxAudio,
    SphinxEnd,
    SphinxOpen,
    SphinxReply,
)
from voxlive.processes.process import kill_group
from voxlive.processes.supervisor import Work
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from voxlive.values import Samples

log = logging.getLogger(__name__)

START_S = 120.0
"""The longest that a worker may take to load."""
_PASS = 2
"""Deadlines that a final pass may take: it tells nothing before its end, and may be over 20 s."""
_COMMAND = (sys.executable, "-P", "-m", "voxlive.engines.pocketsphinx.worker")
_LONGEST_WAIT_S = 30.0
_EXIT_TIMEOUT_S = 2.0
_WORKER_EXITED = Failed(
    "engine_failed", "the recogniser of this session died; a new one has been started: start again"
)
_HANGS = Failed(
    "engine_failed", "the recogniser of this session hung; it is being replaced: start again"
)
_SHUT_DOWN = Failed("shutting_down", "the server is shutting down")


class SlotState(IntEnum):
    """Of a slot's worker, the readiest first. DOWN: its last start failed, the next one is due."""

    WAITING = 0
    STARTING = 1
    WORKING = 2
    DOWN = 3


class Slot:
    """A worker and the stream that has it; a worker that ends is replaced at once.

    ``changed`` is the engine's one lock. It guards everything here, is held while a sink is called,
    and is notified of every reply. ``steps`` gets the times of commands and of final passes. A slot
    that was left in the middle of a command is free all the same: ``take`` then kills its worker,
    and the new stream's audio waits for the next one. A final pass beside a worker that waits is
    ended by the worker itself. ``passing``: there is one, for the stream of the moment or the last.
    A worker that hangs is killed, and its stream told.
    """

    def __init__(
        self, number: int, changed: threading.Condition, steps: DurationHistogram, deadline_s: float
    ) -> None:
        self.state = SlotState.STARTING
        self.fault: str | None = None
        self.passing = False
        self.replies = 0
        self.waiting = 0
        self._changed = changed
        self._steps = steps
        self._deadline_s = deadline_s
        self._drafts = True
        self._began_at = time.monotonic()
        self._sink: Sink | None = None
        self._generation = 0
        self._commands: deque[Command] = deque()
        self._doing: Command | None = None
        self._ending = _WORKER_EXITED
        self._replacing = False
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"pocketsphinx-{number}", daemon=True
        )
        self._thread.start()

    # Called under the lock.

    @property
    def taken(self) -> bool:
        """Whether a stream has it."""
        return self._sink is not None

    @property
    def pid(self) -> int | None:
        """The worker's process; None while it is being replaced."""
        return self._process.pid if self._process and not self._replacing else None

    def take(self, sink: Sink, *, drafts: bool) -> int:
        """Give the slot to a stream; its generation, by which it is known from now on."""
        self._generation += 1
        self._sink = sink
        self._drafts = drafts
        self._ending = _WORKER_EXITED
        if isinstance(self._doing, SphinxAudio | SphinxEnd):
            self._replacing = True
            self._kill()
        self.put(SphinxOpen(self._generation, drafts))
        return self._generation

    def has(self, generation: int) -> bool:
        """Whether the stream of this generation still has the slot."""
        return self.taken and generation == self._generation

    def put(self, command: Command) -> None:
        """Hand the worker a command, after those that wait already."""
        self._commands.append(command)
        if isinstance(command, SphinxAudio):
            self.waiting += len(command.pcm) // 2
        self._pump()

    def leave(self) -> None:
        """The stream is gone: no message for it any more."""
        self._sink = None
        self._commands.clear()
        self.waiting = 0

    def give_up(self, ending: Failed) -> None:
        """Fail the stream with this message and end the worker."""
        self._ending = ending
        self._replacing = False
        if self._process:
            self._kill()
        else:
            self._end_stream()

    def stop(self) -> None:
        """End the stream and the worker, and start no other."""
        self._stopped.set()
        self.give_up(_SHUT_DOWN)

    # Called without the lock.

    @property
    def work(self) -> Work:
        """See Watched: a reply is how it gets on, whatever it says."""
        with self._changed:
            busy = self.state in (SlotState.WORKING, SlotState.STARTING) or self.passing
            return Work(busy and not self._stopped.is_set(), self.replies)

    @property
    def deadline_s(self) -> float:
        """See Watched: longer for a final pass, made by itself for a file, and for a start."""
        with self._changed:
            if self.state is SlotState.STARTING:
                return max(START_S, self._deadline_s)
            whole = self.passing or not self._drafts
            return _PASS * self._deadline_s if whole else self._deadline_s

    def on_deadline(self, work: Work) -> None:
        """See Watched."""
        with self._changed:
            if self.work == work:
                log.error(
                    "a recogniser's process, %s, does not get on: it is replaced",
                    self._process.pid if self._process else "none",
                )
                self.give_up(_HANGS)

    def join(self) -> None:
        """Wait until the worker and the thread of a stopped slot are gone."""
        self._thread.join()

    # The slot's thread.

    def _run(self) -> None:
        wait = 1.0
        while not self._stopped.is_set():
            replies = self.replies
            ending = self._live()
            fault = ending if self.replies == replies else None
            self._bury(fault)
            if not fault:
                wait = 1.0
            else:
                self._stopped.wait(wait)
                wait = min(2 * wait, _LONGEST_WAIT_S)

    def _live(self) -> str:
        """A worker's life, from its start to its end; how it ended."""
        ours, theirs = Pipe()
        with ours:
            with theirs:
                try:
                    process = _start(theirs.fileno())
                except OSError as error:
                    return f"a recogniser's process cannot be started: {error}"
            with process:
                self._adopt(process, ours)
                with suppress(EOFError, OSError):
                    while True:
                        self._hear(ours.recv())
                # Let it come to its end by itself, for its exit code.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_EXIT_TIMEOUT_S)
                kill_group(process.pid)
        return f"a recogniser's process ended with {process.returncode} while it was starting"

    def _adopt(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        with self._changed:
            self._process, self._connection = process, connection
            if self._stopped.is_set():
                self._kill()

    def _hear(self, reply: SphinxReply) -> None:
        with self._changed:
            if self._replacing:
                return
            self.replies += 1
            self.passing = reply.passing
            if reply.passed_s is not None:
                self._steps.observe(reply.passed_s)
            if reply.ready:
                if isinstance(self._doing, SphinxAudio | SphinxEnd):
                    self._steps.observe(time.monotonic() - self._began_at)
                self.state, self.fault, self._doing = SlotState.WAITING, None, None
                self._pump()
            if reply.message and self._sink and reply.generation == self._generation:
                self._sink(reply.message)
            self._changed.notify_all()

    def _bury(self, fault: str | None) -> None:
        """After a worker's end: fail its stream, unless that waits for the next worker."""
        with self._changed:
            self._process = self._connection = self._doing = None
            self.passing = False
            self.state, self.fault = (SlotState.DOWN if fault else SlotState.STARTING), fault
            if not self._replacing:
                self._end_stream()
            self._replacing = False
            self._changed.notify_all()

    # Under the lock again.

    def _end_stream(self) -> None:
        sink = self._sink
        self.leave()
        if sink:
            sink(self._ending)

    def _pump(self) -> None:
        if self.state is SlotState.WAITING and self._commands and self._connection:
            self._doing = command = self._commands.popleft()
            if isinstance(command, SphinxAudio):
                self.waiting -= len(command.pcm) // 2
            self.state = SlotState.WORKING
            self._began_at = time.monotonic()
            # A worker that has just died is noticed by the thread that listens to it.
            with suppress(OSError):
                self._connection.send(command)

    def _kill(self) -> None:
        if self._process:
            kill_group(self._process.pid)


def _start(fd: int) -> subprocess.Popen[bytes]:
    """A worker that serves over this socket."""
    return subprocess.Popen(
        (*_COMMAND, str(fd)),
        pass_fds=[fd],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        # What forks must have one thread, and it multiplies nothing large.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )


MAX_WAITING_S = 60
"""Seconds of audio that may wait for the worker; a session stops feeding long before."""
TRAIL = SAMPLE_RATE // 5
_OVERRUN = Failed(
    "overrun", f"more than {MAX_WAITING_S} s of audio wait for the recogniser: send it more slowly"
)


class PocketSphinxStream:
    """See the contract. ``flush`` does what ``end_utterance`` does: no state outlives either but
    the cepstral mean, with which the next draft begins.
    """

    def __init__(self, slot: Slot, generation: int, trail: int, lock: threading.Condition) -> None:
        self.trail = trail
        self._slot = slot
        self._generation = generation
        self._lock = lock
        self._overrun = False

    @property
    def pid(self) -> int | None:
        """The worker's process, for diagnosis; None while it is being replaced."""
        with self._lock:
            return self._slot.pid

    def feed(self, audio: Samples, at: int) -> None:
        """See the contract; beyond ``MAX_WAITING_S`` the stream fails with ``overrun``."""
        pcm = np.clip(np.rint(audio * 32768.0), -32768, 32767).astype("<i2")
        with self._lock:
            if not self._slot.has(self._generation) or self._overrun:
                return
            if self._slot.waiting + len(pcm) > MAX_WAITING_S * SAMPLE_RATE:
                self._overrun = True
                self._slot.give_up(_OVERRUN)
                return
            for start in range(0, len(pcm), MAX_AUDIO):
                part = pcm[start : start + MAX_AUDIO]
                self._slot.put(SphinxAudio(part.tobytes(), at + start))

    def end_utterance(self, marker: int) -> None:
        """See the contract."""
        with self._lock:
            if self._slot.has(self._generation):
                self._slot.put(SphinxEnd(marker))

    def flush(self, marker: int) -> None:
        """See the contract."""
        self.end_utterance(marker)

    def close(self) -> None:
        """See the contract."""
        with self._lock:
            if self._slot.has(self._generation):
                self._slot.leave()
