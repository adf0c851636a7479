"""What the trained tiny Voxtral of tests/models is tested with: see tests/models/README.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxlive.streaming.ingest.media import read_file

MODELS = Path(__file__).parents[1] / "models"
TINY_VOXTRAL = MODELS / "tiny-voxtral"
VOICES = ("awb", "kal16", "rms", "slt", "en-us")


@dataclass(frozen=True)
class HeldOutSentence:
    """Lower-case words without punctuation; seconds in the recording, ``ends`` of its words."""

    text: str
    start: float
    end: float
    ends: tuple[float, ...]


@dataclass(frozen=True)
class HeldOutRecording:
    """A recording and what is said in it."""

    name: str
    sentences: tuple[HeldOutSentence, ...]

    @cached_property
    def samples(self) -> NDArray[np.float32]:
        """float32 [n] at 16 kHz."""
        return np.concatenate(list(read_file(MODELS / "held_out" / self.name)))

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.sentences)

    @property
    def ends(self) -> list[float]:
        return [end for sentence in self.sentences for end in sentence.ends]


@cache
def _said() -> dict[str, list[dict]]:
    return json.loads((MODELS / "held_out" / "held_out.json").read_text())


def recording(name: str) -> HeldOutRecording:
    """A file of tests/models/held_out."""
    sentences = (
        HeldOutSentence(said["text"], said["start"], said["end"], tuple(said["ends"]))
        for said in _said()[name]
    )
    return HeldOutRecording(name, tuple(sentences))


def recording_names() -> list[str]:
    """Every file, in order."""
    return sorted(_said())


def exact_names() -> list[str]:
    """The ten sentences kept exactly as synthesised."""
    return [name for name in _said() if name.endswith(".flac")]
