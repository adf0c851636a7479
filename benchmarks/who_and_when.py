"""What turns and speakers cost a live session: processor time of the server, in one run.

    PYTHONPATH=tests python benchmarks/who_and_when.py DIR [--sessions 3] [--rounds 2]

DIR holds recordings, as for ``rooms.py``. A server with ``--model`` has so many sessions at real
speed, each a room of three people of its own: without, with ``turns``, with ``diarize`` and with
both, in turn, in every round the other way round. All processes of the server count. Drafts are
made as long as there is time, so that a session's share of a core says nothing of how many a
machine holds; the longest lag that was reported says whether these kept up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path

import numpy as np
import psutil
from rooms import clips, room
from support.server import Server, serving
from support.wire import dial, s16le, send

from voxlive.values import SAMPLE_RATE

WAYS: dict[str, dict[str, object]] = {
    "neither": {},
    "turns": {"turns": True},
    "speakers": {"diarize": True},
    "both": {"turns": True, "diarize": True},
}


def spent(server: Server) -> float:
    """Seconds of a processor that the server and its children have taken."""
    root = psutil.Process(server.process.pid)
    times = [one.cpu_times() for one in (root, *root.children(recursive=True))]
    return sum(one.user + one.system for one in times)


async def listen(server: Server, audio: bytes, start: dict[str, object]) -> float:
    """One session at real speed; the longest lag that it reported, in seconds."""
    lag = 0.0
    async with dial(f"{server.ws}/v1/live") as socket:
        await send(socket, {"type": "start", "format": "s16le", "rate": SAMPLE_RATE, **start})
        json.loads(await socket.recv())

        async def speak() -> None:
            began, size = time.monotonic(), SAMPLE_RATE // 5
            for at in range(0, len(audio) // 2, size):
                await asyncio.sleep(began + at / SAMPLE_RATE - time.monotonic())
                await socket.send(audio[2 * at : 2 * (at + size)])
            await send(socket, {"type": "stop"})

        speaking = asyncio.create_task(speak())
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "lag":
                lag = max(lag, message["behind_s"])
        await speaking
    return lag


async def measure(
    server: Server, audios: list[bytes], start: dict[str, object]
) -> tuple[float, float]:
    """Per cent of a core that a session takes, and the longest lag of all."""
    before = spent(server)
    lags = await asyncio.gather(*(listen(server, audio, start) for audio in audios))
    seconds = sum(len(audio) / 2 / SAMPLE_RATE for audio in audios)
    return 100 * (spent(server) - before) / seconds, max(lags)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--model", default="whisper-tiny.en")
    options = parser.parse_args()
    everybody = clips(options.folder, whole=False)
    audios = [
        s16le(room(everybody, 3, 0, None, 900 + one)[0][: options.seconds * SAMPLE_RATE])
        for one in range(options.sessions)
    ]
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with serving("--model", options.model, "--max-sessions", str(options.sessions)) as server:
        asyncio.run(measure(server, [one[: 10 * SAMPLE_RATE] for one in audios], WAYS["both"]))
        for number in range(options.rounds):
            ways = [*WAYS] if number % 2 == 0 else [*reversed(WAYS)]
            for way in ways:
                found[way].append(asyncio.run(measure(server, audios, WAYS[way])))
    print("| | % of a core a session, by round | mean | longest lag |")
    for way, measured in found.items():
        shares = [share for share, _ in measured]
        mean, lag = float(np.mean(shares)), max(lag for _, lag in measured)
        listed = ", ".join(f"{share:.1f}" for share in shares)
        print(f"| {way} | {listed} | {mean:.1f} | {lag:.1f} s |")


if __name__ == "__main__":
    main()
