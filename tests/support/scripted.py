"""Clients that do one thing after another at set times, and an engine that hears nothing.

Meant for simulated time: neither a socket nor a thread of an engine is in the way.
"""

import asyncio

import numpy as np
from starlette.websockets import WebSocket
from support.simulated import SimulatedDetector

from voxlive.engines.contract import EngineInfo, Reached, Sink, StreamOptions
from voxlive.streaming.service import Service
from voxlive.values import Samples
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels


class Deaf:
    """An engine and its one stream: it hears nothing and answers every flush."""

    trail = 0

    def __init__(self) -> None:
        self.info = EngineInfo("deaf", "none", "cpu", 1, ())
        self.in_use = 0

    def open(self, options: StreamOptions, sink: Sink) -> "Deaf":
        self.in_use = 1
        self.flush = self.end_utterance = lambda marker: sink(Reached(marker))
        return self

    def feed(self, audio: Samples, at: int) -> None:
        pass

    def close(self) -> None:
        self.in_use = 0


class Always:
    """A voice detector's network that hears the same in everything."""

    def __init__(self, probability: float) -> None:
        self._probability = probability

    def step(self, frames: Samples, state: Samples) -> tuple[Samples, Samples]:
        return np.full(len(frames), self._probability, np.float32), state


class Client:
    """Sends each message at its time; what it was sent is kept with the time at which it was."""

    def __init__(self, *script: tuple[float, dict]) -> None:
        self._script = [(0.0, {"type": "websocket.connect"}), *script]
        self.heard: list[tuple[float, dict]] = []

    async def receive(self) -> dict:
        if not self._script:
            await asyncio.Event().wait()
        await asyncio.sleep(self._script[0][0] - asyncio.get_running_loop().time())
        return self._script.pop(0)[1]

    async def send(self, message: dict) -> None:
        self.heard.append((asyncio.get_running_loop().time(), message))


async def serve(
    client: Client, protocol, engine: Deaf | None = None, speech: float = 0.0, query: bytes = b""
) -> Deaf:
    """A connection from its beginning to its end; ``speech`` is how likely all of it is any."""
    engine = engine or Deaf()
    scope = {
        "type": "websocket",
        "path": "/",
        "query_string": query,
        "headers": [],
        "subprotocols": [],
        "server": ("test", 80),
    }
    detector = SimulatedDetector(Always(speech))
    serving = LiveEndpoints(LiveModels(Service(engine, detector))).endpoint(protocol)
    await serving(WebSocket(scope, client.receive, client.send))
    detector.close()
    return engine
