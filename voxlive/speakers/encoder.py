"""The speaker encoder: a voice to a vector. The best one that is here is used.

That is CAM++ (``onnx.py``) where it was fetched from the hub, else one in NumPy. Its network is
Resemblyzer's (Apache-2.0), after Wan et al. 2018, "Generalized end-to-end loss for speaker
verification": three LSTM layers of 256 over 40 mel bands, 1.6 s at a time, and 256 numbers of
length 1. The package Resemblyzer holds its weights (``voxlive models fetch speaker-encoder``): a
pickle, which is read here by an unpickler that makes nothing but arrays.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from voxlive.checkpoints.packages import (
    BETTER_SPEAKER_MODEL,
    SPEAKER_MODEL,
    speaker_model,
)
from voxlive.layers.mel import FFT, HOP, mel_power
from voxlive.speakers.onnx import OnnxSpeakerEncoder
from voxlive.speakers.tracker import EncodedSpeakers, Likeness, SpeakerOptions, Speakers
from voxlive.vad.gate import GateOptions
from voxlive.vad.network import Array, Network, NetworkMissing, SharedNetwork, read_network

_BANDS = 40
_LAYERS, _WIDTH = 3, 256
_LOUDNESS = 10 ** (-30 / 20)
_HALF = np.float32(0.5)


class SpeakersMissing(NetworkMissing):
    """The network's file is not on this machine."""

    def __init__(self) -> None:
        message = (
            f"this server has no model that knows voices: voxlive models fetch {SPEAKER_MODEL}, or "
            f"{BETTER_SPEAKER_MODEL}, which is on the hub"
        )
        super().__init__(message, "diarize")


class _Weights(pickle.Unpickler):
    """Makes arrays of a checkpoint in torch's older format, and refuses whatever else it names."""

    def find_class(self, module: str, name: str) -> Any:
        """What a checkpoint of tensors needs."""
        match module, name:
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, at, size, *_: (storage, at, size)
            case "torch._utils", "_rebuild_parameter":
                return lambda data, *_: data
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch", "FloatStorage":
                return name
        raise pickle.UnpicklingError(f"{module}.{name} is no array")

    def persistent_load(self, pid: Any) -> str:
        """The key of a storage, which follows."""
        return str(pid[2])


def read_weights(content: bytes) -> dict[str, Array]:
    """The tensors of ``model_state`` by name, float32. Raises UnpicklingError for others."""
    file = io.BytesIO(content)
    storages: dict[str, Array] = {}
    for _ in range(3):  # magic number, version, system
        _Weights(file).load()
    saved = _Weights(file).load()
    keys = _Weights(file).load()
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storages[key] = np.frombuffer(file.read(4 * count), np.float32)
    tensors = {}
    for name, (key, at, size) in saved["model_state"].items():
        length = int(np.prod(size))
        tensors[name] = storages[key][at : at + length].reshape(size)
    return tensors


def mel(audio: Array) -> Array:
    """Power in 40 bands [n // 160, 40] of float32 [n]; what is quiet is made louder."""
    level = float(np.sqrt(np.mean(audio**2)))
    if 0 < level < _LOUDNESS:
        audio = audio * np.float32(_LOUDNESS / level)
    return mel_power(np.pad(audio, FFT // 2), len(audio) // HOP, _BANDS).astype(np.float32)


class SpeakerModel(Protocol):
    """A network that makes vectors of voices; see ``SpeakerEncoder.embed``."""

    likeness: Likeness

    def embed(self, audio: Array) -> Array:
        """A vector of length 1."""
        ...


class SpeakerEncoder:
    """The loaded network. Raises SpeakersMissing, and NetworkFailed for another file."""

    likeness = Likeness()

    def __init__(self, path: Path | None = None) -> None:
        weights = read_weights(read_network(SPEAKER_MODEL, SpeakersMissing, path))
        self._layers = [
            (
                weights[f"lstm.weight_ih_l{layer}"].T.copy(),
                weights[f"lstm.weight_hh_l{layer}"].T.copy(),
                weights[f"lstm.bias_ih_l{layer}"] + weights[f"lstm.bias_hh_l{layer}"],
            )
            for layer in range(_LAYERS)
        ]
        self._out = weights["linear.weight"].T.copy(), weights["linear.bias"]

    def embed(self, audio: Array) -> Array:
        """The vector [256] of float32 [n] at 16 kHz, 160 samples at least; its length is 1."""
        x = mel(audio)
        for to_gates, from_state, bias in self._layers:
            x = _lstm(x @ to_gates + bias, from_state)
        weights, bias = self._out
        raw: Array = np.maximum(x[-1] @ weights + bias, 0)
        vector: Array = raw / np.float32(max(float(np.linalg.norm(raw)), 1e-6))
        return vector


def _lstm(given: Array, from_state: Array) -> Array:
    """A layer's outputs [n, 256], of what its gates [n, 1024] are given at every step."""
    state = cell = np.zeros(_WIDTH, np.float32)
    outs = np.empty((len(given), _WIDTH), np.float32)
    for at, step in enumerate(given):
        enter, keep, new, leave = np.split(step + state @ from_state, 4)
        cell = _sigmoid(keep) * cell + _sigmoid(enter) * np.tanh(new)
        state = outs[at] = _sigmoid(leave) * np.tanh(cell)
    return outs


def _sigmoid(x: Array) -> Array:
    # As 1 / (1 + exp(-x)), which would overflow.
    shares: Array = _HALF * np.tanh(_HALF * x) + _HALF
    return shares


def load_encoder(name: str | None = None) -> SpeakerModel:
    """The part of this name, or the best one that is here. Blocks.

    Raises SpeakersMissing, and NetworkFailed for a file that is damaged.
    """
    name = name or speaker_model()
    if name == BETTER_SPEAKER_MODEL:
        return OnnxSpeakerEncoder(read_network(name, SpeakersMissing, None), name)
    return SpeakerEncoder()


class SpeakerDetector(SharedNetwork[Array]):
    """The one of a process. ``model`` None: the best encoder, loaded for the first session."""

    def __init__(self, model: SpeakerModel | None = None) -> None:
        super().__init__(
            "speaker detector",
            lambda: _embed(model or load_encoder(self._encoder)),
            lambda: None if model or speaker_model() else SpeakersMissing(),
        )
        self._model = model
        self._chosen: str | None = None

    @property
    def likeness(self) -> Likeness:
        """How alike the vectors of one voice are."""
        if self._model:
            return self._model.likeness
        better = self._encoder == BETTER_SPEAKER_MODEL
        return OnnxSpeakerEncoder.likeness if better else SpeakerEncoder.likeness

    @property
    def _encoder(self) -> str | None:
        # Whatever is fetched later, what was heard is compared with vectors of the same encoder.
        self._chosen = self._chosen or speaker_model()
        return self._chosen

    def speakers(self, options: SpeakerOptions, gate: GateOptions, at: int) -> Speakers:
        """Those of a stream. Raises SpeakersMissing."""
        return EncodedSpeakers(self, options, gate, at)


def _embed(model: SpeakerModel) -> Network[Array]:
    return lambda audio: [model.embed(one) for one in audio]
