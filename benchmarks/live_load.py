"""Load a voxlive server with N paced clients and report what its users would feel.

    python benchmarks/live_load.py ws://127.0.0.1:8000/v1/live clip.wav --clients 8 --seconds 60

Every client plays the clip in a loop on an absolute schedule (a chunk is sent when its last
sample would have been spoken, never earlier; being late does not shift the next one) and starts at
a random phase. Delays are wall-clock, from the moment when the sample was due:
first word   speech onset -> the first word or draft on the wire
emission     the end of a word -> the word on the wire, committed
beyond       the same less the model's delay
service      what the server took of it: less one position more, after which the word is complete,
             and less what the chunk made that position's last sample wait. For words that are
             complete with the next position, as random_checkpoint.py's all are
closing      the end of speech -> its closed segment on the wire
lag slope    growth of the emission delay in seconds per minute: 0 if the server keeps up
slip         how late the clients themselves sent (their own honesty)

    python benchmarks/live_load.py URL clip.wav --ramp 32 256 --bound 0.16 --seconds 20

finds by bisection the most clients whose p99 of *beyond* stays within the bound, all of them done
and none of them falling behind, and confirms it with 180 s (or ``--confirm``): one step fewer
until it holds. Every run is a line of JSON, the last one's ``clients`` the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import websockets
from numpy.typing import NDArray

from voxlive.streaming.ingest.media import read_file
from voxlive.values import SAMPLE_RATE

POSITION_S = 0.08
GROWTH_S = 0.05
"""By so much the delay may grow over a run: that is noise."""
LOOK_AHEAD_S = 0.0025
"""Beyond a position's end, what its last mel frame needs."""


@dataclass
class Record:
    """What one client saw; delays in seconds."""

    first_word: list[float] = field(default_factory=list)
    emission: list[tuple[float, float]] = field(default_factory=list)
    service: list[float] = field(default_factory=list)
    delay: float = 0.0
    closing: list[float] = field(default_factory=list)
    behind: float = 0.0
    slip: float = 0.0
    words: int = 0
    sessions: int = 0
    outcome: str = "lost"


