"""Speaker encoders as 3D-Speaker and WeSpeaker publish them: ONNX files, on the CPU.

CAM++ (Wang et al. 2023, "CAM++: a fast and efficient network for speaker verification using
context-aware masking"; 3D-Speaker, Apache-2.0) is the one that voxlive knows by hash. They take
Kaldi's log-mel filter banks (80, 25 ms every 10 ms, Povey's window), from which their mean over
time is taken off. sherpa-onnx's collection holds many and says in their metadata what they take.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime

from voxlive.speakers.tracker import Likeness
from voxlive.vad.network import Array, NetworkFailed
from voxlive.values import SAMPLE_RATE

_BANDS, _FRAME, _HOP, _FFT = 80, 400, 160, 512
_LOWEST_HZ = 20.0
_PREEMPHASIS = np.float32(0.97)
_FLOOR = np.finfo(np.float32).eps
_INT16 = np.float32(32768)


class OnnxSpeakerEncoder:
    """The network that ``content`` holds; ``name`` is for messages.

    Raises NetworkFailed for a network that takes something else.
    """

    # Of 11 people's vectors of 0.8 to 1.6 s 99 % of pairs of two people are below 0.32, 99 % of
    # one person's above 0.55; means of several are below 0.37 and above 0.71.
    likeness = Likeness(same=0.42, other=0.34, one=0.5, profile=0.55)

    def __init__(self, content: bytes, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # exported graphs hold what nothing uses
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self._input = _checked_input(self._session, name)
        said = self._session.get_modelmeta().custom_metadata_map
        if said.get("sample_rate", str(SAMPLE_RATE)) != str(SAMPLE_RATE):
            raise NetworkFailed(f"{name} takes {said['sample_rate']} Hz, not {SAMPLE_RATE}")
        self._scale = np.float32(1) if said.get("normalize_samples") == "1" else _INT16

    def embed(self, audio: Array) -> Array:
        """The vector [width] of float32 [n] at 16 kHz, 400 samples at least; its length is 1."""
        features = filter_banks(audio * self._scale)
        features -= features.mean(0)
        [vectors] = self._session.run(None, {self._input: features[None]})
        raw: Array = np.asarray(vectors, np.float32).reshape(-1)
        vector: Array = raw / np.float32(max(float(np.linalg.norm(raw)), 1e-6))
        return vector


def _checked_input(session: onnxruntime.InferenceSession, name: str) -> str:
    """The name of the one input, [batch, frames, 80]."""
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 3 or shape[2] != _BANDS:
        wanted = f"one input of {_BANDS} filter banks, as those of 3D-Speaker and WeSpeaker have"
        raise NetworkFailed(f"{name} is no speaker encoder with {wanted}")
    found: str = inputs[0].name
    return found


def filter_banks(audio: Array) -> Array:
    """Kaldi's log-mel filter banks [(n - 400) // 160 + 1, 80] of float32 [n] at 16 kHz.

    As ``compute-fbank-feats --num-mel-bins=80 --dither=0`` (Kaldi, feat/feature-fbank.cc).
    """
    if len(audio) < _FRAME:
        audio = np.pad(audio, (0, _FRAME - len(audio)))
    frames = np.lib.stride_tricks.sliding_window_view(audio, _FRAME)[::_HOP]
    frames = frames - frames.mean(1, keepdims=True)
    before = np.concatenate((frames[:, :1], frames[:, :-1]), 1)
    frames = (frames - _PREEMPHASIS * before) * _window()
    power = np.abs(np.fft.rfft(frames, _FFT)[:, : _FFT // 2]) ** 2
    banks: Array = np.log(np.maximum(power @ _triangles(), _FLOOR)).astype(np.float32)
    return banks


@cache
def _window() -> Array:
    """Povey's: a Hann window to the power of 0.85."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FRAME) / (_FRAME - 1))
    window: Array = (hann**0.85).astype(np.float32)
    return window


@cache
def _triangles() -> Array:
    """Bands [256, 80] whose edges are equally far from one another on the mel scale."""

    def mel(hz: Array) -> Array:
        return 1127 * np.log1p(hz / 700)

    low, high = mel(np.array([_LOWEST_HZ, SAMPLE_RATE / 2]))
    edges = np.linspace(low, high, _BANDS + 2)
    bins = mel(np.arange(_FFT // 2) * (SAMPLE_RATE / _FFT))[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles: Array = np.maximum(np.minimum(rising, falling), 0).astype(np.float32)
    return triangles
