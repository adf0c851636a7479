"""Two servers behind a real HAProxy by ``deploy/haproxy.cfg``, on one Redis and one store."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from support.redis_server import RedisServer, redis_serving
from support.server import Server, free_port, serving

KILL_REPLICA, STOP_REPLICA = "kill -9 of the replica", "SIGSTOP until another one has the session"
END_REPLICA, RESTART_REDIS = "SIGTERM of the replica", "Redis is restarted, empty"
CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"


@dataclass
class Replicas:
    """``url`` is HAProxy's; it also has what ``support.restarting.speak`` needs."""

    url: str
    servers: list[Server]
    redis: RedisServer

    @property
    def http(self) -> str:
        return self.url.removesuffix("/v1/live").replace("ws", "http", 1)

    async def suffer(self, fault: str) -> None:
        """Something happens: to the server that has the session, or to what both of them use."""
        if fault == RESTART_REDIS:
            self.redis.stop()
            await asyncio.to_thread(self.redis.start)
            return
        # In threads: a client that stands still for two seconds in mid-speech ends an utterance.
        asked = (asyncio.to_thread(server.health) for server in self.servers)
        busy = [health["in_use"] for health in await asyncio.gather(*asked)]
        one, two = (self.servers[n] for n in (busy.index(1), busy.index(0)))
        if fault == KILL_REPLICA:
            self.servers.remove(one)
            one.process.send_signal(signal.SIGKILL)
        elif fault == STOP_REPLICA:
            one.process.send_signal(signal.SIGSTOP)
            await two.until(in_use=1)  # the client has gone on there
            one.process.send_signal(signal.SIGCONT)
        elif fault == END_REPLICA:
            self.servers.remove(one)
            one.process.send_signal(signal.SIGTERM)


@contextmanager
def replicas(folder: Path, store: str, *options: str, key: str | None = None) -> Iterator[Replicas]:
    if not shutil.which("haproxy"):
        pytest.skip("there is no HAProxy on this machine")
    signing = folder / "ticket-key"
    signing.write_text("what-both-of-them-sign-with\n")
    signing.chmod(0o600)
    with ExitStack() as stack:
        redis = stack.enter_context(redis_serving())
        shared = ("--store", store, "--state", redis.url, "--ticket-key-file", str(signing))
        servers = [
            stack.enter_context(serving(*options, *shared, "--log-level", "info", key=key))
            for _ in range(2)
        ]
        port = free_port()
        places = {f"VOXLIVE_{n}": urlsplit(one.url).netloc for n, one in enumerate(servers, 1)}
        env = {**os.environ, **places, "VOXLIVE_BIND": f"127.0.0.1:{port}"}
        proxy = subprocess.Popen(["haproxy", "-db", "-f", CONFIG], env=env)
        stack.callback(proxy.wait, 60)
        stack.callback(proxy.kill)
        url = f"http://127.0.0.1:{port}"
        while not _is_ready(url):
            assert proxy.poll() is None
            time.sleep(0.05)
        yield Replicas(f"ws://127.0.0.1:{port}/v1/live", servers, redis)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
