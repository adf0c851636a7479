"""Errors of files on recordings of people, beside the library's own pass over the whole file.

    make speech SPEECH=DIR          # python benchmarks/speech.py DIR --model whisper-tiny.en

DIR holds ``references.json`` (name -> ``lang``, ``text``) and ``NAME.flac``. Each clip is taken as
it is and in versions made here: noise at 20 and 10 dB, speeds 0.9 and 1.1, 20 dB quieter, and two
copies joined with a pause of 3 s. Errors are words (characters in Chinese) substituted, left out or
put in; both ways go over the same audio, and the interval of their difference is a bootstrap over
the clips, of which every version stays together.

``--mlx`` has voxlive's files go through mlx-audio, with the same weights in its layout: for a GPU,
or for patience (``--clean``), since a CPU needs some 15 s for a window of tiny.en.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
import unicodedata
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import numpy as np
import soxr
from faster_whisper import WhisperModel
from support.mlx_whisper import write_mlx_whisper

from voxlive.checkpoints.local_model import read_model
from voxlive.checkpoints.resolve import resolve
from voxlive.runners.contract import Job, RunnerSpec
from voxlive.runners.mlx_audio import load as load_mlx
from voxlive.runners.recogniser import load
from voxlive.streaming.ingest.media import read_file
from voxlive.values import SAMPLE_RATE, Samples

_DRAWS = 10_000
_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGITS = {name: str(digit) for digit, name in enumerate(_NAMES)}
_DIGITS |= {"ten": "1 0", "oh": "0"}
_APOSTROPHES = str.maketrans("\u2019`", "''")


def plain(text: str, language: str, digits: bool) -> str:
    """A text for comparison: lower case, no punctuation, numbers up to ten as digits."""
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).lower()
    text = re.sub(r"\[[^]]*\]|\([^)]*\)", " ", text)
    if language == "zh":
        return " ".join(re.findall(r"[\u4e00-\u9fff]", text))
    text = re.sub(r"(?<=\d)[,.\-](?=\d)", "", text).replace("%", " percent")
    text = re.sub(r"\d", r" \g<0> ", text)
    text = re.sub(r"\b(mr\.?|okay|'em)(?=\W|$)", lambda word: _SAME[word[0].rstrip(".")], text)
    words = re.sub(r"[^\w']|_", " ", text).split()
    words = [stripped for word in words if (stripped := word.strip("'"))]
    if language == "en":
        words = [_DIGITS[w] if w in _DIGITS and (digits or w != "oh") else w for w in words]
    return " ".join(words)


_SAME = {"mr": "mister", "okay": "ok", "'em": "them"}


def errors(reference: str, text: str, language: str) -> tuple[int, int]:
    """Errors and words of one text."""
    digits = "zero" in reference.lower().split()
    wanted = plain(reference, language, digits)
    found = jiwer.process_words(wanted, plain(text, language, digits))
    return found.substitutions + found.deletions + found.insertions, len(wanted.split())


def versions(samples: Samples, rng: np.random.Generator) -> Iterator[tuple[str, Samples, int]]:
    """A clip's versions: name, audio, how often its text is spoken in it."""
    level = float(np.sqrt(np.mean(samples**2)))
    noise = rng.standard_normal(len(samples)).astype(np.float32) * level
    yield "as it is", samples, 1
    for decibels in (20, 10):
        noisy = samples + noise * np.float32(10 ** (-decibels / 20))
        yield f"noise {decibels} dB below", np.clip(noisy, -1, 1), 1
    for speed in (0.9, 1.1):
        yield f"speed {speed}", soxr.resample(samples, SAMPLE_RATE * speed, SAMPLE_RATE), 1
    yield "20 dB quieter", samples * np.float32(0.1), 1
    pause = np.zeros(3 * SAMPLE_RATE, np.float32)
    yield "twice, 3 s apart", np.concatenate([samples, pause, samples]), 2


@dataclass
class Tally:
    """Errors of one way by clip, words by clip, seconds of CPU."""

    errors: dict[str, int] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)
    by_version: dict[str, int] = field(default_factory=dict)
    cpu_s: float = 0.0

    def add(self, clip: str, version: str, wrong: int, words: int) -> None:
        self.errors[clip] = self.errors.get(clip, 0) + wrong
        self.words[clip] = self.words.get(clip, 0) + words
        self.by_version[version] = self.by_version.get(version, 0) + wrong

    def rate(self, clips: list[str]) -> float:
        """Errors in 100 words."""
        return 100 * sum(self.errors[c] for c in clips) / sum(self.words[c] for c in clips)


