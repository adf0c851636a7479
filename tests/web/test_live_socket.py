"""A connection in simulated time: receive timeouts, and the order of audio and commands."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from support.scripted import Client, Deaf, serve
from support.simulated import simulate

from voxlive.engines.contract import Progressed, Sink, StreamOptions
from voxlive.values import Samples
from voxlive.web.protocols.deepgram import DeepgramProtocol
from voxlive.web.protocols.live import LiveProtocol

QUERY = b"encoding=linear16&sample_rate=16000"
KEEP_ALIVE = {"type": "websocket.receive", "text": '{"type": "KeepAlive"}'}
FINALIZE = {"type": "websocket.receive", "text": '{"type": "Finalize"}'}
START = {"type": "websocket.receive", "text": '{"type": "start", "format": "s16le", "vad": false}'}
SILENCE = {"type": "websocket.receive", "bytes": bytes(3200)}


class Slow(Deaf):
    """It needs a minute for whatever it is fed."""

    def open(self, options: StreamOptions, sink: Sink) -> Slow:
        self._sink = sink
        return super().open(options, sink)

    def feed(self, audio: Samples, at: int) -> None:
        heard = Progressed(at + len(audio))
        asyncio.get_running_loop().call_later(60, self._sink, heard)


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
def test_ten_seconds_without_a_frame_close_with_net_0001(script, end):
    client = Client(*script)
    engine = simulate(serve(client, DeepgramProtocol, query=QUERY))
    *_, (_, error), (at, close) = client.heard
    assert json.loads(error["text"])["variant"] == "idle"
    assert (close["type"], close["code"]) == ("websocket.close", 1011)
    assert close["reason"].startswith("NET-0001")
    assert at == pytest.approx(end, abs=0.2)
    assert engine.in_use == 0


def test_keep_alives_hold_a_connection_open():
    end = {"type": "websocket.receive", "text": '{"type": "CloseStream"}'}
    client = Client(*((5.0 * n, KEEP_ALIVE) for n in range(1, 721)), (3601, end))
    simulate(serve(client, DeepgramProtocol, query=QUERY))
    at, close = client.heard[-1]
    assert close["code"] == 1000
    assert at == pytest.approx(3601, abs=0.2)


def test_a_client_may_be_silent_while_its_audio_is_processed():
    second = {"type": "websocket.receive", "bytes": bytes(32_000)}
    client = Client(*[(1, second)] * 60)
    simulate(serve(client, DeepgramProtocol, Slow(), speech=1.0, query=QUERY))
    at, close = client.heard[-1]
    assert close["reason"].startswith("NET-0001")
    assert at > 60


def test_without_a_receive_timeout_a_client_may_be_silent():
    client = Client((0, START), (86_400, {"type": "websocket.disconnect", "code": 1001}))
    simulate(serve(client, LiveProtocol))
    _, ready = client.heard
    assert json.loads(ready[1]["text"])["type"] == "ready"


def test_a_client_that_never_starts_a_session_is_closed():
    client = Client((86_400, {"type": "websocket.disconnect", "code": 1001}))
    engine = simulate(serve(client, LiveProtocol))
    *_, (_, error), (at, close) = client.heard
    assert json.loads(error["text"])["code"] == "idle"
    assert close["code"] == 1008
    assert at == pytest.approx(60, abs=0.2)
    assert engine.in_use == 0


CHUNK = 320  # 20 ms
START_ORDER = '{"type": "start", "format": "s16le", "vad": false}'


class DelayedEngine(Deaf):
    """It is through with what it was fed a second later, and keeps all of it."""

    def open(self, options: StreamOptions, sink: Sink) -> DelayedEngine:
        self.fed: list[int] = []
        self._sink = sink
        return super().open(options, sink)

    def feed(self, audio: Samples, at: int) -> None:
        self.fed += np.rint(audio * 32768).astype(int).tolist()
        heard = Progressed(at + len(audio))
        asyncio.get_running_loop().call_later(1, self._sink, heard)


def text(**message) -> dict:
    return {"type": "websocket.receive", "text": json.dumps(message)}


def test_audio_and_commands_keep_their_order():
    """More at once than the engine has room for, and more whenever it has made some."""
    script = [(0.0, {"type": "websocket.receive", "text": START_ORDER})]
    for number in range(4000):
        at = max(0, number - 2000) // 500  # when the engine has made room
        data = np.full(CHUNK, number, "<i2").tobytes()
        script.append((at, {"type": "websocket.receive", "bytes": data}))
        if number % 500 == 250:
            script.append((at, text(type="flush", id=str(number))))
    script.append((90.0, text(type="stop")))
    client, engine = Client(*script), DelayedEngine()
    simulate(serve(client, LiveProtocol, engine))
    assert engine.fed == np.repeat(np.arange(4000), CHUNK).tolist()
    said = [json.loads(message["text"]) for _, message in client.heard if message.get("text")]
    flushed = [int(message["id"]) for message in said if message["type"] == "flushed"]
    assert flushed == list(range(250, 4000, 500))
    assert said[-1]["type"] == "done"
    assert said[-1]["duration"] == 80
