"""Have many readers follow one session by its link, and report what that costs its speaker.

    python benchmarks/readers.py clip.wav --readers 500 --seconds 60 -- --model whisper-tiny.en

starts ``voxlive serve`` with what stands behind ``--``, speaks the clip in a loop as fast as it was
spoken, first without readers and then with them, as often as ``--pairs`` says, and prints a line of
JSON for each:
emission     the end of a word as the speaker sent it -> the word on the speaker's wire
reader       a word on the speaker's wire -> the same word at a reader
whole        readers whose words, joined, are those of the speaker
cpu          of one core, the server's process and its engine's; resident: their memory
and last how much later the speaker's words come with readers, over all pairs, with the interval
that holds 95 of 100 draws of as many pairs.

Readers are in a process of their own. They are raw sockets that keep what comes with its time, and
are read after the end, so that they cost little beside the server; and they give way to everything
else (niceness 19), as their processors are not the server's where it is used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import psutil

from voxlive.client import LiveClient
from voxlive.streaming.ingest.media import read_file
from voxlive.values import SAMPLE_RATE

CHUNK_S = 0.1
SETTLE_S = 3.0

Word = tuple[float, str]


class Reader(asyncio.Protocol):
    """One reader's connection: what came, and when."""

    def __init__(self, request: bytes, over: list[asyncio.Future[None]]) -> None:
        self._request = request
        self.parts: list[tuple[float, bytes]] = []
        self.begun = asyncio.get_running_loop().create_future()
        self._over = asyncio.get_running_loop().create_future()
        over.append(self._over)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.parts.append((time.time(), data))
        if not self.begun.done():
            self.begun.set_result(None)
        if b"event: done" in data and not self._over.done():
            self._over.set_result(None)

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._over.done():
            self._over.set_result(None)

    @property
    def words(self) -> list[Word]:
        """Each event's words with the time of its last byte."""
        found, text = [], ""
        for at, data in self.parts:
            text += data.decode(errors="replace").replace("\r", "")
            *blocks, text = text.split("\n\n")
            for block in blocks:
                if "event: words" in block:
                    value = json.loads(block[block.index("data: ") + 6 :].splitlines()[0])
                    found.append((at, value["text"]))
        return found


async def read(url: str, token: str, count: int, pipe: Connection) -> None:
    """Open the readers, say so, and send what each has once the session is over."""
    parts = urlsplit(url)
    head = ("GET /read/events HTTP/1.1", f"host: {parts.netloc}", f"authorization: Bearer {token}")
    request = "\r\n".join((*head, "", "")).encode()
    loop, over = asyncio.get_running_loop(), list[asyncio.Future[None]]()
    readers = []
    for _ in range(count):
        _, reader = await loop.create_connection(
            lambda: Reader(request, over), parts.hostname, parts.port
        )
        readers.append(reader)
    await asyncio.wait([reader.begun for reader in readers])
    pipe.send(True)
    await asyncio.wait(over)
    pipe.send([reader.words for reader in readers])


def read_in_process(url: str, token: str, count: int, pipe: Connection) -> None:
    """The process of the readers."""
    os.nice(19)
    asyncio.run(read(url, token, count, pipe))


