"""Two servers behind a real HAProxy by ``deploy/haproxy.cfg``, on one Redis and one store."""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from support.postgres import PostgresServer
from support.redis_server import RedisServer, redis_serving
from support.server import Processes, Server, free_port, one_serving

KILL_REPLICA, STOP_REPLICA = "kill -9 of the replica", "SIGSTOP until another one has the session"
END_REPLICA, RESTART_REDIS = "SIGTERM of the replica", "Redis is restarted, empty"
RESTART_POSTGRES = "PostgreSQL is restarted while words come"
REDEPLOY = "each replica in turn is ended and started again"
DOWNSCALE = "the replica drains and is gone for good"
KILL_IN_OUTAGE = "kill -9 of the replica while Redis and PostgreSQL are away"
CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
_STATISTICS = """
frontend statistics
  bind "${STATISTICS}"
  mode http
  stats enable
  stats uri /
  stats show-legends
"""


class Replicas:
    """``url`` is HAProxy's; it also has what ``support.restarting.speak`` needs.

    ``servers`` are those that are there; ``postgres`` has the store, where that is to be restarted.
    """

    postgres: PostgresServer

    def __init__(
        self, stack: ExitStack, options: tuple[str, ...], key: str | None, redis: RedisServer
    ) -> None:
        self._stack, self._options, self._key = stack, options, key
        self.redis = redis
        self.servers = [self._start() for _ in range(2)]
        self.http, self._statistics = start_haproxy(stack, [one.url for one in self.servers])
        self.url = f"{self.http.replace('http', 'ws', 1)}/v1/live"

    def _start(self, *more: str) -> Server:
        options = (*self._options, "--log-level", "info", *more)
        return self._stack.enter_context(one_serving(*options, key=self._key))

    def passed_on_to(self) -> set[str]:
        """The addresses of the replicas that HAProxy gives clients to."""
        answer = httpx.get(f"{self._statistics}/;csv", timeout=60)
        rows = csv.DictReader(answer.text.removeprefix("# ").splitlines())
        return {row["addr"] for row in rows if row["addr"] and row["status"].startswith("UP")}

    async def _until_passed_on_to(self, *servers: Server) -> None:
        wanted = {urlsplit(one.url).netloc for one in servers}
        await _until(lambda: self.passed_on_to() == wanted)

    async def _with_and_without(self) -> tuple[Server, Server]:
        """The server that has the session, and the other one."""
        asked = (asyncio.to_thread(server.health) for server in self.servers)
        busy = [health["in_use"] for health in await asyncio.gather(*asked)]
        return self.servers[busy.index(1)], self.servers[busy.index(0)]

    async def suffer(self, fault: str) -> None:
        """Something happens: to the server that has the session, or to what both of them use."""
        if fault == RESTART_REDIS:
            self.redis.stop()
            await asyncio.to_thread(self.redis.start)
            return
        one, two = await self._with_and_without()
        if fault == KILL_REPLICA:
            self._end(one, signal.SIGKILL)
        elif fault == STOP_REPLICA:
            one.process.send_signal(signal.SIGSTOP)
            await two.until(in_use=1)  # the client has gone on there
            one.process.send_signal(signal.SIGCONT)
        elif fault == END_REPLICA:
            self._end(one, signal.SIGTERM)
        elif fault == DOWNSCALE:
            self._end(one, signal.SIGTERM)
            assert await asyncio.to_thread(one.process.wait, 60) == 0
            await self._until_passed_on_to(two)
        elif fault == RESTART_POSTGRES:
            await asyncio.to_thread(self.postgres.stop)
            await _until(lambda: one.health()["store"]["waiting"] > 0)
            await asyncio.to_thread(self.postgres.start)
        elif fault == KILL_IN_OUTAGE:
            await asyncio.to_thread(self.postgres.stop)
            self.redis.stop()
            self._end(one, signal.SIGKILL)
            # The client asks the other one in vain.
            await _until(lambda: _has_refused(two, "state_unavailable"))
            await asyncio.to_thread(self.redis.start)
            await _until(lambda: _has_refused(two, "store_failed"))
            await asyncio.to_thread(self.postgres.start)
        elif fault == REDEPLOY:
            for old in (one, two):
                # The first one's client is at the second one by now.
                assert (await asyncio.to_thread(old.health))["in_use"] == 1
                port = old.url.rsplit(":", 1)[1]
                self._end(old, signal.SIGTERM)
                assert await asyncio.to_thread(old.process.wait, 60) == 0
                self.servers.append(await asyncio.to_thread(self._start, "--port", port))
                await self._until_passed_on_to(*self.servers)

    def _end(self, server: Server, number: signal.Signals) -> None:
        self.servers.remove(server)
        server.process.send_signal(number)

    async def until_at_rest(self) -> None:
        """Until nobody has a session, and everything is in the store."""
        for server in self.servers:
            await server.until(in_use=0)
            await _until(lambda server=server: server.health()["store"]["waiting"] == 0)