def interval(one: Tally, other: Tally, clips: list[str]) -> tuple[float, float]:
    """95 % of the difference of their rates, by drawing clips."""
    rng = np.random.default_rng(0)
    differences = np.array([one.errors[c] - other.errors[c] for c in clips])
    words = np.array([one.words[c] for c in clips])
    drawn = rng.integers(0, len(clips), (_DRAWS, len(clips)))
    rates = 100 * differences[drawn].sum(1) / words[drawn].sum(1)
    low, high = np.percentile(rates, (2.5, 97.5))
    return float(low), float(high)


Transcribe = Callable[[Path, Samples, str], str]


def whole_file(name: str) -> Transcribe:
    """faster-whisper's own ``transcribe`` with its defaults, the language given."""
    folder = str(resolve(name).folder)
    model = WhisperModel(folder, "cpu", compute_type="int8", cpu_threads=1, local_files_only=True)

    def transcribe(_path: Path, samples: Samples, language: str) -> str:
        segments, _ = model.transcribe(samples, language=language)
        return "".join(segment.text for segment in segments)

    return transcribe


def product(name: str, mlx: Path | None) -> Transcribe:
    """A file as ``voxlive transcribe`` has it, in this process; through MLX by a folder for it."""
    local = resolve(name)
    if mlx is None:
        runner = load(RunnerSpec(name, "faster_whisper", "whisper", local, device="cpu"))
    else:
        local = read_model(write_mlx_whisper(mlx, local.folder))
        runner = load_mlx(RunnerSpec(name, "mlx_audio", "whisper", local))

    def transcribe(path: Path, _samples: Samples, language: str) -> str:
        job = Job(path, language=language)
        return runner.run(job, lambda _: None, lambda: False).text

    return transcribe


def write(path: Path, samples: Samples) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def measure(folder: Path, name: str, languages: set[str], *, only_clean: bool, mlx: bool) -> None:
    """Both ways over every version of every clip; prints a table."""
    references = json.loads((folder / "references.json").read_text())
    clips = [clip for clip, one in references.items() if one["lang"] in languages]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "clip.wav"
        ours = product(name, Path(scratch) / "mlx" if mlx else None)
        ways = {"whole file": whole_file(name), "voxlive": ours}
        tallies = {way: Tally() for way in ways}
        for clip in clips:
            original = np.concatenate(list(read_file(folder / f"{clip}.flac")))
            language = references[clip]["lang"]
            for version, samples, times in versions(original, rng):
                if only_clean and version != "as it is":
                    continue
                write(path, samples)
                reference = " ".join([references[clip]["text"]] * times)
                for way, transcribe in ways.items():
                    began = time.process_time()
                    text = transcribe(path, samples, language)
                    tallies[way].cpu_s += time.process_time() - began
                    tallies[way].add(clip, version, *errors(reference, text, language))
    report(name, tallies, clips, references)


def report(name: str, tallies: dict[str, Tally], clips: list[str], references: dict) -> None:
    whole, ours = tallies["whole file"], tallies["voxlive"]
    without = [clip for clip in clips if not references[clip].get("kind", "").startswith("film")]
    print(f"{name}: {sum(whole.words[c] for c in clips)} words")
    print("| errors in 100 words | whole file | voxlive | difference, 95 % |\n|---|---|---|---|")
    for label, some in (("all", clips), ("without the film", without)):
        low, high = interval(ours, whole, some)
        difference = ours.rate(some) - whole.rate(some)
        rates = f"{whole.rate(some):.2f} | {ours.rate(some):.2f}"
        print(f"| {label} | {rates} | {difference:+.2f} ({low:+.2f} to {high:+.2f}) |")
    for version, wrong in whole.by_version.items():
        print(f"| {version}, errors | {wrong} | {ours.by_version[version]} | |")
    print(f"| CPU s | {whole.cpu_s:.1f} | {ours.cpu_s:.1f} | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", help="default: tiny.en, and base")
    parser.add_argument("--clean", action="store_true", help="the clips as they are, alone")
    parser.add_argument("--mlx", action="store_true", help="voxlive's files through mlx-audio")
    options = parser.parse_args()
    for name in options.model or ("whisper-tiny.en", "whisper-base"):
        english = resolve(name).capabilities.languages == ("en",)
        languages = {"en"} if english else {"en", "de", "fr", "zh"}
        measure(options.folder, name, languages, only_clean=options.clean, mlx=options.mlx)


if __name__ == "__main__":
    main()
