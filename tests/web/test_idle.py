"""Clients that say nothing, in simulated time."""

import asyncio
import json

import numpy as np
import pytest
from starlette.websockets import WebSocket
from support.simulated import simulate

from voxlive.streaming.engine import (
    EngineInfo,
    Progressed,
    Reached,
    Samples,
    Sink,
    StreamOptions,
)
from voxlive.streaming.service import Service
from voxlive.vad.detector import VoiceDetector
from voxlive.web.endpoints import LiveEndpoints
from voxlive.web.protocols.deepgram import DeepgramProtocol
from voxlive.web.protocols.live import LiveProtocol

QUERY = b"encoding=linear16&sample_rate=16000"
KEEP_ALIVE = {"type": "websocket.receive", "text": '{"type": "KeepAlive"}'}
FINALIZE = {"type": "websocket.receive", "text": '{"type": "Finalize"}'}
SILENCE = {"type": "websocket.receive", "bytes": bytes(3200)}


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


class Slow(Deaf):
    """It needs a minute for whatever it is fed."""

    def open(self, options: StreamOptions, sink: Sink) -> "Slow":
        self._sink = sink
        return super().open(options, sink)

    def feed(self, audio: Samples, at: int) -> None:
        heard = Progressed(at + len(audio))
        asyncio.get_running_loop().call_later(60, self._sink, heard)


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


async def serve(client: Client, protocol, engine: Deaf | None = None) -> Deaf:
    """A connection from its beginning to its end."""
    engine = engine or Deaf()
    scope = {
        "type": "websocket",
        "path": "/",
        "query_string": QUERY,
        "headers": [],
        "subprotocols": [],
        "server": ("test", 80),
    }
    detector = VoiceDetector(Always(1.0 if isinstance(engine, Slow) else 0.0))
    serving = LiveEndpoints(Service(engine, detector)).endpoint(protocol)
    await serving(WebSocket(scope, client.receive, client.send))
    detector.close()
    return engine


@pytest.mark.conforms(
    "Deepgram",
    "ten seconds without a frame",
    "close 1011, `NET-0001`",
)
@pytest.mark.parametrize(
    ("script", "end"),
    [
        ([], 10),
        ([(8, KEEP_ALIVE), (17, KEEP_ALIVE)], 27),
        ([(9.9, SILENCE)], 19.9),
        ([(3, FINALIZE)], 13),
    ],
)
def test_ten_seconds_without_a_word_from_the_client_close_with_net_0001(script, end):
    client = Client(*script)
    engine = simulate(serve(client, DeepgramProtocol))
    *_, (_, error), (at, close) = client.heard
    assert json.loads(error["text"])["variant"] == "idle"
    assert (close["type"], close["code"]) == ("websocket.close", 1011)
    assert close["reason"].startswith("NET-0001")
    assert at == pytest.approx(end, abs=0.2)
    assert engine.in_use == 0


def test_a_client_that_keeps_alive_stays_for_as_long_as_it_likes():
    end = {"type": "websocket.receive", "text": '{"type": "CloseStream"}'}
    client = Client(*((5.0 * n, KEEP_ALIVE) for n in range(1, 721)), (3601, end))
    simulate(serve(client, DeepgramProtocol))
    at, close = client.heard[-1]
    assert close["code"] == 1000
    assert at == pytest.approx(3601, abs=0.2)


def test_a_client_may_wait_in_silence_while_what_it_sent_is_not_heard_yet():
    second = {"type": "websocket.receive", "bytes": bytes(32_000)}
    client = Client(*[(1, second)] * 60)
    simulate(serve(client, DeepgramProtocol, Slow()))
    at, close = client.heard[-1]
    assert close["reason"].startswith("NET-0001")
    assert at > 60


def test_where_the_protocol_has_no_such_rule_a_client_may_be_silent():
    client = Client((86_400, {"type": "websocket.disconnect", "code": 1001}))
    simulate(serve(client, LiveProtocol))
    assert [message["type"] for _, message in client.heard] == ["websocket.accept"]
