"""A file of an hour, or any length, through a runner: its memory, its progress and its text.

    python benchmarks/long_file.py tests/audio/minute.flac --times 60

The clip is written again and again into one temporary FLAC, each time with as much silence after it
as makes whole windows of the voice detector and whole frames of the model. What is heard in that is
compared, word by word, with what is heard in the clip alone: they may differ around the joints and
nowhere else.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import av
import jiwer
import numpy as np
import psutil

from voxlive.checkpoints.local_model import read_model
from voxlive.checkpoints.resolve import resolve
from voxlive.runners.batch import Batch
from voxlive.runners.contract import Job, JobProgress, RunnerSpec, Transcript

_SAMPLE_S = 1.0
_WHOLE_S = 0.16


@dataclass
class Seen:
    """What was seen while the file was heard: MiB, and seconds between two steps of progress."""

    runner: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


def write_long(clip: Path, times: int, path: Path) -> None:
    """A 16-bit clip ``times`` over, as FLAC, in the rate and channels that it has."""
    with av.open(str(clip)) as media:
        frames = list(media.decode(audio=0))
    first = frames[0]
    rate, layout, kind = first.sample_rate, first.layout.name, first.format.name
    missing = -sum(frame.samples for frame in frames) % round(_WHOLE_S * rate)
    if missing:
        shape = (1, missing * first.layout.nb_channels)
        silence = av.AudioFrame.from_ndarray(np.zeros(shape, np.int16), kind, layout)
        silence.rate = rate
        frames.append(silence)
    with av.open(str(path), "w", format="flac") as output:
        stream = output.add_stream("flac", rate, layout=layout)
        stream.codec_context.format = kind
        for frame in frames * times:
            frame.pts = None
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


async def measure(batch: Batch, spec: RunnerSpec, path: Path) -> tuple[Transcript, Seen]:
    """Transcribe the file with a look at both processes every second."""
    seen = Seen()
    watching = asyncio.create_task(_watch(batch, seen))
    moved, said = time.monotonic(), None
    try:
        async for item in batch.follow(spec, Job(path)):
            if isinstance(item, Transcript):
                said = item
            elif isinstance(item, JobProgress):
                now = time.monotonic()
                seen.gaps.append(now - moved)
                moved = now
                total = item.total_s or 0
                print(f"\r{item.done_s:8.1f} of {total:.1f} s", end="", flush=True)
    finally:
        watching.cancel()
    print()
    assert said
    return said, seen


async def _watch(batch: Batch, seen: Seen) -> None:
    while True:
        await asyncio.sleep(_SAMPLE_S)
        for loaded in batch.loaded:
            process = psutil.Process(loaded.pid)
            family = (process, *process.children(recursive=True))
            seen.runner.append(sum(one.memory_info().rss for one in family) / 2**20)
        seen.host.append(psutil.Process().memory_info().rss / 2**20)


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--times", type=int, default=60)
    parser.add_argument("--voxtral", type=Path, help="a checkpoint, instead of Whisper tiny.en")
    args = parser.parse_args()
    spec = RunnerSpec("tiny.en", "faster_whisper", "whisper", resolve("whisper-tiny.en"))
    if args.voxtral:
        spec = RunnerSpec(
            args.voxtral.name, "voxtral_realtime", "voxtral_realtime", read_model(args.voxtral)
        )
    batch = Batch()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.flac"
        await asyncio.to_thread(write_long, args.clip, args.times, path)
        part = await batch.transcribe(spec, Job(args.clip))
        began = time.monotonic()
        said, seen = await measure(batch, spec, path)
        took = time.monotonic() - began
    await batch.aclose()
    _report(part, said, seen, took, args.times)


def _report(part: Transcript, said: Transcript, seen: Seen, took: float, times: int) -> None:
    compared = jiwer.process_words(" ".join([part.text] * times), said.text)
    wrong = compared.substitutions + compared.deletions + compared.insertions
    tenth = max(len(seen.runner) // 10, 1)
    print(f"{said.duration:.1f} s in {took:.1f} s, {said.duration / took:.1f} times real time")
    for name, sizes in (("runner", seen.runner), ("host", seen.host)):
        print(
            f"{name}: {sum(sizes[:tenth]) / tenth:.0f} MiB in the first tenth, "
            f"{sum(sizes[-tenth:]) / tenth:.0f} in the last, at most {max(sizes):.0f}"
        )
    print(f"progress: {len(seen.gaps)} steps, the longest {max(seen.gaps):.1f} s")
    print(f"words: {len(said.text.split())}, {wrong} differ from {times} times the clip's")


if __name__ == "__main__":
    asyncio.run(main())
