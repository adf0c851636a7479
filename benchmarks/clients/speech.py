"""What the scripts beside this one share: a clip of tests/audio, and a line for each service."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

AUDIO = Path(__file__).parents[2] / "tests" / "audio"
RATE = 16_000


@dataclass(frozen=True)
class Speech:
    """16-bit mono PCM at 16 kHz, which ends with two seconds of silence, and what is said."""

    pcm: bytes
    text: str

    def chunks(self, ms: int) -> list[bytes]:
        size = RATE * ms // 1000 * 2
        return [self.pcm[at : at + size] for at in range(0, len(self.pcm), size)]


def load(name: str) -> Speech:
    """A clip of tests/audio, or any recording at 16 kHz with its text beside it (.txt)."""
    file = Path(name) if Path(name).suffix else AUDIO / f"{name}.flac"
    samples, rate = soundfile.read(file, dtype="int16")
    assert rate == RATE, f"{name} is not at {RATE} Hz"
    silence = np.zeros(2 * RATE, np.int16)
    if Path(name).suffix:
        text = file.with_suffix(".txt").read_text()
    else:
        text = json.loads((AUDIO / "clips.json").read_text())[name]["text"]
    return Speech(np.concatenate([samples, silence]).tobytes(), text)


def report(service: str, finals: list[str], interims: int, turns: int, speech: Speech) -> bool:
    """Print how many of the words said were heard, in how many finals; whether most were.

    ``turns``: how often the client has learnt that somebody has finished speaking.
    """
    said, heard = _words(speech.text), _words(" ".join(finals))
    found = len(said & heard)
    counts = f"{len(finals)} finals, {interims} interims, {turns} turns"
    print(f"{service:34} {found:2}/{len(said):2} words, {counts}")
    print(f"{'':34} {' | '.join(finals)}")
    sys.stdout.flush()
    return found > 0.7 * len(said)


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))