@contextmanager
def replicas(folder: Path, store: str, *options: str, key: str | None = None) -> Iterator[Replicas]:
    """``key``: one that clients need."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_serving())
        options = (*options, "--store", store, *shared_options(folder, redis))
        yield Replicas(stack, options, key, redis)


@contextmanager
def replicas_serving(count: int, *args: str, **more: Any) -> Iterator[Server]:
    """So many servers behind HAProxy as one; ports of protocols of their own are the first's."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        shared = shared_options(folder, stack.enter_context(redis_serving()))
        found = [stack.enter_context(one_serving(*args, *shared, **more)) for _ in range(count)]
        url, _ = start_haproxy(stack, [one.url for one in found])
        processes = Processes(tuple(one.process for one in found))
        yield replace(found[0], url=url, process=processes, replicas=tuple(found))


def shared_options(folder: Path, redis: RedisServer) -> tuple[str, ...]:
    """The options for what they share, but for the store."""
    signing = folder / "ticket-key"
    signing.write_text("what-both-of-them-sign-with\n")
    signing.chmod(0o600)
    return ("--state", redis.url, "--ticket-key-file", str(signing))


def start_haproxy(stack: ExitStack, servers: Sequence[str]) -> tuple[str, str]:
    """Have it pass clients on to one or two servers; its address, and that of its statistics.

    Blocks until it does.
    """
    if not shutil.which("haproxy"):
        pytest.skip("there is no HAProxy on this machine")
    binds = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    first, last = (urlsplit(one).netloc for one in (servers[0], servers[-1]))
    env = {"VOXLIVE_1": first, "VOXLIVE_2": last, "VOXLIVE_BIND": binds[0], "STATISTICS": binds[1]}
    with NamedTemporaryFile("w", suffix=".cfg") as statistics:
        statistics.write(_STATISTICS)
        statistics.flush()
        command = ["haproxy", "-db", "-f", str(CONFIG), "-f", statistics.name]
        proxy = subprocess.Popen(command, env={**os.environ, **env})
        stack.callback(proxy.wait, 60)
        stack.callback(proxy.kill)
        while not is_ready(f"http://{binds[0]}"):
            assert proxy.poll() is None
            time.sleep(0.05)
    return f"http://{binds[0]}", f"http://{binds[1]}"


async def _until(holds: Callable[[], bool]) -> None:
    """Asked in a thread: a client that stands still for two seconds in mid-speech ends an
    utterance."""
    while not await asyncio.to_thread(holds):  # noqa: ASYNC110, there is nothing to wait on
        await asyncio.sleep(0.05)


def _has_refused(server: Server, code: str) -> bool:
    metrics = httpx.get(f"{server.url}/metrics", headers=server.headers, timeout=60)
    return f'code="{code}"' in metrics.text


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
