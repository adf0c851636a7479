"""How much later a message comes through a load balancer than directly.

    python benchmarks/through_haproxy.py --pairs 3000
    python benchmarks/through_haproxy.py --direct ws://10.0.0.1:8000 --through ws://10.0.0.9:8080

A session of ``/v1/live`` directly and another one through the load balancer take turns, which of
them is first changing from pair to pair: each sends a ``flush`` and waits for its ``flushed``. So
the time is that of a message there and another one back. Without addresses it starts a server with
the small Voxtral, which has nothing to do, and HAProxy by ``deploy/haproxy.cfg`` before it: both
sessions are then of the same server. With ``--sessions`` so many others send silence meanwhile,
half of them each way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "models" / "tiny-voxtral"
READY = re.compile(r"ready at http://(\S+)")
CHUNK_S = 0.1
SILENCE = bytes(round(32_000 * CHUNK_S))
_WARM = 200


@contextmanager
def serving(sessions: int) -> Iterator[tuple[str, str]]:
    """A server, and HAProxy in front of it: the address of each."""
    command = [sys.executable, "-m", "voxlive", "serve", "--port", "0", "--no-store"]
    command += ["--model", str(TINY), "--device", "cpu", "--max-sessions", str(sessions)]
    with ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(server.terminate)
        assert server.stdout
        place = next(found[1] for line in server.stdout if (found := READY.search(line)))
        with socket.create_server(("127.0.0.1", 0)) as free:
            bind = f"127.0.0.1:{free.getsockname()[1]}"
        env = {"VOXLIVE_BIND": bind, "VOXLIVE_1": place, "VOXLIVE_2": place}
        config = str(ROOT / "deploy" / "haproxy.cfg")
        proxy = subprocess.Popen(["haproxy", "-db", "-f", config], env={**os.environ, **env})
        stack.enter_context(proxy)
        stack.callback(proxy.terminate)
        yield f"ws://{place}", f"ws://{bind}"


@asynccontextmanager
async def session(url: str) -> AsyncIterator[ClientConnection]:
    """One that has begun; waits until there is somebody at the address."""
    while True:
        try:
            socket = await connect(f"{url}/v1/live", compression=None)
            break
        except (OSError, InvalidHandshake):
            await asyncio.sleep(0.1)
    async with socket:
        await socket.send('{"type": "start", "format": "s16le"}')
        while json.loads(await socket.recv())["type"] != "ready":
            pass
        yield socket


async def there_and_back(client: ClientConnection, number: int) -> float:
    """Milliseconds from a flush to its answer."""
    began = time.perf_counter()
    await client.send(f'{{"type": "flush", "id": "{number}"}}')
    answer = json.loads(await client.recv())
    assert answer["type"] == "flushed", answer
    return 1000 * (time.perf_counter() - began)


async def be_silent(url: str) -> None:
    """Another session, which goes on until it is cancelled."""
    async with session(url) as client, asyncio.TaskGroup() as both:

        async def hear() -> None:
            async for _ in client:
                pass

        both.create_task(hear())
        while True:
            await client.send(SILENCE)
            await asyncio.sleep(CHUNK_S)


async def measure(
    direct: str, through: str, pairs: int, others: int, pause_s: float
) -> tuple[list[float], list[float]]:
    """Milliseconds of each pair, directly and through."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        beside = [group.create_task(be_silent(through if n % 2 else direct)) for n in range(others)]
        sides = [await stack.enter_async_context(session(url)) for url in (direct, through)]
        found: tuple[list[float], list[float]] = ([], [])
        for number in range(_WARM + pairs):
            for side in (0, 1) if number % 2 else (1, 0):
                took = await there_and_back(sides[side], number)
                if number >= _WARM:
                    found[side].append(took)
                await asyncio.sleep(pause_s)
        for task in beside:
            task.cancel()
    return found


def report(name: str, values: Sequence[float]) -> None:
    """Its middle and its tail."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    print(f"{name}: p50 {cuts[49]:.2f}, p90 {cuts[89]:.2f}, p99 {cuts[98]:.2f} ms")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--direct", help="address of a server, as ws://HOST:PORT")
    parser.add_argument("--through", help="that of the load balancer in front of it")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--sessions", type=int, default=0, help="that send silence meanwhile")
    parser.add_argument("--pause-ms", type=float, default=5.0, help="between two messages")
    args = parser.parse_args()
    if (args.direct is None) != (args.through is None):
        parser.error("--direct and --through go together")
    with ExitStack() as stack:
        if args.direct:
            direct, through = args.direct, args.through
        else:
            direct, through = stack.enter_context(serving(args.sessions + 2))
        work = measure(direct, through, args.pairs, args.sessions, args.pause_ms / 1000)
        alone, later = asyncio.run(work)
    report("directly", alone)
    report("through", later)
    report("more, within a pair", [b - a for a, b in zip(alone, later, strict=True)])


if __name__ == "__main__":
    main()
