"""A live session at real time while a long file goes through REST on the same server.

    voxlive serve --port 8765 & python benchmarks/beside_file.py http://127.0.0.1:8765 \
        tests/audio/minute.flac --minutes 30

The live session is heard alone for its first minute, then beside the file. What is told: how far
the engine was behind the audio received (the server's own ``lag`` messages), alone and beside the
file, and whether the file's text is whole.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import httpx
import jiwer
from long_file import write_long
from websockets.asyncio.client import ClientConnection, connect

from voxlive.streaming.ingest.media import read_file

_CHUNK_S = 0.08


async def speak(socket: ClientConnection, pcm: bytes, stop: asyncio.Event) -> None:
    """Send the clip over and over at real time."""
    size, began, sent = int(_CHUNK_S * 16_000) * 2, time.monotonic(), 0
    while not stop.is_set():
        at = sent % (len(pcm) - size)
        await socket.send(pcm[at : at + size])
        sent += size
        await asyncio.sleep(max(0.0, began + sent / 32_000 - time.monotonic()))
    await socket.send('{"type": "stop"}')


async def lags(socket: ClientConnection) -> list[tuple[float, float]]:
    """When the server said how far it is behind, and how far: both in seconds."""
    found = []
    async for text in socket:
        message = json.loads(text)
        if message["type"] == "lag":
            found.append((time.monotonic(), message["behind_s"]))
        if message["type"] == "error":
            raise SystemExit(f"the live session failed: {message}")
    return found


async def upload(url: str, file: Path) -> dict:
    async with httpx.AsyncClient(timeout=None) as client:  # noqa: S113 - a file takes its time
        with file.open("rb") as data:
            answer = await client.post(
                f"{url}/v1/audio/transcriptions",
                files={"file": data},
                data={"response_format": "verbose_json"},
            )
    return answer.raise_for_status().json()


def worst(found: list[tuple[float, float]], start: float, end: float) -> str:
    behind = [lag for at, lag in found if start <= at < end]
    late = sum(lag > 0.5 for lag in behind)
    return f"worst {max(behind, default=0.0):.2f} s, {late} of {len(behind)} reports above 0.5 s"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("url", help="http://host:port")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--minutes", type=int, default=30, help="the clip's copies in the file")
    parser.add_argument("--alone", type=float, default=60, help="seconds before the upload")
    args = parser.parse_args()
    pcm = b"".join((block * 32767).astype("<i2").tobytes() for block in read_file(args.clip))
    stop = asyncio.Event()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "long.flac"
        write_long(args.clip, args.minutes, file)
        one = await upload(args.url, args.clip)
        live = f"{args.url.replace('http', 'ws', 1)}/v1/live"
        async with connect(live, max_size=None) as socket:
            await socket.send('{"type": "start", "format": "s16le"}')
            hearing, speaking = asyncio.create_task(lags(socket)), speak(socket, pcm, stop)
            talk = asyncio.create_task(speaking)
            begun = time.monotonic()
            await asyncio.sleep(args.alone)
            uploaded = time.monotonic()
            whole = await upload(args.url, file)
            done = time.monotonic()
            stop.set()
            await talk
            found = await hearing
    print(f"live alone:           {worst(found, begun, uploaded)}")
    print(f"live beside the file: {worst(found, uploaded, done)}")
    error = jiwer.wer(" ".join([one["text"]] * args.minutes), whole["text"])
    took = done - uploaded
    print(f"the file: {whole['duration']:.0f} s of audio in {took:.0f} s, "
          f"{len(whole['text'].split())} words, {100 * error:.2f} % unlike its parts")  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main())
