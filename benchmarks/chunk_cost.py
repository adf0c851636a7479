"""What one 80 ms chunk costs the server besides its model: CPU from the socket to its words.

    python benchmarks/chunk_cost.py                              # 64 sessions
    python benchmarks/chunk_cost.py --sessions 160 --vad
    python benchmarks/chunk_cost.py --against ../before --pairs 10
    python benchmarks/chunk_cost.py --traced --pairs 10          # what traces of sessions cost

Sessions of ``/v1/live`` run in one process over an ASGI harness, on the server's event loop. A null
engine answers on a thread of its own: progress for every chunk, a word for every fourth. Every
round each session gets one chunk, a few at a time, and the next round begins when all are answered;
nothing is behind. The figure is the CPU of the process, harness included, which is the same on both
sides.

``--against`` names another checkout of this repository. Then each measurement is a process of its
own and the two take turns: on a shared machine only the ratios within pairs say much. With
``--traced`` the other side is this checkout, in which sessions are traced: an utterance ends every
40 chunks on both sides, and a collector in another process gets the spans.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import uvloop
from starlette.websockets import WebSocket

from voxlive.engines.contract import (
    Committed,
    EngineInfo,
    Message,
    Progressed,
    Reached,
    Sink,
    StreamOptions,
)
from voxlive.streaming.service import Service
from voxlive.vad.detector import VoiceDetector
from voxlive.values import Samples, Word
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels
from voxlive.web.protocols.live import LiveProtocol

FLUSH = '{"type": "flush", "id": "end"}'
CHUNK = bytes(2560)  # 80 ms of 16-bit PCM at 16 kHz
GROUP = 8  # chunks that arrive in one turn of the loop
EVERY = 4  # chunks for a word
UTTERANCE = 40  # chunks, where utterances end


class NullEngine:
    """Answers from a thread: that it is through with all audio, and a word now and then."""

    steps = None

    def __init__(self, capacity: int) -> None:
        self.info = EngineInfo("null", "none", "cpu", capacity, ())
        self.in_use = 0
        self.answered = 0
        self._items: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def open(self, _options: StreamOptions, sink: Sink) -> NullStream:
        """A stream that hears nothing."""
        self.in_use += 1
        return NullStream(self, sink)

    def post(self, *messages: Message, to: Sink) -> None:
        """Hand these over on the engine's thread."""
        self._items.put(lambda: [to(message) for message in messages] and None)

    def _run(self) -> None:
        while item := self._items.get():
            item()
            self.answered += 1

    def shutdown(self) -> None:
        """End the thread."""
        self._items.put(None)


class NullStream:
    """One session's."""

    trail = 0

    def __init__(self, engine: NullEngine, sink: Sink) -> None:
        self._engine = engine
        self._sink = sink
        self._fed = 0

    def feed(self, audio: Samples, at: int) -> None:
        """Progress, and the next word when it is due."""
        self._fed += 1
        upto = at + len(audio)
        word = Word(" word", at, upto)
        words = [Committed((word,))] if self._fed % EVERY == 0 else []
        self._engine.post(*words, Progressed(upto), to=self._sink)

    def end_utterance(self, marker: int) -> None:
        """Every word is out at once."""
        self._engine.post(Reached(marker), to=self._sink)

    flush = end_utterance

    def close(self) -> None:
        """Free the slot."""
        self._engine.in_use -= 1


class AllSpeech:
    """A network that takes everything for speech, and costs nothing."""

    def step(self, frames: Samples, state: Samples) -> tuple[Samples, Samples]:
        """Probabilities of 1."""
        return np.ones(len(frames), np.float32), state


class SocketClient:
    """The ASGI server's end of one socket."""

    def __init__(self, serve: Callable[[WebSocket], object], start: str) -> None:
        self._incoming: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        self._incoming.put_nowait({"type": "websocket.receive", "text": start})
        self.sent = 0
        scope = {
            "type": "websocket", "path": "/v1/live", "query_string": b"", "headers": [],
            "subprotocols": [], "server": ("test", 80),
        }  # fmt: skip
        socket = WebSocket(scope, self._incoming.get, self._send)  # type: ignore[arg-type]
        self.serving = asyncio.ensure_future(serve(socket))  # type: ignore[arg-type,type-var]

    async def _send(self, _message: object) -> None:
        self.sent += 1

    def receive(self, message: dict[str, object]) -> None:
        """A frame has arrived."""
        self._incoming.put_nowait(message)