def clip(path: Path, chunk: int) -> NDArray[np.int16]:
    """The clip as 16 kHz s16 samples, cut to whole chunks."""
    samples = np.concatenate(list(read_file(path)))
    whole = samples[: len(samples) // chunk * chunk]
    return (np.clip(whole, -1, 1) * 32767).astype(np.int16)


async def play(url: str, pcm: NDArray[np.int16], args: argparse.Namespace) -> Record:
    """One client from its random phase to its last ``done``."""
    record = Record()
    await asyncio.sleep(random.random() * args.spread)
    played = 0.0
    while played < args.seconds:
        length = args.seconds - played
        if args.session_s:
            length = min(length, args.session_s * random.uniform(0.5, 1.5))
        record.outcome = "lost"
        try:
            await hold(url, pcm, length, played, args, record)
        except (OSError, websockets.WebSocketException, TimeoutError) as error:
            record.outcome = type(error).__name__
        if record.outcome != "done":
            break
        played += length
    return record


async def hold(
    url: str,
    pcm: NDArray[np.int16],
    seconds: float,
    since: float,
    args: argparse.Namespace,
    record: Record,
) -> None:
    """One session of a client that has been playing ``since`` seconds."""
    async with websockets.connect(url, compression=None, max_size=None) as socket:
        start: dict[str, object] = {"type": "start", "format": "s16le", "rate": SAMPLE_RATE}
        if args.delay_ms:
            start["delay_ms"] = args.delay_ms
        if args.no_vad:
            start["vad"] = False
        await socket.send(json.dumps(start))
        ready = json.loads(await socket.recv())
        if ready["type"] != "ready":
            record.outcome = ready["code"]
            return
        record.sessions += 1
        record.delay = (args.delay_ms or ready.get("delay_ms") or 0) / 1000
        origin = time.monotonic()
        chunk_s = args.chunk_ms / 1000
        listener = asyncio.create_task(listen(socket, origin, since, chunk_s, record))
        await speak(socket, origin, pcm, seconds, args, record)
        await asyncio.wait_for(listener, 60)


async def speak(
    socket: websockets.ClientConnection,
    origin: float,
    pcm: NDArray[np.int16],
    seconds: float,
    args: argparse.Namespace,
    record: Record,
) -> None:
    """Send the clip over and over on the schedule, then ``stop``."""
    chunk = SAMPLE_RATE * args.chunk_ms // 1000
    for sent in range(0, int(seconds * SAMPLE_RATE), chunk):
        due = origin + (sent + chunk) / SAMPLE_RATE
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        record.slip = max(record.slip, time.monotonic() - due)
        at = sent % len(pcm)
        await socket.send(pcm[at : at + chunk].tobytes())
    await socket.send('{"type": "stop"}')


async def listen(
    socket: websockets.ClientConnection,
    origin: float,
    since: float,
    chunk_s: float,
    record: Record,
) -> None:
    """Time every message against the audio it is about."""
    onset: float | None = None
    stops: list[float] = []
    async for text in socket:
        message = json.loads(text)
        now = time.monotonic() - origin
        match message["type"]:
            case "speech_started":
                onset = message["t"]
            case "speech_stopped":
                stops.append(message["t"])
            case "draft" | "words" if onset is not None and (
                message.get("text") or message.get("words")
            ):
                record.first_word.append(now - onset)
                onset = None
            case "segment" if stops:
                record.closing.append(now - stops[-1])
                stops.clear()
            case "lag":
                record.behind = max(record.behind, message["behind_s"])
            case "error" if message["fatal"]:
                record.outcome = message["code"]
            case "done":
                record.outcome = "done"
        if message["type"] == "words":
            record.words += len(message["words"])
            for word in message["words"]:
                record.emission.append((since + now, now - word["end"]))
                heard = word["end"] + record.delay + POSITION_S + LOOK_AHEAD_S
                record.service.append(now - math.ceil(heard / chunk_s - 1e-6) * chunk_s)


class Meter:
    """CPU seconds and peak memory of the server and its children, sampled twice a second."""

    def __init__(self, pid: int | None) -> None:
        self._root = psutil.Process(pid) if pid else None
        self._cpu = self._cpu_s()
        self._began = time.monotonic()
        self.peak_mib = 0.0

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)] if self._root else []

    def _cpu_s(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._tree())

    async def watch(self) -> None:
        """Until cancelled."""
        while self._root:
            resident = sum(process.memory_info().rss for process in self._tree())
            self.peak_mib = max(self.peak_mib, resident / 2**20)
            await asyncio.sleep(0.5)

    def cores(self) -> float:
        """Cores in use on average since the start."""
        return (self._cpu_s() - self._cpu) / (time.monotonic() - self._began)


def percentiles(values: list[float]) -> dict[str, float | None]:
    """p50, p95 and p99, or nulls when nothing was seen."""
    marks = (50, 95, 99)
    if not values:
        return {f"p{mark}": None for mark in marks}
    return {f"p{mark}": round(float(np.percentile(values, mark)), 3) for mark in marks}


def report(records: list[Record], meter: Meter) -> dict[str, object]:
    """The run in one dictionary."""
    emission = [pair for record in records for pair in record.emission]
    outcomes: dict[str, int] = {}
    for record in records:
        outcomes[record.outcome] = outcomes.get(record.outcome, 0) + 1
    slope = np.polyfit(*np.array(emission).T, 1)[0] * 60 if len(emission) > 2 else None
    return {
        "clients": len(records),
        "outcomes": outcomes,
        "sessions": sum(record.sessions for record in records),
        "words": sum(record.words for record in records),
        "first_word_s": percentiles([v for record in records for v in record.first_word]),
        "emission_s": percentiles([delay for _, delay in emission]),
        "beyond_s": percentiles([d - r.delay for r in records for _, d in r.emission if r.delay]),
        "service_s": percentiles([v for r in records for v in r.service if r.delay]),
        "closing_s": percentiles([v for record in records for v in record.closing]),
        "lag_slope_s_per_min": None if slope is None else round(float(slope), 4),
        "behind_max_s": max((record.behind for record in records), default=0.0),
        "client_slip_max_s": round(max(record.slip for record in records), 3),
        "server_cores": round(meter.cores(), 2),
        "server_peak_mib": round(meter.peak_mib),
    }


