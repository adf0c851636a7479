"""How a client of each protocol talks over a real socket: its frames, and what it was told.

A *place* is where a protocol is served: a path, or the name of one with a port of its own.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from support.server import Server
from support.wire import ServerOutput, dial, listen, send
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event, async_read_event, async_write_event

PORTS = ("--whisper-live-port", "0", "--wyoming-port", "0")
"""What starts a server with every protocol."""

Frame = dict | str | bytes

DEEPGRAM = "/v1/listen?encoding=linear16&sample_rate=16000"
FORCE_END = {"type": "ForceEndTurn"}
FLUX = "/v2/listen?model=flux-general-en&encoding=linear16&sample_rate=16000"
FINALIZE = {"type": "Finalize"}
CLOSE = {"type": "CloseStream"}

MISTRAL = "/v1/audio/transcriptions/realtime?model=voxtral"
FLUSH = {"type": "input_audio.flush"}
END = {"type": "input_audio.end"}

WHISPER = "WhisperLive"
OPTIONS = {"uid": "u", "language": "en", "audio_format": "int16"}
OVER = b"END_OF_AUDIO"

PANEL = "/ws/live-listener"
BEGIN = {"type": "start", "session_id": "s", "sample_rate": 16_000, "format": "pcm_s16le"}
STOP = {"type": "stop", "session_id": "s"}

WYOMING = "Wyoming"
AUDIO_START, AUDIO_STOP = AudioStart(16_000, 2, 1).event(), AudioStop().event()


def encoded(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


def mistral_append(audio: bytes) -> dict:
    return {"type": "input_audio.append", "audio": encoded(audio)}


def append(audio: bytes) -> dict:
    """OpenAI's and vLLM's."""
    return {"type": "input_audio_buffer.append", "audio": encoded(audio)}


def chunk(audio: bytes) -> Event:
    return AudioChunk(16_000, 2, 1, audio).event()


def utterance(audio: bytes) -> tuple[Event, Event, Event]:
    return AUDIO_START, chunk(audio), AUDIO_STOP


@asynccontextmanager
async def connect(server: Server, place: str) -> AsyncIterator[ClientConnection]:
    """A WebSocket of any protocol that has them."""
    async with dial(server.others.get(place) or f"{server.ws}{place}") as socket:
        yield socket


async def outcome(server: Server, place: str, *frames: Frame) -> ServerOutput:
    """What a client hears that sends these frames and then listens.

    The server may close before it has read them all, as a full one does.
    """
    async with connect(server, place) as socket:
        with suppress(ConnectionClosed):
            await send(socket, *frames)
        return await listen(socket)


@asynccontextmanager
async def call(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to Wyoming's port."""
    host, port = server.others[WYOMING].removeprefix("tcp://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def wyoming(server: Server, *frames: Event | bytes) -> list[Event]:
    """What a client hears that sends these, then no more, until the server closes."""
    async with call(server) as (reader, writer):
        for frame in frames:
            if isinstance(frame, bytes):
                writer.write(frame)
            else:
                await async_write_event(frame, writer)
        writer.write_eof()
        heard = []
        while event := await async_read_event(reader):
            heard.append(event)
        return heard


def deepgram_finals(heard: ServerOutput) -> str:
    results = [m for m in heard.of("Results") if m["is_final"]]
    return " ".join(filter(None, (m["channel"]["alternatives"][0]["transcript"] for m in results)))


def completed(heard: ServerOutput) -> str:
    """WhisperLive's complete segments."""
    updates = [message["segments"] for message in heard.messages if "segments" in message]
    return "".join(segment["text"] for segment in updates[-1] if segment["completed"])


def panel_finals(heard: ServerOutput, source: str = "system") -> str:
    return " ".join(m["text"] for m in heard.of("asr_final") if m["source"] == source)


def transcripts(events: list[Event]) -> list[str]:
    """Wyoming's."""
    return [event.data["text"] for event in events if event.type == "transcript"]
