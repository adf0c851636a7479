"""One session that lasts a day, played as fast as the engine takes it.

    python benchmarks/day.py tests/models/tiny-voxtral tests/audio/minute.flac --hours 24

The clip is looped without a pause, so nothing ever resets the model: only its sliding windows and
the moving of rotary positions bound the state. One line per hour of audio: memory and step time
must not grow, positions must stay below their limit, and the same words must come hour after hour.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from voxlive.streaming.clock import SAMPLE_RATE
from voxlive.streaming.engine import Committed, Failed, Message, Progressed, StreamOptions
from voxlive.streaming.ingest import read_file
from voxlive.streaming.options import EngineOptions
from voxlive.streaming.voxtral import load
from voxlive.streaming.voxtral.engine import VoxtralEngine

AHEAD = 60 * SAMPLE_RATE


class Listener:
    """Counts words and knows how far the engine is."""

    def __init__(self) -> None:
        self.words = 0
        self.processed = 0
        self.failure: Failed | None = None
        self.changed = threading.Condition()

    def __call__(self, message: Message) -> None:
        with self.changed:
            match message:
                case Committed(words):
                    self.words += len(words)
                case Progressed(upto):
                    self.processed = upto
                case Failed():
                    self.failure = message
            self.changed.notify()

    def wait_until(self, sample: int) -> None:
        """Until the engine has processed all before ``sample``; RuntimeError if it failed."""
        with self.changed:
            self.changed.wait_for(lambda: self.processed >= sample or self.failure, 600)
            if self.failure or self.processed < sample:
                raise RuntimeError(f"the stream did not go on: {self.failure}")


def play(engine: VoxtralEngine, clip: np.ndarray, hours: int) -> bool:
    """Print the table; whether memory, step time, positions and words were steady."""
    listener = Listener()
    stream = engine.open(StreamOptions(), listener)
    rings = engine._model.decoder.rings, engine._model.encoder.rings
    process = psutil.Process()
    rows: list[tuple[float, float, int, int]] = []
    print(f"{'hour':>4} {'RSS MiB':>8} {'ms/token':>9} {'words':>6} {'positions':>15}")
    at = 0
    for hour in range(1, hours + 1):
        began, words, top = time.perf_counter(), listener.words, 0
        while at < hour * 3600 * SAMPLE_RATE:
            stream.feed(clip, at)
            at += len(clip)
            listener.wait_until(at - AHEAD)
            top = max(top, *(ring.position(engine.info.capacity - 1) for ring in rings))
        elapsed = time.perf_counter() - began
        resident = process.memory_info().rss / 2**20
        rows.append((resident, elapsed * 1000 / 45_000, listener.words - words, top))
        print(f"{hour:4} {resident:8.1f} {rows[-1][1]:9.3f} {rows[-1][2]:6} {top:15}", flush=True)
    stream.close()
    bound = max(ring.limit for ring in rings)
    half = len(rows) // 2
    first, last = np.array(rows[1:half]), np.array(rows[half:])
    return bool(
        last[:, 0].max() <= first[:, 0].max() + 8
        and np.median(last[:, 1]) <= 1.25 * np.median(first[:, 1])
        and np.ptp([row[2] for row in rows[1:]]) <= 0.02 * np.median([row[2] for row in rows]) + 2
        and max(row[3] for row in rows) <= bound
    )


def main() -> int:
    """Exit status 1 when something was not steady."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--hours", type=int, default=24)
    args = parser.parse_args()
    clip = np.concatenate(list(read_file(args.clip)))
    engine = load(args.model, EngineOptions(max_sessions=1, device="cpu"))
    steady = play(engine, clip, args.hours)
    engine.shutdown()
    print("steady" if steady else "NOT steady")
    return 0 if steady else 1


if __name__ == "__main__":
    sys.exit(main())