def part(args: argparse.Namespace, clients: int) -> list[Record]:
    """``clients`` clients of this process at once."""
    pcm = clip(args.clip, SAMPLE_RATE * args.chunk_ms // 1000)

    async def all_at_once() -> list[Record]:
        return list(await asyncio.gather(*(play(args.url, pcm, args) for _ in range(clients))))

    gc.disable()  # a pause of the clients' own would count as the server's
    return asyncio.run(all_at_once())


async def load(args: argparse.Namespace) -> dict[str, object]:
    """Run all clients at once, spread over the processes."""
    meter = Meter(args.pid)
    watching = asyncio.create_task(meter.watch())
    shares = [len(range(at, args.clients, args.processes)) for at in range(args.processes)]
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        parts = await asyncio.gather(
            *(loop.run_in_executor(pool, part, args, clients) for clients in shares)
        )
    watching.cancel()
    records = [record for records in parts for record in records]
    result = report(records, meter)
    if args.records:
        args.records.write_text(json.dumps([asdict(record) for record in records]))
    return result


def holds(result: dict[str, Any], seconds: float, bound: float) -> bool:
    """Whether everyone came to the end, within the bound and without a growing backlog."""
    p99, slope = result["beyond_s"]["p99"], result["lag_slope_s_per_min"]
    done = set(result["outcomes"]) == {"done"}
    growth = (slope or 0.0) * seconds / 60
    return done and p99 is not None and p99 <= bound and growth <= GROWTH_S


def most(fits: Callable[[int], bool], low: int, high: int, step: int) -> int:
    """The largest of ``low, low + step, ... high`` that fits, if what is smaller does too; or 0."""
    fitting, failing = low - step, high + step
    while failing - fitting > step:
        middle = fitting + max(1, (failing - fitting) // step // 2) * step
        if fits(middle):
            fitting = middle
        else:
            failing = middle
    return fitting if fitting >= low else 0


def ramp(args: argparse.Namespace) -> int:
    """Exit status 1 where not even the fewest clients stay within the bound."""

    def fits(clients: int, seconds: float = args.seconds) -> bool:
        once = argparse.Namespace(**{**vars(args), "clients": clients, "seconds": seconds})
        result = asyncio.run(load(once))
        within = holds(result, seconds, args.bound)
        print(json.dumps({"seconds": seconds, "holds": within, **result}), flush=True)
        return within

    low, high = args.ramp
    step = max(1, (high - low) // 16)
    clients = most(fits, low, low + (high - low) // step * step, step)
    while clients and not fits(clients, args.confirm):
        clients = clients - step if clients > low else 0
    return 0 if clients else 1


def main() -> int:
    """Exit status 1 when any client did not come to its end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="ws://host:port/v1/live")
    parser.add_argument("clip", type=Path, help="an audio file with speech")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60, help="audio per client")
    parser.add_argument("--session-s", type=float, help="stop and join again after about so long")
    parser.add_argument("--chunk-ms", type=int, default=80, help="audio per message")
    parser.add_argument("--processes", type=int, default=1, help="that the clients run in")
    parser.add_argument("--spread", type=float, default=1.0, help="random phase, seconds")
    parser.add_argument("--delay-ms", type=int, help="ask for this model delay")
    parser.add_argument("--no-vad", action="store_true", help="have every sample heard")
    parser.add_argument("--pid", type=int, help="the server's process, for CPU and memory")
    parser.add_argument("--records", type=Path, help="write every client's raw record here")
    parser.add_argument("--ramp", type=int, nargs=2, metavar=("LEAST", "MOST"), help="see above")
    parser.add_argument("--bound", type=float, default=0.16, help="seconds beyond the delay, p99")
    parser.add_argument("--confirm", type=float, default=180, help="seconds of a ramp's last run")
    args = parser.parse_args()
    if args.ramp:
        return ramp(args)
    result = asyncio.run(load(args))
    print(json.dumps(result, indent=2))
    return 0 if set(result["outcomes"]) == {"done"} else 1


if __name__ == "__main__":
    sys.exit(main())
