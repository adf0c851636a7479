"""What the small model's words, times and silence are worth through the real server.

    PYTHONPATH=tests python benchmarks/tiny_accuracy.py --parts live long quiet

live    the held-out sentences through /v1/live in real time, and the same through /asr, REST and
        `voxlive transcribe`: word error rates, and how far word ends are off
long    ten minutes with pauses of 0.2 to 20 s and ten without, alone and eight at once
quiet   ten minutes each of silence, noise and tones, with and without voice detection
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import wave
from collections.abc import Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import jiwer
import numpy as np
from support.held_out import TINY_VOXTRAL, VOICES, Recording, recording
from support.server import Server, serving
from support.wire import Heard, asr, live, s16le, text_of_lines

RATE = 16_000
TEN_MINUTES = 600 * RATE


def plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def words_of(heard: Heard) -> list[dict[str, Any]]:
    return [word for message in heard.of("words") for word in message["words"]]


def spoken(heard: Heard) -> str:
    """The text, after checking that words and segments say the same, in order."""
    words = words_of(heard)
    [done] = heard.of("done")
    bounds = [bound for word in words for bound in (word["start"], word["end"])]
    assert bounds == sorted(bounds)
    assert "".join(word["text"] for word in words) == done["text"]
    assert "".join(message["text"] for message in heard.of("segment")) == done["text"]
    return done["text"]


def late(said: Recording, heard: Heard) -> list[float]:
    """Our word end minus the synthesiser's, for every word that is right."""
    words = words_of(heard)
    ours = " ".join(plain(word["text"]) or "-" for word in words)
    errors: list[float] = []
    for chunk in jiwer.process_words(said.text, ours).alignments[0]:
        if chunk.type == "equal":
            true = said.ends[chunk.ref_start_idx : chunk.ref_end_idx]
            found = words[chunk.hyp_start_idx : chunk.hyp_end_idx]
            errors += [word["end"] - end for end, word in zip(true, found, strict=True)]
    return errors


async def in_groups(jobs: list[Coroutine[Any, Any, Heard]], size: int) -> list[Heard]:
    heard: list[Heard] = []
    for at in range(0, len(jobs), size):
        heard += await asyncio.gather(*jobs[at : at + size])
    return heard


def report(name: str, truth: list[str], said: list[str]) -> None:
    out = jiwer.process_words(truth, said)
    print(
        f"{name:34} WER {out.wer:7.2%}  words {sum(len(text.split()) for text in truth):5}  "
        f"sub {out.substitutions} del {out.deletions} ins {out.insertions}",
        flush=True,
    )


def wav(path: Path, pcm: bytes) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, len(pcm) // 2, "NONE", ""))
        file.writeframes(pcm)
    return path


