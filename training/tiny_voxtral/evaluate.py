"""Word error rates, word times and silence of a checkpoint, in torch.

python -m tiny_voxtral.evaluate WEIGHTS --tokenizer tekken.json --programs DIR [--only clips ...]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from training.tiny_voxtral.bpe import Tokenizer
from training.tiny_voxtral.decode import align, transcribe, words
from training.tiny_voxtral.export import read_weights
from training.tiny_voxtral.held_out import VOICES, VoiceClip, spoken
from training.tiny_voxtral.model import SAMPLE_RATE, Voxtral

DELAYS = (3, 4, 6, 8, 12)
MINUTES = 10
Transcriber = Callable[[list[np.ndarray], int], list[list[int]]]


def score(
    clips: list[VoiceClip], rows: list[list[int]], tokenizer: Tokenizer
) -> tuple[int, int, np.ndarray]:
    """Word errors, words, and seconds by which right words are late (early: negative)."""
    errors, total, late = 0, 0, []
    for clip, row in zip(clips, rows, strict=True):
        heard = words(row, tokenizer)
        wrong, same = align(clip.words, [word.text for word in heard])
        errors, total = errors + wrong, total + len(clip.words)
        late += [heard[j].end - clip.ends[i] / SAMPLE_RATE for i, j in same]
    return errors, total, np.array(late)


def line(name: str, clips: list[VoiceClip], rows: list[list[int]], tokenizer: Tokenizer) -> str:
    """One line of the report."""
    errors, total, late = score(clips, rows, tokenizer)
    rate = f"WER {100 * errors / total:5.2f} % of {total} words"
    times = f"median {1000 * np.median(late):+.0f} ms" if len(late) else "no word right"
    if len(late):
        size = np.abs(late)
        times += (
            f", absolute {1000 * np.median(size):.0f}, p95 {1000 * np.quantile(size, 0.95):.0f} ms"
        )
    return f"{name:<28} {rate}; word ends {times}"


def short_clips(clips: list[VoiceClip], run: Transcriber, tokenizer: Tokenizer) -> Iterator[str]:
    """Single sentences: each voice at the usual delay, all voices at the others, levels, starts."""
    rows = run([clip.samples() for clip in clips], 6)
    for voice in VOICES:
        chosen = [i for i, clip in enumerate(clips) if clip.voice == voice]
        yield line(voice, [clips[i] for i in chosen], [rows[i] for i in chosen], tokenizer)
    yield line("all, 480 ms", clips, rows, tokenizer)
    some = clips[::3]
    for delay in DELAYS:
        rows = run([clip.samples() for clip in some], delay)
        yield line(f"a third, {80 * delay} ms", some, rows, tokenizer)
    for level in (-36, -24, -12):
        audio = [clip.samples() for clip in some]
        audio = [x * 10 ** (level / 20) / np.sqrt(np.mean(x**2)) for x in audio]
        yield line(f"a third, {level} dBFS", some, run(audio, 6), tokenizer)
    for lead in (0.0, 0.3):
        cut = [clip.trimmed(lead, 0.5) for clip in some]
        rows = run([clip.samples() for clip in cut], 6)
        yield line(f"a third, {lead} s before it", cut, rows, tokenizer)


def stream(clips: list[VoiceClip], pause: Callable[[], float]) -> VoiceClip:
    """Ten minutes of sentences, ten by each voice in turn, with drawn pauses after them."""
    turns = len(clips) // len(VOICES) // 10
    blocks = [(turn + k) % turns * 10 for k in range(turns) for turn in range(len(VOICES))]
    voices = [[clip for clip in clips if clip.voice == voice] for voice in VOICES]
    order = [
        clip
        for i, block in enumerate(blocks)
        for clip in voices[i % len(VOICES)][block : block + 10]
    ]
    audio, ends, said, at = [], [], [], 0
    for clip in order:
        part = clip.trimmed(0, pause())
        audio.append(part.audio)
        ends += [end + at for end in part.ends]
        said += part.words
        at += len(part.audio)
        if at > MINUTES * 60 * SAMPLE_RATE:
            break
    return VoiceClip("all", -1, said, ends, np.concatenate(audio))


def long_streams(clips: list[VoiceClip], run: Transcriber, tokenizer: Tokenizer) -> Iterator[str]:
    """Streams far longer than the windows."""
    rng = random.Random(5)
    kinds: dict[str, Callable[[], float]] = {
        "no pauses": lambda: 0.05,
        "pauses of 0.2-20 s": lambda: 0.2 * 100 ** rng.random(),
        "pauses as the gate cuts them": lambda: min(0.8, 0.2 * 100 ** rng.random()),
    }
    made = {name: stream(clips, pause) for name, pause in kinds.items()}
    rows = run([clip.samples() for clip in made.values()], 6)
    for (name, clip), row in zip(made.items(), rows, strict=True):
        yield line(f"{name}, {len(clip.audio) / SAMPLE_RATE:.0f} s", [clip], [row], tokenizer)


def chords(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Major and minor chords, a new one every half second to two seconds."""
    audio, at = np.zeros(samples, np.float32), 0
    while at < samples:
        length = min(samples - at, int(rng.uniform(0.5, 2) * SAMPLE_RATE))
        now = np.arange(length) / SAMPLE_RATE
        root, third = 110 * 2 ** (rng.integers(0, 25) / 12), rng.choice([3, 4])
        for step in (0, third, 7, 12):
            for k in range(1, 5):
                audio[at : at + length] += (
                    np.sin(2 * np.pi * k * root * 2 ** (step / 12) * now) / k**1.5
                )
        audio[at : at + length] *= np.minimum(1, now / 0.02) * np.exp(-now / rng.uniform(0.3, 3))
        at += length
    return audio


