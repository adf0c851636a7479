"""The turn detector of a process: how likely a pause is the end of a turn, by how it sounds.

The network is Smart Turn 3.2, by Daily (BSD): an ONNX file of 8.7 MB that the package pipecat-ai
holds (``voxlive models fetch smart-turn``). Only the file is used. It takes the last 8 s before a
pause, with 0.2 s of the pause, as Whisper's log-mel features, and knows some 23 languages.

One network and one thread serve all sessions, as with the voice detector; who asks at the same time
is answered by one batch. It is loaded when the first session needs it.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from voxlive.checkpoints.packages import PARTS, packaged_folder
from voxlive.errors import UnsupportedOption, VadError
from voxlive.turns.tracker import CONTEXT
from voxlive.values import SAMPLE_RATE

Array = NDArray[np.float32]

MODEL = "smart-turn"
"""What ``voxlive models`` calls the network."""

_FFT = 400
_HOP = 160
_BANDS = 80
_FLOOR = 1e-10
_HZ_PER_MEL = 200 / 3
_LINEAR_MELS = 15.0  # up to 1 kHz; above, a mel is a step of a constant ratio
_LOG_STEP = np.log(6.4) / 27
_MAX_BATCH = 8


class TurnsMissing(UnsupportedOption):
    """The network's file is not on this machine."""

    def __init__(self) -> None:
        message = f"this server has no model for the end of a turn: voxlive models fetch {MODEL}"
        super().__init__(message, "turns")


class TurnsFailed(VadError):
    """The network cannot be loaded, or failed."""


def find_model() -> Path | None:
    """The network's file where it was brought here, else None."""
    folder = packaged_folder(MODEL)
    if folder is None:
        return None
    [name] = PARTS[MODEL].files
    return folder / name


class TurnModel(Protocol):
    """A network for the end of a turn; see ``SmartTurn.judge``."""

    def judge(self, audio: Sequence[Array]) -> Array:
        """The probability for each of these."""
        ...


class SmartTurn:
    """The loaded network. Raises TurnsMissing, and TurnsFailed where the file is another one."""

    def __init__(self, path: Path | None = None) -> None:
        path = path or find_model()
        if path is None:
            raise TurnsMissing
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != PARTS[MODEL].files[path.name].sha256:
            raise TurnsFailed(f"{path} is damaged: voxlive models fetch {MODEL} repairs it")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def judge(self, audio: Sequence[Array]) -> Array:
        """How likely a turn ends with each of these: float32 [n] at 16 kHz, of which 8 s count.

        Returns float32 [len(audio)], 0 to 1.
        """
        features = np.stack([log_mel(one) for one in audio])
        [probabilities] = self._session.run(None, {"input_features": features})
        judged: Array = probabilities[:, 0]
        return judged


def log_mel(audio: Array) -> Array:
    """Whisper's log-mel features [80, 800] of the last 8 s of float32 [n] at 16 kHz.

    Shorter audio has zeros before it. The wave has mean 0 and variance 1, zeros included.
    """
    wave = np.zeros(CONTEXT, np.float32)
    if len(audio):
        wave[-min(len(audio), CONTEXT) :] = audio[-CONTEXT:]
    wave = (wave - wave.mean()) / np.sqrt(wave.var() + np.float32(1e-7))
    frames = sliding_window_view(np.pad(wave, _FFT // 2, mode="reflect"), _FFT)[::_HOP][:-1]
    window = np.hanning(_FFT + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    log = np.log10(np.maximum(power @ _filters(), _FLOOR)).T
    scaled: Array = ((np.maximum(log, log.max() - 8) + 4) / 4).astype(np.float32)
    return scaled


@cache
def _filters() -> NDArray[np.float64]:
    """Slaney's triangles of equal area [201, 80], from 0 Hz to 8 kHz."""
    top = _LINEAR_MELS + np.log(SAMPLE_RATE / 2 / (_LINEAR_MELS * _HZ_PER_MEL)) / _LOG_STEP
    mels = np.linspace(0, top, _BANDS + 2)
    above = _LINEAR_MELS * np.exp(_LOG_STEP * (np.maximum(mels, _LINEAR_MELS) - _LINEAR_MELS))
    edges = np.where(mels < _LINEAR_MELS, mels, above) * _HZ_PER_MEL
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1)[:, None]
    rise, fall = (bins - low) / (middle - low), (high - bins) / (high - middle)
    filters: NDArray[np.float64] = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
    return filters


class TurnDetector:
    """One network shared by all sessions, on a thread of its own.

    Bound: one question of each session. ``model`` None: Smart Turn, loaded for the first one.
    """

    def __init__(self, model: TurnModel | None = None) -> None:
        self._model = model
        self._waiting: list[tuple[Array, Future[float]]] = []
        self._asked: list[tuple[Array, Future[float]]] = []  # the thread's
        self._lock = threading.Lock()
        self._worker: ThreadPoolExecutor | None = None
        self._closed = False

    def prepare(self) -> None:
        """Have the network loaded, on its thread. Raises TurnsMissing where it is not here."""
        if self._model is None and find_model() is None:
            raise TurnsMissing
        self._submit()

    async def judge(self, audio: Array) -> float:
        """How likely a turn ends with this audio: see ``SmartTurn.judge``. Raises TurnsFailed."""
        done: Future[float] = Future()
        with self._lock:
            self._waiting.append((audio, done))
        self._submit()
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """End the thread; who waits is told so. Blocks for one batch."""
        with self._lock:
            self._closed = True
            worker, self._worker = self._worker, None
        if worker:
            worker.shutdown()
        self._fail(TurnsFailed("the turn detector was closed"))

    def _submit(self) -> None:
        with self._lock:
            if self._closed:
                raise TurnsFailed("the turn detector was closed")
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="turn-detector")
            self._worker.submit(self._on_answered, self._worker.submit(self._answer))

    def _answer(self) -> None:
        """Load the network unless it is, and answer who waits, a batch at most."""
        with self._lock:
            batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
        self._asked = [one for one in batch if one[1].set_running_or_notify_cancel()]
        if self._model is None:
            self._model = SmartTurn()
        if self._asked:
            judged = self._model.judge([audio for audio, _ in self._asked])
            for (_, done), probability in zip(self._asked, judged, strict=True):
                done.set_result(float(probability))

    def _on_answered(self, outcome: Future[None]) -> None:
        """Fail the batch if the network did."""
        if error := outcome.exception():
            failed = TurnsFailed(f"the turn detector failed: {error}")
            failed.__cause__ = error
            for _, done in self._asked:
                if not done.done():
                    done.set_exception(failed)
        self._asked = []

    def _fail(self, error: TurnsFailed) -> None:
        with self._lock:
            left, self._waiting = self._waiting, []
        for _, done in left:
            if done.set_running_or_notify_cancel():
                done.set_exception(error)
