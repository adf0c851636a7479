"""Make the test clips and clips.json beside this file: needs flite, espeak-ng and sox.

Run by hand (``python tests/audio/make_clips.py``) when a clip is to change. Texts are kept to words
of the US English pronouncing dictionary. Every clip ends with one second of digital silence.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import wave
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TAIL_S = 1.0


@dataclass
class SynthesisedSentence:
    """One sentence: int16 audio [n] at ``rate``, and [text, start, end] of its words in seconds.

    ``words`` is None where the synthesiser does not tell; ``start`` and ``end`` bound the speech.
    """

    text: str
    audio: np.ndarray
    rate: int
    start: float
    end: float
    words: list[list] | None


@dataclass
class Track:
    """Sentences and pauses laid end to end."""

    rate: int = 16_000
    audio: list[np.ndarray] = field(default_factory=list)
    sentences: list[dict] = field(default_factory=list)

    @property
    def length(self) -> int:
        return sum(map(len, self.audio))

    def say(self, voice: str, text: str) -> None:
        said = synthesise(voice, text)
        assert said.rate == self.rate, (voice, said.rate)
        at = self.length / self.rate
        words = said.words and [[w, round(s + at, 3), round(e + at, 3)] for w, s, e in said.words]
        start, end = round(said.start + at, 3), round(said.end + at, 3)
        self.sentences.append({"text": text, "start": start, "end": end, "words": words})
        self.audio.append(said.audio)

    def pause(self, seconds: float) -> None:
        self.audio.append(np.zeros(round(seconds * self.rate), np.int16))

    def samples(self) -> np.ndarray:
        return np.concatenate(self.audio)


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def read_wav(path: Path) -> tuple[int, np.ndarray]:
    with wave.open(str(path)) as file:
        data = file.readframes(file.getnframes())
        return file.getframerate(), np.frombuffer(data, np.int16).reshape(-1, file.getnchannels())


def write_wav(path: Path, rate: int, audio: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((audio.shape[1], 2, rate, 0, "NONE", ""))
        file.writeframes(audio.astype(np.int16).tobytes())


def phones(*options: str) -> list[str]:
    return run("flite", *options, "none").split()


def flite_words(voice: str, text: str) -> list[list]:
    """Give the words of ``text`` their times from the ends flite prints for its phones.

    flite does not print which phone belongs to which word, so each word is also spoken alone and
    its phones are counted; the counts must add up to those of the sentence.
    """
    timed = [(p, float(end)) for p, end in (item.split(":") for item in _durations(voice, text))]
    spoken, start = [], 0.0
    for phone, end in timed:
        if phone != "pau":
            spoken.append((start, end))
        start = end
    words, at = [], 0
    for word in re.findall(r"[A-Za-z']+", text):
        count = sum(p != "pau" for p in phones("-voice", voice, "-ps", "-t", f"{word} "))
        words.append([word, round(spoken[at][0], 3), round(spoken[at + count - 1][1], 3)])
        at += count
    assert at == len(spoken), f"{text!r}: {at} phones in its words, {len(spoken)} in the sentence"
    return words


def _durations(voice: str, text: str) -> list[str]:
    return phones("-voice", voice, "-psdur", "-t", f"{text} ")


def synthesise(voice: str, text: str) -> SynthesisedSentence:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        if voice.startswith("espeak:"):
            run("espeak-ng", "-v", voice.removeprefix("espeak:"), "-s", "150", "-w", path, text)
        else:
            run("flite", "-voice", voice, "-t", f"{text} ", "-o", path)
        rate, audio = read_wav(path)
    mono = audio[:, 0]
    if voice.startswith("espeak:"):
        loud = np.flatnonzero(np.abs(mono.astype(np.int32)) > 150)
        return SynthesisedSentence(text, mono, rate, loud[0] / rate, loud[-1] / rate, None)
    words = flite_words(voice, text)
    return SynthesisedSentence(text, mono, rate, words[0][1], words[-1][2], words)


def resample(audio: np.ndarray, rate: int, to: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.wav", Path(folder) / "b.wav"
        write_wav(source, rate, audio)
        run("sox", "-D", "-G", source, "-r", str(to), target, "rate", "-v")
        return read_wav(target)[1]


def noise(n: int, dbfs: float, seed: int, slope: float = 0.0) -> np.ndarray:
    """Noise of ``n`` samples at level (RMS against full scale) ``dbfs``; power goes as f^-slope."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=n))
    spectrum /= np.maximum(np.fft.rfftfreq(n, 1 / n), 1) ** (slope / 2)
    wave_ = np.fft.irfft(spectrum, n)
    return wave_ * (32768 * 10 ** (dbfs / 20) / np.sqrt(np.mean(wave_**2)))


