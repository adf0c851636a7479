"""The clips of tests/audio: ``clip("minute")`` gives samples, text and true times.

doctor, market, message, train, yes: one or two sentences at 16 kHz. library: 22.05 kHz.
phone: 8 kHz. stereo: 44.1 kHz, a speaker on each channel. pauses: 0.3 to 10 s between sentences.
noisy: noise 20 dB below the speech. noise, silence: nothing but that. minute: the reference clip
for live tests.
"""

from __future__ import annotations

import json
import wave
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import av
import numpy as np
import soxr
from numpy.typing import NDArray

FOLDER = Path(__file__).parents[1] / "audio"


@dataclass(frozen=True)
class SpokenWord:
    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Sentence:
    """``words`` is empty where the synthesiser does not tell their times."""

    text: str
    start: float
    end: float
    words: tuple[SpokenWord, ...]


@dataclass(frozen=True)
class Clip:
    """One clip; all times are in seconds. It ends with one second of digital silence."""

    name: str
    path: Path
    text: str
    rate: int
    channels: int
    frames: int
    pauses: tuple[tuple[float, float], ...]
    sentences: tuple[Sentence, ...]

    @property
    def duration(self) -> float:
        return self.frames / self.rate

    @property
    def words(self) -> tuple[SpokenWord, ...]:
        return tuple(word for sentence in self.sentences for word in sentence.words)

    @cached_property
    def pcm(self) -> NDArray[np.int16]:
        """The file as it is: int16 [frames, channels]."""
        with av.open(str(self.path)) as container:
            parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
        pcm = np.concatenate([part.reshape(-1, self.channels) for part in parts])
        pcm.flags.writeable = False
        return pcm

    @cached_property
    def samples(self) -> NDArray[np.float32]:
        """float32 mono [n] at 16 kHz, resampled whole and in one go."""
        mono = (self.pcm.astype(np.float32) / 32768).mean(axis=1)
        mono = mono if self.rate == 16_000 else soxr.resample(mono, self.rate, 16_000)
        mono.flags.writeable = False
        return mono

    @property
    def speech(self) -> NDArray[np.float32]:
        """``samples`` of the sentences alone, without the pauses."""
        bounds = ((round(s.start * 16_000), round(s.end * 16_000)) for s in self.sentences)
        parts = (self.samples[start:end] for start, end in bounds)
        return np.concatenate([self.samples[:0], *parts])

    def write_wav(self, path: Path) -> Path:
        """Write the clip as 16-bit WAV, for a browser's fake microphone and the like."""
        return write_wav(path, self.pcm.tobytes(), self.rate, self.channels)


@cache
def two_people() -> NDArray[np.float32]:
    """``doctor``, ``market`` in another voice, and ``doctor`` again, as ``Clip.samples``."""
    first, other = clip("doctor").samples, clip("market").samples
    pause = np.zeros(16_000, np.float32)
    return np.concatenate([first, pause, other, pause, first])


def write_wav(path: Path, s16le: bytes, rate: int = 16_000, channels: int = 1) -> Path:
    """A file for a browser's fake microphone and the like."""
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, len(s16le) // 2 // channels, "NONE", ""))
        file.writeframes(s16le)
    return path


@cache
def _entries() -> dict[str, dict]:
    return json.loads((FOLDER / "clips.json").read_text())


def names() -> tuple[str, ...]:
    return tuple(_entries())


@cache
def clip(name: str) -> Clip:
    entry = _entries()[name]
    sentences = tuple(
        Sentence(
            said["text"],
            said["start"],
            said["end"],
            tuple(SpokenWord(*word) for word in said["words"] or ()),
        )
        for said in entry["sentences"]
    )
    return Clip(
        name=name,
        path=FOLDER / f"{name}.flac",
        text=entry["text"],
        rate=entry["rate"],
        channels=entry["channels"],
        frames=entry["frames"],
        pauses=tuple(tuple(pause) for pause in entry["pauses"]),
        sentences=sentences,
    )


def late(name: str, seconds: int, folder: Path) -> Path:
    """A clip of one channel behind so much silence, as a WAV in a folder."""
    spoken = clip(name)
    with wave.open(str(folder / "late.wav"), "wb") as file:
        file.setparams((1, 2, spoken.rate, 0, "NONE", ""))
        file.writeframes(bytes(2 * spoken.rate * seconds) + spoken.pcm.tobytes())
    return folder / "late.wav"
