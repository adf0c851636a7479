"""Streaming log-mel: the same frames, to the bit, however the audio is cut or batched.

The maths is Whisper's with Voxtral's fixed ceiling: periodic Hann window, power spectrum, Slaney
mel filters, log10 floored at ``log_mel_max - 8``, then (x + 4) / 4. Frame k is centred on sample
``hop * k``, so it needs samples up to ``hop * k + n_fft / 2``.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from voxlive.checkpoints.config import AudioConfig

Floats = NDArray[np.float32]

_LINEAR_TOP_HZ = 1000.0
_HZ_PER_MEL = 200.0 / 3.0
_LOG_STEP = math.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    """Slaney's scale (Auditory Toolbox): linear up to 1 kHz, logarithmic above."""
    if hz < _LINEAR_TOP_HZ:
        return hz / _HZ_PER_MEL
    return _LINEAR_TOP_HZ / _HZ_PER_MEL + math.log(hz / _LINEAR_TOP_HZ) / _LOG_STEP


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    top = _LINEAR_TOP_HZ / _HZ_PER_MEL
    above = _LINEAR_TOP_HZ * np.exp(_LOG_STEP * (np.maximum(mel, top) - top))
    return np.where(mel < top, mel * _HZ_PER_MEL, above)


def mel_filters(config: AudioConfig) -> NDArray[np.float64]:
    """Triangles of equal area [n_fft / 2 + 1, mel_bins] from 0 Hz to half the sample rate."""
    nyquist = config.sample_rate / 2
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(nyquist), config.mel_bins + 2))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    hz = np.linspace(0.0, nyquist, config.n_fft // 2 + 1)[:, None]
    rise, fall = (hz - low) / (centre - low), (high - hz) / (high - centre)
    triangles: NDArray[np.float64] = np.maximum(0.0, np.minimum(rise, fall))
    return triangles * (2.0 / (high - low))


class MelFrontEnd:
    """The constants of a config, shared by all streams."""

    def __init__(self, config: AudioConfig, frames: int) -> None:
        """``frames`` is the number of frames worked out together, the mel frames per token."""
        self.config = config
        self.frames = frames
        self.samples = frames * config.hop
        turn = 2.0 * np.pi * np.arange(config.n_fft) / config.n_fft
        self._window = 0.5 - 0.5 * np.cos(turn)
        self._filters = mel_filters(config).astype(np.float32)

    def __call__(self, audio: Floats) -> Floats:
        """``audio [..., m * samples + n_fft - hop] -> [..., m * frames, mel_bins]``, no padding.

        Spectra are worked out in float64: in float32 a bin far below the frame's loudest is off
        by 1e-5. Products run group by group in one fixed shape: their sums do not depend on m.
        """
        config = self.config
        spans = np.lib.stride_tricks.sliding_window_view(audio, config.n_fft, axis=-1)
        spectrum = np.fft.rfft(spans[..., :: config.hop, :] * self._window, axis=-1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        groups = power.reshape(-1, self.frames, power.shape[-1])
        log: Floats = np.log10(np.maximum(groups @ self._filters, 1e-10))
        log = np.maximum(log, np.float32(config.log_mel_max - 8.0))
        return ((log + 4.0) / 4.0).reshape(*power.shape[:-1], config.mel_bins)

    def span(self, tokens: int) -> int:
        """Samples that so many tokens' frames are made of: the last one's look ahead included."""
        return tokens * self.samples + self.config.n_fft - self.config.hop


class Framer:
    """One stream's audio, cut into what the front end makes whole tokens of.

    Nothing is worked out here, so that the tokens of all streams go through the front end at once.
    """

    def __init__(self, front_end: MelFrontEnd) -> None:
        self._front_end = front_end
        # Left of the first sample is silence. A batch reflects the audio there instead, which is
        # the same for a stream that begins with silence.
        self._parts: deque[Floats] = deque([np.zeros(front_end.config.n_fft // 2, np.float32)])
        self._held = front_end.config.n_fft // 2

    @property
    def ready(self) -> int:
        """Tokens that are complete: one is when ``n_fft / 2 - hop`` samples after its end came."""
        return max(0, (self._held - self._front_end.span(0)) // self._front_end.samples)

    @property
    def missing(self) -> int:
        """Samples that complete a token where none is."""
        return self._front_end.span(1) - self._held

    def push(self, audio: Floats) -> None:
        """Take float32 samples [n], which must not change any more."""
        self._parts.append(audio)
        self._held += len(audio)

    def take(self, tokens: int) -> Floats:
        """The audio of the next ``tokens``, float32 [span(tokens)]; ValueError beyond ``ready``."""
        if tokens > self.ready:
            raise ValueError(f"{self.ready} tokens are complete, not {tokens}")
        need, parts, found = self._front_end.span(tokens), [], 0
        while found < need:
            parts.append(self._parts.popleft())
            found += len(parts[-1])
        audio = np.concatenate(parts) if len(parts) > 1 else parts[0]
        gone = tokens * self._front_end.samples
        self._parts.appendleft(audio[gone:])
        self._held -= gone
        return audio[:need]