def nothing_said(run: Transcriber, tokenizer: Tokenizer) -> Iterator[str]:
    """Ten minutes each without speech: what was written?"""
    rng, samples = np.random.default_rng(9), MINUTES * 60 * SAMPLE_RATE
    white = rng.standard_normal(samples).astype(np.float32)
    brown = np.cumsum(white) - np.convolve(np.cumsum(white), np.ones(801) / 801, "same")
    tunes, sine = chords(rng, samples), np.sin(2 * np.pi * 440 / SAMPLE_RATE * np.arange(samples))
    sounds = {"silence": (np.zeros(samples), (0,)), "white noise": (white, (-60, -40, -30, -20))}
    sounds |= {
        "brown noise": (brown, (-40, -20)),
        "chords": (tunes, (-40, -20)),
        "440 Hz": (sine, (-20,)),
    }
    made = {
        f"{name} at {level} dBFS": sound / (np.sqrt(np.mean(sound**2)) or 1) * 10 ** (level / 20)
        for name, (sound, levels) in sounds.items()
        for level in levels
    }
    rows = run([sound.clip(-1, 1).astype(np.float32) for sound in made.values()], 6)
    for name, row in zip(made, rows, strict=True):
        heard = [word.text for word in words(row, tokenizer)]
        yield f"{name}: {len(heard)} words {heard[:5]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help=".safetensors, float or as exported")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=["clips", "streams", "nothing"])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    began = time.monotonic()
    net: Voxtral = read_weights(args.weights).to(args.device).eval()
    tokenizer = Tokenizer(args.tokenizer)
    clips = spoken(args.programs)

    def run(audio: list[np.ndarray], delay: int) -> list[list[int]]:
        order = sorted(range(len(audio)), key=lambda i: len(audio[i]))
        rows: list[list[int]] = [[] for _ in audio]
        for i in range(0, len(order), 100):
            batch = order[i : i + 100]
            found = transcribe(net, [audio[j] for j in batch], delay, args.device)
            for j, row in zip(batch, found, strict=True):
                rows[j] = row
        return rows

    torch.set_grad_enabled(False)
    reports = {
        "clips": lambda: short_clips(clips, run, tokenizer),
        "streams": lambda: long_streams(clips, run, tokenizer),
        "nothing": lambda: nothing_said(run, tokenizer),
    }
    for name in args.only:
        for report in reports[name]():
            print(report, flush=True)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