async def measure(
    sessions: int, rounds: int, *, vad: bool, flush: bool = False, trace: str | None = None
) -> float:
    """CPU for each chunk in microseconds."""
    engine = NullEngine(sessions)
    detector = VoiceDetector(AllSpeech())  # type: ignore[arg-type]
    endpoints = LiveEndpoints(LiveModels(Service(engine, detector)))  # type: ignore[arg-type]
    serve = endpoints.endpoint(LiveProtocol)
    if trace:
        from voxlive.streaming.traces import TraceExporter

        os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "200"
        endpoints.metrics.traces = TraceExporter(trace)
    start = '{"type": "start", "format": "s16le", "rate": 16000, "channels": 1%s}'
    clients = [
        SocketClient(serve, start % ("" if vad else ', "vad": false')) for _ in range(sessions)
    ]
    while not all(client.sent >= 2 for client in clients):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    warm = max(10, rounds // 10)
    began = 0.0
    chunk: dict[str, object] = {"type": "websocket.receive", "bytes": CHUNK}
    for number in range(warm + rounds):
        if number == warm:
            await asyncio.sleep(1 if trace else 0)  # what is loaded for the first spans
            began = time.process_time()
        before = engine.answered
        for first in range(0, sessions, GROUP):
            for client in clients[first : first + GROUP]:
                client.receive(chunk)
            await asyncio.sleep(0.0005)
        # The gate keeps the first chunks of speech until it is sure of it.
        if flush:  # each in its turn, as speakers pause
            for client in clients[number % UTTERANCE :: UTTERANCE]:
                client.receive({"type": "websocket.receive", "text": FLUSH})
        patience = 200
        while engine.answered < before + sessions and (patience := patience - 1):  # noqa: ASYNC110
            await asyncio.sleep(0.0005)
    spent = time.process_time() - began
    for client in clients:
        client.receive({"type": "websocket.disconnect", "code": 1000})
    await asyncio.gather(*(client.serving for client in clients))
    engine.shutdown()
    detector.close()
    return spent / (sessions * rounds) * 1e6


@contextmanager
def collecting() -> Iterator[str]:
    """The URL of a collector that throws away what it gets."""

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def compare(other: Path | None, trace: str, pairs: int, options: list[str]) -> None:
    """Print each side's figures and the ratio of each pair; without another, of tracing."""
    here = Path(__file__).resolve().parent.parent
    sides = {"before": (other.resolve(), []), "after": (here, [])} if other else {
        "plain": (here, ["--flush"]), "traced": (here, ["--flush", "--trace", trace])
    }  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(pairs):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            root, more = sides[name]
            environment = {**os.environ, "PYTHONPATH": str(root)}
            command = [sys.executable, __file__, "--bare", *options, *more]
            run = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
            found[name].append(float(run.stdout))
    ratios = [after / before for before, after in zip(*found.values(), strict=True)]
    for name, values in found.items():
        print(f"{name}: median {statistics.median(values):.1f} us, least {min(values):.1f} us")
    low, *_, high = sorted(ratios)
    first, second = sides
    print(f"{second} / {first}: median {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--vad", action="store_true", help="through the voice detector's thread")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--traced", action="store_true", help="against sessions with traces")
    parser.add_argument("--flush", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--trace", help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--bare", action="store_true", help="print nothing but the figure")
    args = parser.parse_args()
    if args.against or args.traced:
        options = ["--sessions", str(args.sessions), "--rounds", str(args.rounds)]
        with ExitStack() as ending:
            url = ending.enter_context(collecting()) if args.traced else ""
            compare(args.against, url, args.pairs, options + ["--vad"] * args.vad)
        return
    asked = {"vad": args.vad, "flush": args.flush, "trace": args.trace}
    cost = uvloop.run(measure(args.sessions, args.rounds, **asked))
    print(f"{cost:.2f}" if args.bare else f"{cost:.1f} us of CPU for each chunk")


if __name__ == "__main__":
    main()
