"""Speak the training text with flite and espeak-ng, shard by shard, until a STOP file appears.

A shard is NAME.pcm and NAME.tsv, as speech/speak.h says; the .tsv appears last, whole.

    python -m tiny_voxtral.synthesis --text DIR/train.txt --programs DIR --out DIR --workers 13
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

FLITE_VOICES = ("awb", "kal16", "rms", "slt")
ESPEAK_VOICE = "en-us"
ESPEAK_VARIANTS = ("+m1", "+m3", "+m7", "+f1", "+f2", "+f4")
LINES_PER_SHARD = 300
MOST_WAITING = 40  # shards not yet taken; the workers pause there


@dataclass(frozen=True)
class Style:
    """How one speaker speaks for a few lines: ratios to the voice's own values."""

    voice: str
    stretch: float = 1.0
    pitch: float = 1.0
    formants: float = 1.0
    jitter: float = 0.0

    def request(self, number: int, text: str) -> str:
        """One request line for the programs."""
        style = f"{self.stretch:.3f}\t{self.pitch:.3f}\t{self.formants:.3f}\t{self.jitter:.2f}"
        return f"{number}\t{self.voice}\t{style}\t{text}\n"


def speak(requests: Path, prefix: Path, programs: Path, espeak: bool) -> None:
    """Run the right program over a file of requests."""
    if espeak:
        command = [programs / "espeak_speak", requests, prefix, programs]
    else:
        command = [programs / "flite_speak", requests, prefix]
    subprocess.run(command, check=True)


def random_style(rng: random.Random, espeak: bool) -> Style:
    """A voice, unchanged for two speakers in five, else with its own tempo, pitch and formants."""
    voice = ESPEAK_VOICE if espeak else rng.choices(FLITE_VOICES, (0.28, 0.16, 0.28, 0.28))[0]
    if rng.random() < 0.4:
        return Style(voice)
    if espeak and rng.random() < 0.3:
        voice += rng.choice(ESPEAK_VARIANTS)
    return Style(
        voice,
        stretch=min(1.35, max(0.75, rng.gauss(1.0, 0.13))),
        pitch=min(1.5, max(0.7, 2 ** rng.gauss(0, 0.2))),
        formants=min(1.15, max(0.88, rng.gauss(1.0, 0.05))) if rng.random() < 0.5 else 1.0,
        jitter=rng.choice((0.0, 0.1, 0.2)),
    )


def shard_requests(lines: list[str], first: int, rng: random.Random, espeak: bool) -> list[str]:
    """Requests for the lines, a few in a row by the same speaker, with commas varied."""
    requests: list[str] = []
    while len(requests) < len(lines):
        style = random_style(rng, espeak)
        for _ in range(min(rng.randint(2, 6), len(lines) - len(requests))):
            line = lines[len(requests)]
            if rng.random() < 0.3:
                line = line.replace(",", "")
            requests.append(style.request(first + len(requests), line))
    return requests


def work(numbers: itertools.count[int], lines: list[str], args: argparse.Namespace) -> None:
    """Make shards until STOP; every fifth is espeak-ng's."""
    while not (args.out / "STOP").exists():
        number = next(numbers)
        rng = random.Random(args.seed * 1_000_003 + number)
        first = number * LINES_PER_SHARD
        chosen = [lines[(first + i) % len(lines)] for i in range(LINES_PER_SHARD)]
        prefix, espeak = args.out / f"{number:05d}", number % 5 == 4
        listing, making = prefix.with_suffix(".requests"), prefix.with_name(f"part{number:05d}")
        listing.write_text("".join(shard_requests(chosen, first, rng, espeak)))
        speak(listing, making, args.programs, espeak)
        listing.unlink()
        making.with_suffix(".pcm").rename(prefix.with_suffix(".pcm"))
        making.with_suffix(".tsv").rename(prefix.with_suffix(".tsv"))
        while len(list(args.out.glob("[0-9]*.tsv"))) > MOST_WAITING:
            if (args.out / "STOP").exists():
                break
            time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True, help="what speech/build.sh made")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 3))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.nice(10)
    lines = args.text.read_text().splitlines()
    random.Random(args.seed).shuffle(lines)
    numbers = itertools.count()
    threads = [
        threading.Thread(target=work, args=(numbers, lines, args)) for _ in range(args.workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