async def speak(url: str, pcm: bytes, name: str, seconds: float) -> tuple[list[Word], list[float]]:
    """The words that the speaker got, with their times, and how long after their ends."""
    words: list[Word] = []
    emission: list[float] = []
    size = int(CHUNK_S * SAMPLE_RATE) * 2
    began = time.time()
    async with LiveClient(f"{url.replace('http', 'ws', 1)}/v1/live?captions={name}") as client:

        async def send() -> None:
            for n in range(int(seconds / CHUNK_S)):
                await asyncio.sleep(max(0.0, began + (n + 1) * CHUNK_S - time.time()))
                at = n * size % (len(pcm) // size * size)
                await client.send(pcm[at : at + size])
            await client.stop()

        sending = asyncio.create_task(send())
        async for message in client:
            if message["type"] == "words":
                now = time.time()
                words.append((now, "".join(word["text"] for word in message["words"])))
                emission += (now - began - word["end"] for word in message["words"])
        await sending
    return words, emission


def spread(values: list[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile, in milliseconds."""
    if not values:
        return {}
    found = np.percentile(np.array(values) * 1000, (50, 95, 99))
    return dict(zip(("p50", "p95", "p99"), (round(float(one), 1) for one in found), strict=True))


def delays(spoken: list[Word], read: list[Word]) -> list[float]:
    """How long after the speaker each text was at a reader that has them all."""
    return [at - before for (before, _), (at, _) in zip(spoken, read, strict=False)]


def make_link(url: str, name: str) -> str:
    """The token of a new link."""
    body = json.dumps({"captions": name}).encode()
    with urlopen(Request(f"{url}/v1/shares", body)) as answer:  # noqa: S310
        return str(json.load(answer)["token"])


def later(pairs: list[tuple[list[float], list[float]]], percentile: float) -> list[float]:
    """How much later the second of the pairs is at a percentile, and the interval's ends; in ms."""

    def difference(some: list[tuple[list[float], list[float]]]) -> float:
        alone, beside = (np.concatenate(side) for side in zip(*some, strict=True))
        return float(np.percentile(beside, percentile) - np.percentile(alone, percentile)) * 1000

    drawn = random.Random(500)
    draws = [difference(drawn.choices(pairs, k=len(pairs))) for _ in range(2000)]
    return [round(difference(pairs)), *(round(float(x)) for x in np.percentile(draws, (2.5, 97.5)))]


async def run(
    url: str, pcm: bytes, count: int, seconds: float, server: psutil.Process
) -> list[float]:
    """Speak with so many readers; print what was seen, and return how late each word came."""
    name = f"readers-{count}-{time.time_ns()}"
    token = await asyncio.to_thread(make_link, url, name)
    mine, theirs = multiprocessing.Pipe()
    readers = multiprocessing.Process(target=read_in_process, args=(url, token, count, theirs))
    if count:
        readers.start()
        await asyncio.to_thread(mine.recv)
    await asyncio.sleep(SETTLE_S)
    processes = [server, *server.children(recursive=True)]
    before = [sum(one.cpu_times()[:2]) for one in processes]
    began = time.time()
    words, emission = await speak(url, pcm, name, seconds)
    took = time.time() - began
    used = [sum(one.cpu_times()[:2]) - b for one, b in zip(processes, before, strict=True)]
    found = await asyncio.to_thread(mine.recv) if count else []
    text = "".join(part for _, part in words)
    whole = [one for one in found if "".join(part for _, part in one) == text]
    if count:
        readers.join()
    seen = {
        "readers": count,
        "seconds": round(took, 1),
        "words": len(text.split()),
        "whole": len(whole),
        "emission_ms": spread(emission),
        "reader_ms": spread([value for one in whole for value in delays(words, one)]),
        "cpu": [round(value / took, 3) for value in used],
        "resident_mb": [round(one.memory_info().rss / 1e6) for one in processes],
    }
    print(json.dumps(seen), flush=True)
    return emission


def main(args: argparse.Namespace, serve: list[str]) -> None:
    """The server, and both runs."""
    samples = np.concatenate(list(read_file(args.clip)))
    pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    command = [sys.executable, "-m", "voxlive", "serve", "--port", "0", "--no-store", *serve]
    to = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **to) as process:
        assert process.stdout
        url = ""
        for line in process.stdout:
            if found := re.search(r"ready at (\S+)", line):
                url = found[1]
                break
        try:
            server = psutil.Process(process.pid)
            pairs = []
            for _ in range(args.pairs):
                alone, beside = (
                    asyncio.run(run(url, pcm, count, args.seconds, server))
                    for count in (0, args.readers)
                )
                pairs.append((alone, beside))
            print(json.dumps({"later_ms": {f"p{one}": later(pairs, one) for one in (50, 95)}}))
        finally:
            process.terminate()


if __name__ == "__main__":
    own, _, rest = " ".join(sys.argv[1:]).partition(" -- ")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--readers", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    multiprocessing.set_start_method("spawn")
    main(parser.parse_args(own.split()), rest.split())
