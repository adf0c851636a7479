"""Silero 6: the probability of speech in each window of 512 samples, for many streams at once.

The network is the ONNX file that the silero-vad package carries. Only its file is used: importing
the package would import torch.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .gate import SAMPLE_RATE, WINDOW

CONTEXT = 64
FRAME = CONTEXT + WINDOW
STATE = 128

Array = NDArray[np.float32]

_FILE = "silero_vad/data/silero_vad_16k_op15.onnx"
_REMEDY = "install it with: pip install --no-deps 'silero-vad>=6.2,<7'"


class VadError(Exception):
    """The voice detector cannot do what it was asked; the message says what to do."""


class SileroMissing(VadError):
    """The network's file is not on this machine."""


def find_model() -> Path:
    """Where the installed silero-vad package keeps the network; raises SileroMissing."""
    try:
        package = metadata.distribution("silero-vad")
    except metadata.PackageNotFoundError:
        raise SileroMissing(f"the package silero-vad is not installed; {_REMEDY}") from None
    path = Path(str(package.locate_file(_FILE)))
    if not path.is_file():
        raise SileroMissing(f"silero-vad {package.version} carries no file {path}; {_REMEDY}")
    return path


class Silero:
    """The loaded network. It keeps nothing between calls: each row's state is its caller's."""

    def __init__(self, path: Path | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(path or find_model()), options, providers=["CPUExecutionProvider"]
        )
        self._rate = np.array(SAMPLE_RATE, np.int64)
        # A network of another shape fails here, at start, and not under the first session.
        self.step(np.zeros((1, FRAME), np.float32), np.zeros((2, 1, STATE), np.float32))

    def step(self, frames: Array, state: Array) -> tuple[Array, Array]:
        """One window of each row: probabilities [B] and the state [2, B, 128] after it.

        ``frames`` is [B, 576]: the 64 samples before the window, then its 512, in -1..1. A
        stream's first context and its first ``state`` [2, B, 128] are zeros.
        """
        inputs = {"input": frames, "state": state, "sr": self._rate}
        probabilities, state = self._session.run(["output", "stateN"], inputs)
        return probabilities[:, 0], state
