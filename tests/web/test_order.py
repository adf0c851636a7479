"""Audio that is heard at once and audio that is put aside: all in the order in which it came."""

import asyncio
import json

import numpy as np
from support.scripted import Client, Deaf, serve
from support.simulated import simulate

from voxlive.streaming.engine import Progressed, Samples, Sink, StreamOptions
from voxlive.web.protocols.live import LiveProtocol

CHUNK = 320  # 20 ms
START = '{"type": "start", "format": "s16le", "vad": false}'


class Late(Deaf):
    """It is through with what it was fed a second later, and keeps all of it."""

    def open(self, options: StreamOptions, sink: Sink) -> "Late":
        self.fed: list[int] = []
        self._sink = sink
        return super().open(options, sink)

    def feed(self, audio: Samples, at: int) -> None:
        self.fed += np.rint(audio * 32768).astype(int).tolist()
        heard = Progressed(at + len(audio))
        asyncio.get_running_loop().call_later(1, self._sink, heard)


def text(**message) -> dict:
    return {"type": "websocket.receive", "text": json.dumps(message)}


def test_audio_and_commands_keep_their_order_however_fast_they_come():
    """More at once than the engine has room for, and more whenever it has made some."""
    script = [(0.0, {"type": "websocket.receive", "text": START})]
    for number in range(4000):
        at = max(0, number - 2000) // 500  # when the engine has made room
        data = np.full(CHUNK, number, "<i2").tobytes()
        script.append((at, {"type": "websocket.receive", "bytes": data}))
        if number % 500 == 250:
            script.append((at, text(type="flush", id=str(number))))
    script.append((90.0, text(type="stop")))
    client, engine = Client(*script), Late()
    simulate(serve(client, LiveProtocol, engine))
    assert engine.fed == np.repeat(np.arange(4000), CHUNK).tolist()
    said = [json.loads(message["text"]) for _, message in client.heard if message.get("text")]
    flushed = [int(message["id"]) for message in said if message["type"] == "flushed"]
    assert flushed == list(range(250, 4000, 500))
    assert said[-1]["type"] == "done"
    assert said[-1]["duration"] == 80
