"""Paced streams at an engine in its process, without sockets: what the engine itself holds.

    python benchmarks/engine_load.py /tmp/random-4b clip.wav --streams 256 --seconds 180

Every stream has the clip in a loop, a chunk when its last sample would have been spoken, from a
random phase on; ``--stream-s`` ends and opens streams about so often. *Beyond* is from a word's end
to its message in this process, less the model's delay: as ``live_load.py`` has it, but for what the
server's event loop and its sockets take. For ``random_checkpoint.py``, which says a word in every
position.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import time
from pathlib import Path

import numpy as np
from live_load import clip, percentiles

from voxlive.checkpoints.resolve import resolve
from voxlive.engines.contract import Committed, EngineOptions, Failed, Message, StreamOptions
from voxlive.engines.remote.host import ProcessEngine, ProcessStream
from voxlive.values import SAMPLE_RATE, Samples


class PacedStream:
    """One slot's streams, one after another."""

    def __init__(self, engine: ProcessEngine, audio: Samples, args: argparse.Namespace) -> None:
        self._engine, self._audio, self._args = engine, audio, args
        self._chunk = SAMPLE_RATE * args.chunk_ms // 1000
        self._stream: ProcessStream | None = None
        self.beyond: list[tuple[float, float]] = []
        self.failed: list[str] = []
        self.opened = 0
        self.slip = 0.0

    def open(self, now: float) -> None:
        """Begin a stream whose first sample is due now."""
        self._origin, self._at, self.opened = now, 0, self.opened + 1
        length = self._args.stream_s * random.uniform(0.5, 1.5) if self._args.stream_s else 1e9
        self._end = round(length * SAMPLE_RATE)
        delay_s = (self._engine.info.default_delay_ms or 0) / 1000

        def sink(message: Message) -> None:
            moment = time.monotonic()
            late = moment - now - delay_s
            if isinstance(message, Committed):
                self.beyond += [(moment, late - w.end / SAMPLE_RATE) for w in message.words]
            elif isinstance(message, Failed):
                self.failed.append(message.code)

        self._stream = self._engine.open(StreamOptions(), sink)

    @property
    def due(self) -> float:
        """When the next chunk has been spoken."""
        return self._origin + (self._at + self._chunk) / SAMPLE_RATE

    def feed(self) -> None:
        """Feed it; beyond its length end the stream and open the next."""
        assert self._stream
        self.slip = max(self.slip, time.monotonic() - self.due)
        start = self._at % (len(self._audio) - self._chunk)
        self._stream.feed(self._audio[start : start + self._chunk], self._at)
        self._at += self._chunk
        if self._at >= self._end:
            self.close()
            self.open(time.monotonic())

    def close(self) -> None:
        """End it, whatever it has to say."""
        if self._stream:
            self._stream.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("clip", type=Path, help="an audio file with speech")
    parser.add_argument("--streams", type=int, nargs="+", default=[64])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--stream-s", type=float, help="end a stream and open one about so often")
    parser.add_argument("--chunk-ms", type=int, default=20)
    parser.add_argument("--max-sessions", type=int)
    args = parser.parse_args()
    audio = (clip(args.clip, 320) / 32768).astype(np.float32)
    options = EngineOptions(max_sessions=args.max_sessions or max(args.streams) + 16)
    engine = ProcessEngine.start(resolve(args.model), options)
    for count in args.streams:
        began = time.monotonic()
        streams = [PacedStream(engine, audio, args) for _ in range(count)]
        for one in streams:
            one.open(began + random.random() * 2)
        queue = [(one.due, number) for number, one in enumerate(streams)]
        heapq.heapify(queue)
        while queue[0][0] < began + args.seconds:
            due, number = queue[0]
            time.sleep(max(0.0, due - time.monotonic()))
            streams[number].feed()
            heapq.heapreplace(queue, (streams[number].due, number))
        time.sleep(1)
        for one in streams:
            one.close()
        pairs = [pair for one in streams for pair in one.beyond]
        if not pairs:
            raise SystemExit(f"{count} streams for {args.seconds:g} s brought no word")
        moments, late = np.array(pairs).T
        result = {
            "streams": count,
            "seconds": args.seconds,
            "opened": sum(one.opened for one in streams),
            "failed": sum(len(one.failed) for one in streams),
            "words": len(pairs),
            "beyond_s": {**percentiles(list(late)), "max": round(float(late.max()), 3)},
            "slope_s_per_min": round(float(np.polyfit(moments - began, late, 1)[0]) * 60, 4),
            "slip_max_s": round(max(one.slip for one in streams), 3),
        }
        print(json.dumps(result), flush=True)
        time.sleep(2)
    engine.shutdown()


if __name__ == "__main__":
    main()
