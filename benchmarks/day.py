"""One session that lasts a day, played as fast as the engine takes it.

    python benchmarks/day.py tests/models/tiny-voxtral tests/audio/minute.flac --hours 24

The clip is looped without a pause, so nothing ever resets the model: only its sliding windows and
the moving of rotary positions bound the state. One line per hour of audio: memory and step time
must not grow, positions must stay below their limit, and as many words must come hour after hour.
Every token is scored by a model whose positions were never moved: it must be that model's best too,
but for near ties (best for small models in float32: what is compared costs little beside a step).
Step time is CPU time, so that what else runs on the machine does not count.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from unanchored import Unanchored

from voxlive.checkpoints.local_model import read_checkpoint
from voxlive.checkpoints.resolve import resolve
from voxlive.engines.contract import (
    Committed,
    EngineOptions,
    Failed,
    Message,
    Progressed,
    StreamOptions,
)
from voxlive.engines.voxtral import load
from voxlive.engines.voxtral.engine import VoxtralEngine
from voxlive.engines.voxtral.stream import VoxtralStream
from voxlive.streaming.ingest.media import read_file
from voxlive.values import SAMPLE_RATE

AHEAD = 60 * SAMPLE_RATE
NEAR_TIE = 1e-3
"""Difference of two scores that rounding may turn."""


class WordCounter:
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


@dataclass(frozen=True)
class AudioHour:
    """What an hour of audio came to."""

    resident_mib: float
    step_ms: float
    words: int
    position: int


class AudioDay:
    """A stream of an engine, hour by hour, beside a model whose positions are never moved."""

    def __init__(self, engine: VoxtralEngine, clip: np.ndarray, reference: Unanchored) -> None:
        self._engine, self._clip, self._reference = engine, clip, reference
        self._rings = engine._model.decoder.rings, engine._model.encoder.rings
        self._tokens: deque[int] = deque()
        hear = engine._hear

        def overhear(stream: VoxtralStream, token: int) -> None:
            self._tokens.append(token)
            hear(stream, token)

        engine._hear = overhear  # type: ignore[method-assign]
        self._listener = WordCounter()
        self._stream = engine.open(StreamOptions(), self._listener)
        self._at = 0
        self._compared_s = 0.0

    def hour(self, number: int) -> AudioHour:
        """Play on to the end of hour ``number`` and compare what was said."""
        began, compared_s = time.process_time(), self._compared_s
        words, top = self._listener.words, 0
        while self._at < number * 3600 * SAMPLE_RATE:
            self._stream.feed(self._clip, self._at)
            self._at += len(self._clip)
            self._listener.wait_until(self._at - AHEAD)
            slot = self._engine.info.capacity - 1
            top = max(top, *(rings.position(slot) for rings in self._rings))
            self._engine._thread.submit(self._compare).result()
        spent = time.process_time() - began - (self._compared_s - compared_s)
        return AudioHour(
            psutil.Process().memory_info().rss / 2**20,
            spent * 1000 / (3600 * 12.5),
            self._listener.words - words,
            top,
        )

    def close(self) -> None:
        """End the stream."""
        self._stream.close()

    def _compare(self) -> None:
        began = time.process_time()
        self._reference.push(self._clip)
        self._reference.compare(self._tokens)
        self._compared_s += time.process_time() - began


def play(engine: VoxtralEngine, clip: np.ndarray, hours: int, reference: Unanchored) -> bool:
    """Print the table; whether memory, step time, positions, words and tokens were steady."""
    day = AudioDay(engine, clip, reference)
    done: list[AudioHour] = []
    print(
        f"{'hour':>4} {'RSS MiB':>8} {'CPU ms/token':>12} {'words':>6} {'position':>8} "
        f"{'unanchored':>10} {'compared':>9} {'differ':>6} {'widest gap':>10}"
    )
    for number in range(1, hours + 1):
        done.append(hour := day.hour(number))
        print(
            f"{number:4} {hour.resident_mib:8.1f} {hour.step_ms:12.3f} {hour.words:6} "
            f"{hour.position:8} {reference.position:10} {reference.compared:9} "
            f"{len(reference.gaps):6} {max(reference.gaps, default=0):10.2g}",
            flush=True,
        )
    day.close()
    bound = max(rings.limit for rings in (engine._model.decoder.rings, engine._model.encoder.rings))
    first, last = done[1 : max(2, hours // 2)], done[hours // 2 :]
    words = [hour.words for hour in done[1:]] or [done[0].words]
    return (
        max(h.resident_mib for h in last) <= max(h.resident_mib for h in first or last) + 8
        and median(h.step_ms for h in last) <= 1.25 * median(h.step_ms for h in first or last)
        and max(words) - min(words) <= 0.02 * median(words) + 2
        and max(h.position for h in done) <= bound
        and max(reference.gaps, default=0) < NEAR_TIE
    )


def main() -> int:
    """Exit status 1 when something was not steady."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--hours", type=int, default=24)
    args = parser.parse_args()
    clip = np.concatenate(list(read_file(args.clip)))
    local = resolve(args.model, offline=True)
    engine = load(local, EngineOptions(max_sessions=1, device="cpu"))
    checkpoint = read_checkpoint(local.read())
    reference = engine._thread.submit(Unanchored, checkpoint).result()
    steady = play(engine, clip, args.hours, reference)
    engine.shutdown()
    print("steady" if steady else "NOT steady")
    return 0 if steady else 1


if __name__ == "__main__":
    sys.exit(main())
