"""What the small model's words, times and silence are worth through the real server.

    PYTHONPATH=tests python benchmarks/tiny_accuracy.py --parts live long quiet

live    the held-out sentences through /v1/live in real time, and the same through /asr, REST and
        `voxlive transcribe`: word error rates, and how far word ends are off
long    ten minutes with pauses of 0.2 to 20 s, without, and with a flush after each sentence: word
        error rates against those of the same sentences as short clips, words lost and added where
        sentences meet, and eight such sessions in one batch against each alone
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
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import jiwer
import numpy as np
from long_streams import RATE, TEN_MINUTES, LongStream, as_clips, at_seams, held_out_clips, stream
from support.held_out import TINY_VOXTRAL, VOICES, HeldOutRecording, recording
from support.server import Server, serving
from support.wire import (
    START,
    ServerOutput,
    asr,
    dial,
    listen,
    live,
    play,
    s16le,
    send,
    text_of_lines,
)


def plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def words_of(heard: ServerOutput) -> list[dict[str, Any]]:
    return [word for message in heard.of("words") for word in message["words"]]


def spoken(heard: ServerOutput) -> str:
    """The text, after checking that words and segments say the same, in order."""
    words = words_of(heard)
    [done] = heard.of("done")
    bounds = [bound for word in words for bound in (word["start"], word["end"])]
    assert bounds == sorted(bounds)
    assert "".join(word["text"] for word in words) == done["text"]
    assert "".join(message["text"] for message in heard.of("segment")) == done["text"]
    return done["text"]


def late(said: HeldOutRecording, heard: ServerOutput) -> list[float]:
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


async def in_groups(jobs: list[Coroutine[Any, Any, ServerOutput]], size: int) -> list[ServerOutput]:
    heard: list[ServerOutput] = []
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


async def with_flushes(server: Server, one: LongStream) -> ServerOutput:
    """A session that flushes after every sentence, while the next is on its way already."""
    audio = s16le(one.samples)
    async with dial(f"{server.ws}/v1/live") as socket:
        await send(socket, START)
        listening = asyncio.create_task(listen(socket))
        for number, (begin, end) in enumerate(pairwise((0, *one.ends))):
            await play(socket, audio[2 * begin : 2 * end], None, 3200)
            await send(socket, {"type": "flush", "id": str(number)})
        await send(socket, {"type": "stop"})
        return await listening


def report_stream(name: str, one: LongStream, said: str, alone: dict[str, str]) -> None:
    report(name, [one.text], [said])
    seams = at_seams([clip.text for clip in one.clips], said)
    rate, own = as_clips(one, alone)
    print(
        f"{'':34} as short clips {rate:.2%}; {len(one.clips) - 1} seams, lost there {seams.lost}, "
        f"added {seams.added}; by the clips alone lost {own.lost}, added {own.added}",
        flush=True,
    )


async def long_part(server: Server, _together: int, _folder: Path) -> None:
    clips = held_out_clips()
    jobs = [live(server.ws, s16le(clip.alone())) for clip in clips]
    said = [plain(spoken(heard)) for heard in await in_groups(jobs, 4)]
    alone = {clip.name: text for clip, text in zip(clips, said, strict=True)}
    report("short clips", [clip.text for clip in clips], said)
    streams = [stream(clips, seed, pauses=seed % 2 == 0) for seed in range(8)]
    texts = []
    for seed, one in enumerate(streams):
        texts.append(plain(spoken(await live(server.ws, s16le(one.samples)))))
        name = f"ten minutes, {'no ' if seed % 2 else ''}pauses, seed {seed}"
        report_stream(name, one, texts[-1], alone)
    flushed = plain(spoken(await with_flushes(server, streams[1])))
    report_stream("a flush after each sentence, seed 1", streams[1], flushed, alone)
    heard = await asyncio.gather(*(live(server.ws, s16le(one.samples)) for one in streams))
    batch = [plain(spoken(one)) for one in heard]
    report("eight such sessions in one batch", [one.text for one in streams], batch)
    report("in the batch against alone", texts, batch)


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