def transcribed(command: list[str]) -> str:
    return plain(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


async def live_part(server: Server, together: int, folder: Path) -> None:
    said = [recording(f"{voice}.opus") for voice in VOICES]
    truth = [plain(one.text) for one in said]
    audio = [s16le(one.samples) for one in said]
    heard = await in_groups([live(server.ws, pcm, pace=1.0, chunk=2560) for pcm in audio], together)
    texts = [plain(spoken(one)) for one in heard]
    report("/v1/live in real time", truth, texts)
    errors = np.array([e for one, h in zip(said, heard, strict=True) for e in late(one, h)])
    print(
        f"{'word ends':34} median |error| {np.median(abs(errors)) * 1000:.0f} ms, "
        f"p95 {np.percentile(abs(errors), 95) * 1000:.0f} ms, n {len(errors)}"
    )
    theirs = await in_groups([asr(server.ws, pcm) for pcm in audio], together)
    lines = [plain(text_of_lines(one.of(None)[-1]["lines"])) for one in theirs]
    report("/asr, unpaced", truth, lines)
    files = [wav(folder / f"{one.name}.wav", pcm) for one, pcm in zip(said, audio, strict=True)]
    url = f"{server.url}/v1/audio/transcriptions"
    async with httpx.AsyncClient(timeout=600) as client:
        rest = [
            plain((await client.post(url, files={"file": path.read_bytes()})).json()["text"])
            for path in files
        ]
    report("REST", truth, rest)
    line = [sys.executable, "-m", "voxlive.cli.main", "transcribe", "--device", "cpu"]
    command = [*line, "--model", str(TINY_VOXTRAL)]
    cli = [await asyncio.to_thread(transcribed, [*command, str(path)]) for path in files]
    report("voxlive transcribe", truth, cli)
    print(f"{'the same text':34} /asr {lines == texts}, REST {rest == texts}, CLI {cli == texts}")


def stream(seed: int, pauses: bool) -> tuple[np.ndarray, str]:
    """Ten minutes of held-out sentences in random order, and their text."""
    rng = np.random.default_rng(seed)
    clips = [
        (one.samples[int(s.start * RATE) : int((s.end + 0.08) * RATE)], s.text)
        for one in map(recording, (f"{voice}.opus" for voice in VOICES))
        for s in one.sentences
    ]
    parts, texts, length = [np.zeros(RATE // 2, np.float32)], [], RATE // 2
    while length < TEN_MINUTES:
        samples, text = clips[rng.integers(len(clips))]
        gap = np.exp(rng.uniform(np.log(0.2), np.log(20.0))) if pauses else 0.05
        parts += [samples, np.zeros(int(gap * RATE), np.float32)]
        texts.append(text)
        length += len(samples) + len(parts[-1])
    parts.append(np.zeros(RATE, np.float32))
    return np.concatenate(parts), " ".join(texts)


async def long_part(server: Server, _together: int, _folder: Path) -> None:
    streams = [stream(seed, pauses=seed % 2 == 0) for seed in range(8)]
    truth = [plain(text) for _, text in streams]
    alone = []
    for number in (0, 1):
        alone.append(plain(spoken(await live(server.ws, s16le(streams[number][0])))))
        report(f"ten minutes, {'no ' if number else ''}pauses", [truth[number]], [alone[number]])
    together = await asyncio.gather(*(live(server.ws, s16le(audio)) for audio, _ in streams))
    texts = [plain(spoken(one)) for one in together]
    report("eight such sessions in one batch", truth, texts)
    print(f"{'in the batch as alone':34} {texts[:2] == alone}", flush=True)


async def quiet_part(server: Server, _together: int, _folder: Path) -> None:
    rng = np.random.default_rng(0)
    t = np.arange(TEN_MINUTES) / RATE
    chord = sum(np.sin(2 * np.pi * hz * t) for hz in (220, 277.2, 329.6)) * 0.05
    beat = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * t))
    sounds = {
        "silence": np.zeros(TEN_MINUTES, np.float32),
        "white noise at -30 dBFS": (rng.standard_normal(TEN_MINUTES) * 0.0316).astype(np.float32),
        "chords in a rhythm": (chord * beat).astype(np.float32),
    }
    for name, samples in sounds.items():
        for vad in ({}, {"vad": False}):
            heard = await live(server.ws, s16le(samples), chunk=RATE, **vad)
            how = "all of it fed to the model" if vad else "behind the gate"
            print(f"{name:34} {how}: {len(words_of(heard))} words", flush=True)


PARTS = {"live": live_part, "long": long_part, "quiet": quiet_part}


async def run(server: Server, parts: list[str], together: int) -> None:
    for part in parts:
        with TemporaryDirectory() as folder:
            await PARTS[part](server, together, Path(folder))


def main() -> int:
    """Run the parts one after another against one server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--together", type=int, default=3, help="paced sessions at a time")
    args = parser.parse_args()
    model = str(Path(TINY_VOXTRAL))
    with serving("--model", model, "--device", "cpu", "--max-sessions", "8") as server:
        asyncio.run(run(server, args.parts, args.together))
    return 0


if __name__ == "__main__":
    sys.exit(main())
