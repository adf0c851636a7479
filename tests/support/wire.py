"""Clients of the live protocols as tests need them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

START = {"type": "start", "format": "s16le"}


@dataclass
class ServerOutput:
    """Everything a server said on one connection, how much of it came while audio was still being
    sent, and its close code.
    """

    messages: list[dict] = field(default_factory=list)
    while_playing: int = 0
    code: int | None = None

    def of(self, kind: str | None) -> list[dict]:
        """The messages of one type; None for those without a type."""
        return [message for message in self.messages if message.get("type") == kind]

    @property
    def errors(self) -> list[str]:
        return [message["code"] for message in self.of("error")]


def s16le(samples: np.ndarray) -> bytes:
    """16-bit PCM of float samples; exact for those that came from 16-bit files."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes()


@asynccontextmanager
async def dial(url: str, **options) -> AsyncIterator[ClientConnection]:
    async with connect(url, compression=None, max_size=None, **options) as socket:
        yield socket


async def send(socket: ClientConnection, *frames: dict | str | bytes) -> None:
    for frame in frames:
        await socket.send(json.dumps(frame) if isinstance(frame, dict) else frame)


async def receive(socket: ClientConnection) -> dict:
    return json.loads(await socket.recv())


async def receive_until(socket: ClientConnection, kind: str) -> list[dict]:
    """Messages up to the first of a type, which is the last of the list."""
    messages = [await receive(socket)]
    while messages[-1].get("type") != kind:
        messages.append(await receive(socket))
    return messages


async def listen(socket: ClientConnection, heard: ServerOutput | None = None) -> ServerOutput:
    """Everything until the server closes; an ``/asr`` client closes after ``ready_to_stop``."""
    heard = heard or ServerOutput()
    try:
        while True:
            heard.messages.append(await receive(socket))
            if heard.messages[-1].get("type") == "ready_to_stop":
                await socket.close()
    except ConnectionClosed:
        heard.code = socket.close_code
    return heard


async def play(socket: ClientConnection, audio: bytes, pace: float | None, chunk: int) -> None:
    """Send s16le at 16 kHz in chunks, at ``pace`` times real time; None is as fast as it goes."""
    clock = asyncio.get_running_loop()
    began = clock.time()
    for at in range(0, len(audio), chunk):
        if pace:
            await asyncio.sleep(began + (at + chunk) / 32_000 / pace - clock.time())
        await socket.send(audio[at : at + chunk])


Hold = tuple[int, Callable[[ServerOutput], bool]] | None
"""From which byte on audio is sent once a condition holds. It lies in a pause: where no audio comes
for two seconds in mid-speech, the utterance ends there."""


async def live(
    url: str,
    audio: bytes,
    *,
    pace: float | None = None,
    chunk: int = 3200,
    hold: Hold = None,
    **start,
) -> ServerOutput:
    """A whole session of ``/v1/live``."""
    async with dial(f"{url}/v1/live") as socket:
        await send(socket, {**START, **start})
        return await _converse(socket, audio, pace, chunk, {"type": "stop"}, hold)


async def asr(
    url: str,
    audio: bytes,
    *,
    pace: float | None = None,
    chunk: int = 3200,
    query: str = "",
    hold: Hold = None,
) -> ServerOutput:
    """A whole session of ``/asr``, as ``live`` is one."""
    async with dial(f"{url}/asr{query}") as socket:
        return await _converse(socket, audio, pace, chunk, b"", hold)


async def _converse(
    socket: ClientConnection,
    audio: bytes,
    pace: float | None,
    chunk: int,
    end: dict | bytes,
    hold: Hold,
) -> ServerOutput:
    heard = ServerOutput()
    listening = asyncio.create_task(listen(socket, heard))
    try:
        if hold:
            at, holds = hold
            await play(socket, audio[:at], pace, chunk)
            # There is nothing to wait on but what is received.
            while not (holds(heard) or listening.done()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            audio = audio[at:]
        await play(socket, audio, pace, chunk)
        heard.while_playing = len(heard.messages)
        await send(socket, end)
    except ConnectionClosed:
        pass  # refused: what was said about it is heard all the same
    return await listening


def text_of_lines(lines: list[dict]) -> str:
    return " ".join(line["text"] for line in lines if line["speaker"] != -2)
