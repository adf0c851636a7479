"""The voice detector of a process: one network, one worker thread, a lane for every session.

Lanes that wait at the same time are stepped as one batch, a window of each at a time; a lane may
join at every step, so that a long push never holds up a short one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from voxlive.errors import VadError
from voxlive.vad.gate import WINDOW
from voxlive.vad.silero import CONTEXT, FRAME, STATE, Array

_LOUDEST = 1e6  # NaN is not within it, and far beyond it the network's state would become NaN


class DetectorFull(VadError):
    """Every lane is taken."""


class DetectorClosed(VadError):
    """The lane, or the whole detector, was closed."""


class DetectorFailed(VadError):
    """The network failed under this push; the lane is where it was before it."""


class SpeechModel(Protocol):
    """A network that steps many rows at once; see ``Silero.step``."""

    def step(self, frames: Array, state: Array) -> tuple[Array, Array]:
        """Frames [B, 576] and state [2, B, 128] to probabilities [B] and the next state."""
        ...


class _Push:
    """The windows of one push on their way through the network."""

    def __init__(self, lane: Lane, frames: Array, state: Array) -> None:
        self.lane = lane
        self.frames = frames
        self.state = state
        self.probabilities = np.empty(len(frames), np.float32)
        self.stepped = 0
        self.done: Future[None] = Future()

    def advance(self, probability: np.float32, state: Array) -> None:
        self.probabilities[self.stepped] = probability
        self.state = state.copy()  # a view would keep the whole batch's state alive
        self.stepped += 1
        if self.stepped == len(self.frames) and self.done.set_running_or_notify_cancel():
            self.done.set_result(None)

    def fail(self, error: VadError, cause: BaseException | None = None) -> None:
        error.__cause__ = cause
        if not self.done.done() and self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)


class VoiceDetector:
    """The shared service. At most ``capacity`` lanes, and one push of each, are ever in it.

    The default capacity is about what one core steps in real time. ``close`` ends every lane.
    """

    def __init__(self, model: SpeechModel, capacity: int = 1024) -> None:
        self._model = model
        self._capacity = capacity
        self._lanes: set[Lane] = set()
        self._waiting: list[_Push] = []
        self._batch: list[_Push] = []
        self._busy = False
        self._closed = False
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="voice-detector")

    @property
    def in_use(self) -> int:
        """How many lanes are open."""
        return len(self._lanes)

    def lane(self) -> Lane:
        """A new stream's lane; raises DetectorFull or DetectorClosed."""
        with self._lock:
            self._check_open()
            if len(self._lanes) >= self._capacity:
                raise DetectorFull(f"all {self._capacity} lanes of the voice detector are in use")
            lane = Lane(self)
            self._lanes.add(lane)
            return lane

    def close(self) -> None:
        """Fail what is waiting, and end the worker. Blocks for the step in progress."""
        with self._lock:
            self._closed = True
            lanes = tuple(self._lanes)
        for lane in lanes:
            lane.close()
        self._worker.shutdown()

    def _check_open(self) -> None:
        if self._closed:
            raise DetectorClosed("the voice detector was closed")

    def _leave(self, lane: Lane) -> None:
        with self._lock:
            self._lanes.discard(lane)

    def _submit(self, push: _Push) -> None:
        with self._lock:
            self._check_open()
            self._waiting.append(push)
            if not self._busy:
                self._busy = True
                self._start()

    def _start(self) -> None:
        """Queue the work and, behind it on the same thread, what follows from its outcome."""
        self._worker.submit(self._settle, self._worker.submit(self._work))

    def _work(self) -> None:
        """Step until nothing waits any more."""
        while self._gather():
            frames = np.stack([push.frames[push.stepped] for push in self._batch])
            state = np.stack([push.state for push in self._batch], axis=1)
            probabilities, state = self._model.step(frames, state)
            for row, push in enumerate(self._batch):
                push.advance(probabilities[row], state[:, row])

    def _gather(self) -> bool:
        """Let the waiting join the batch and the finished, cancelled and closed leave it."""
        with self._lock:
            pushes = [*self._batch, *self._waiting]
            self._waiting.clear()
        for push in pushes:
            if push.lane.closed:
                push.fail(DetectorClosed("the lane was closed"))
        self._batch = [push for push in pushes if not push.done.done()]
        return bool(self._batch)

    def _settle(self, outcome: Future[None]) -> None:
        """Tell the batch of its failure, if there was one, and go on with those that came since."""
        error = outcome.exception()
        for push in self._batch:
            push.fail(DetectorFailed(f"the voice detector failed: {error}"), error)
        self._batch = []
        with self._lock:
            self._busy = bool(self._waiting)
            if self._busy and not self._closed:
                try:
                    self._start()
                    return
                except RuntimeError:  # the interpreter is exiting: no thread takes new work
                    self._closed = True
            left, self._waiting = self._waiting, []
        for push in left:
            push.fail(DetectorClosed("the voice detector was closed"))


class Lane:
    """One stream's place in the detector: recurrent state, context and the incomplete window.

    One push at a time. A push that fails or is cancelled leaves the lane as it was before it.
    """

    def __init__(self, detector: VoiceDetector) -> None:
        self.closed = False
        self._detector = detector
        self._state = np.zeros((2, STATE), np.float32)
        self._samples = np.zeros(CONTEXT, np.float32)
        self._pushing = False

    async def push(self, samples: Array) -> Array:
        """Take float32 samples [n] at 16 kHz; probabilities [k] of the windows they complete.

        Raises ValueError for samples that are not float32 [n] or not finite, DetectorClosed and
        DetectorFailed. Windows that do not come out at once are stepped off the event loop.
        """
        with self._through(samples) as push:
            if len(push.frames):
                await asyncio.wrap_future(push.done)
            return push.probabilities

    def push_blocking(self, samples: Array) -> Array:
        """The same as ``push`` for callers without an event loop."""
        with self._through(samples) as push:
            if len(push.frames):
                push.done.result()
            return push.probabilities

    def close(self) -> None:
        """Give the lane back; a push that is waiting raises DetectorClosed."""
        self.closed = True
        self._detector._leave(self)

    @contextmanager
    def _through(self, samples: Array) -> Iterator[_Push]:
        """Send samples to the worker; the lane moves on when the caller has its answer."""
        self._check(samples)
        held = np.concatenate((self._samples, samples))
        windows = (len(held) - CONTEXT) // WINDOW
        push = _Push(self, _frames(held, windows), self._state)
        self._pushing = True
        try:
            if windows:
                self._detector._submit(push)
            yield push
        finally:
            self._pushing = False
        self._samples = held[windows * WINDOW :].copy()
        self._state = push.state

    def _check(self, samples: Array) -> None:
        if self.closed:
            raise DetectorClosed("the lane was closed")
        if self._pushing:
            raise RuntimeError("a lane takes one push at a time")
        good = samples.dtype == np.float32 and samples.ndim == 1
        if not (good and (np.abs(samples) <= _LOUDEST).all()):
            raise ValueError(
                f"audio must be float32 [n] within {_LOUDEST:g}, full scale being 1; "
                f"this is {samples.dtype} {list(samples.shape)}"
            )


def _frames(held: Array, windows: int) -> Array:
    """A view [windows, 576]: each window with the 64 samples before it."""
    if not windows:
        return np.empty((0, FRAME), np.float32)
    return np.lib.stride_tricks.sliding_window_view(held, FRAME)[::WINDOW]
