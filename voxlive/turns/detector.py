"""The turn detector of a process: how likely a pause is the end of a turn, by how it sounds.

The network is Smart Turn 3.2, by Daily (BSD): an ONNX file of 8.7 MB that the package pipecat-ai
holds (``voxlive models fetch smart-turn``). Only the file is used. It takes the last 8 s before a
pause, with 0.2 s of the pause, as Whisper's log-mel features, and knows some 23 languages.

One network and one thread serve all sessions, as with the voice detector; who asks at the same time
is answered by one batch. It is loaded when the first session needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

from voxlive.checkpoints.packages import part_file
from voxlive.layers.mel import FFT, HOP, mel_power
from voxlive.turns.tracker import CONTEXT
from voxlive.vad.network import Array, Network, NetworkMissing, SharedNetwork, read_network

MODEL = "smart-turn"
"""What ``voxlive models`` calls the network."""

_BANDS = 80
_FLOOR = 1e-10


class TurnsMissing(NetworkMissing):
    """The network's file is not on this machine."""

    def __init__(self) -> None:
        message = f"this server has no model for the end of a turn: voxlive models fetch {MODEL}"
        super().__init__(message, "turns")


def find_model() -> Path | None:
    """The network's file where it was brought here, else None."""
    return part_file(MODEL)


class TurnModel(Protocol):
    """A network for the end of a turn; see ``SmartTurn.judge``."""

    def judge(self, audio: Sequence[Array]) -> Array:
        """The probability for each of these."""
        ...


class SmartTurn:
    """The loaded network. Raises TurnsMissing, and NetworkFailed where the file is another one."""

    def __init__(self, path: Path | None = None) -> None:
        content = read_network(MODEL, TurnsMissing, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Without it sums of this int8 network overflow on x86 that has AVX2 and no VNNI.
        options.add_session_config_entry("session.x64quantprecision", "1")
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
    power = mel_power(np.pad(wave, FFT // 2, mode="reflect"), CONTEXT // HOP, _BANDS)
    log = np.log10(np.maximum(power, _FLOOR)).T
    scaled: Array = ((np.maximum(log, log.max() - 8) + 4) / 4).astype(np.float32)
    return scaled


class TurnDetector(SharedNetwork[float]):
    """The one of a process. ``model`` None: Smart Turn, loaded for the first session."""

    def __init__(self, model: TurnModel | None = None) -> None:
        super().__init__(
            "turn detector",
            lambda: _judge(model or SmartTurn()),
            lambda: None if model or find_model() else TurnsMissing(),
        )


def _judge(model: TurnModel) -> Network[float]:
    return lambda audio: [float(one) for one in model.judge(audio)]