def save(name: str, track: Track, audio: np.ndarray | None = None, rate: int | None = None) -> dict:
    """Write one FLAC and return its entry; ``audio`` replaces the track's own, at ``rate``."""
    rate = rate or track.rate
    audio = track.samples() if audio is None else audio
    audio = audio.reshape(len(audio), -1)
    tail = np.zeros((round(TAIL_S * rate), audio.shape[1]))
    audio = np.concatenate([np.clip(np.rint(audio), -32768, 32767), tail])
    with tempfile.TemporaryDirectory() as folder:
        write_wav(path := Path(folder) / "clip.wav", rate, audio)
        run("sox", "-D", path, "-C", "8", HERE / f"{name}.flac")
    spoken = track.sentences
    pauses = [[a["end"], b["start"]] for a, b in pairwise(spoken)]
    return {
        "text": " ".join(sentence["text"] for sentence in spoken),
        "rate": rate,
        "channels": audio.shape[1],
        "frames": len(audio),
        "pauses": pauses,
        "sentences": spoken,
    }


def speech(
    voice: str, *sentences: str, pauses: tuple[float, ...] = (), rate: int = 16_000
) -> Track:
    track = Track(rate)
    gaps = pauses or (0.2,) * (len(sentences) - 1)
    for sentence, gap in zip(sentences, (*gaps, 0.0), strict=True):
        track.say(voice, sentence)
        track.pause(gap)
    return track


MINUTE = (
    "Every morning I walk down to the river with my dog.",
    "We leave the house at six, before most people are awake.",
    "In the winter it is still dark, and the street is very quiet.",
    "The baker on the corner is always working, and the smell of fresh bread fills the air.",
    "Sometimes he gives us a small piece of cake.",
    "At the bridge we stop and look at the water.",
    "There are ducks, and on a good day we see a large gray bird standing in the mud.",
    "After that we turn left and follow the path through the park.",
    "Children ride their bicycles to school, and a woman sells newspapers by the gate.",
    "She knows my name and asks about my sister, who moved to the city last year.",
    "When we come home I make a pot of coffee and open the window.",
    "Then I sit at the kitchen table, read my letters, and plan the rest of the day.",
)


def plain_clips() -> dict[str, dict]:
    return {
        "yes": save("yes", speech("slt", "Yes.")),
        "market": save(
            "market",
            speech(
                "slt",
                "We bought apples, bread, and a bottle of milk at the market.",
                "The total was less than twenty dollars.",
            ),
        ),
        "train": save(
            "train",
            speech(
                "rms",
                "The train to the airport leaves in fifteen minutes.",
                "Please keep your ticket and your bags with you.",
            ),
        ),
        "doctor": save(
            "doctor",
            speech("awb", "The doctor will call you back tomorrow afternoon about the results."),
        ),
        "message": save(
            "message",
            speech("kal16", "Please leave a message and your telephone number after the tone."),
        ),
        "library": save(
            "library",
            speech(
                "espeak:en-us",
                "The library is open from nine until five, but it is closed on Sunday.",
                rate=22_050,
            ),
        ),
        "minute": save("minute", speech("rms", *MINUTE, pauses=(0.35,) * (len(MINUTE) - 1))),
    }


def special_clips() -> dict[str, dict]:
    pauses = speech(
        "rms",
        "This is the first sentence.",
        "Here is another one.",
        "Now we wait a little longer.",
        "Are you still there?",
        "Thank you for waiting so long.",
        pauses=(0.3, 1.0, 2.5, 10.0),
    )
    noisy = speech("rms", "My brother is cooking dinner in the kitchen while I read a book.")
    level = 20 * float(np.log10(np.sqrt(np.mean((noisy.samples() / 32768.0) ** 2))))
    quiet, hiss = Track(), Track()
    quiet.pause(4.0)
    phone = speech("kal16", "I will meet you in front of the station at seven.")
    talk = Track()
    for voice, text in (
        ("rms", "What time does the meeting start?"),
        ("slt", "It starts at ten, and it should be over before lunch."),
    ):
        talk.say(voice, text)
        talk.pause(0.2)
    # One speaker on each channel: the sentences after the first are on the right.
    cut = round((talk.sentences[0]["end"] + talk.sentences[1]["start"]) / 2 * talk.rate)
    left, right = talk.samples(), talk.samples()
    left[cut:], right[:cut] = 0, 0
    return {
        "pauses": save("pauses", pauses),
        "noisy": save(
            "noisy", noisy, noisy.samples() + noise(noisy.length, level - 20, seed=1, slope=1)
        ),
        "silence": save("silence", quiet),
        "noise": save("noise", hiss, noise(4 * 16_000, -30, seed=2)),
        "phone": save("phone", phone, resample(phone.samples()[:, None], 16_000, 8_000), 8_000),
        "stereo": save(
            "stereo", talk, resample(np.stack([left, right], 1), 16_000, 44_100), 44_100
        ),
    }


def main() -> None:
    entries = plain_clips() | special_clips()
    text = json.dumps(entries, indent=1, sort_keys=True)
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    (HERE / "clips.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
