"""The held-out sentences in the five voices, spoken anew."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.tiny_voxtral.model import SAMPLE_RATE
from training.tiny_voxtral.rows import AUDIBLE
from training.tiny_voxtral.synthesis import ESPEAK_VOICE, FLITE_VOICES, Style, speak

VOICES = (*FLITE_VOICES, ESPEAK_VOICE)
SENTENCES = Path(__file__).with_name("held_out.txt")


@dataclass(frozen=True)
class VoiceClip:
    """One sentence in one voice: s16 audio at 16 kHz and the sample at which each word ends."""

    voice: str
    sentence: int
    words: list[str]
    ends: list[int]
    audio: np.ndarray

    def samples(self) -> np.ndarray:
        """The audio as float32 in -1..1."""
        return self.audio.astype(np.float32) / 32768

    def trimmed(self, lead: float, tail: float) -> VoiceClip:
        """The same with exactly `lead` and `tail` seconds of digital silence around the speech."""
        heard = np.flatnonzero(np.abs(self.audio) > AUDIBLE)
        before, after = int(lead * SAMPLE_RATE), int(tail * SAMPLE_RATE)
        audio = np.pad(self.audio[heard[0] : heard[-1] + 1], (before, after))
        ends = [max(0, end - int(heard[0])) + before for end in self.ends]
        return VoiceClip(self.voice, self.sentence, self.words, ends, audio)


def spoken(programs: Path) -> list[VoiceClip]:
    """Every held-out sentence in every voice, at the voices' own tempo and pitch."""
    lines = SENTENCES.read_text().splitlines()
    clips: list[VoiceClip] = []
    with tempfile.TemporaryDirectory() as folder:
        requests, prefix = Path(folder, "requests"), Path(folder, "clips")
        for voice in VOICES:
            style = Style(voice)
            requests.write_text("".join(style.request(i, line) for i, line in enumerate(lines)))
            speak(requests, prefix, programs, voice == ESPEAK_VOICE)
            audio, at = np.fromfile(prefix.with_suffix(".pcm"), np.int16), 0
            for line in prefix.with_suffix(".tsv").read_text().splitlines():
                number, _, samples, table = line.split("\t")
                words, ends = zip(*(part.rsplit(":", 1) for part in table.split(" ")), strict=True)
                piece = audio[at : at + int(samples)]
                clips.append(
                    VoiceClip(voice, int(number), list(words), list(map(int, ends)), piece)
                )
                at += int(samples)
    return clips
