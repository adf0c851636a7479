"""Two replicas on Ray Serve behind its HAProxy, by ``voxlive cluster up``, on Redis and a store."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from support.redis_server import RedisServer, redis_serving
from support.replicas import END_REPLICA, Replicas, is_ready, shared_options
from support.server import Server, free_port

_PORTS = range(30_000, 31_001)  # of replicas, where Ray's HAProxy reaches them


class RayReplicas(Replicas):
    """``up`` starts them, or replaces those there are."""

    def __init__(
        self,
        folder: Path,
        store: str,
        options: tuple[str, ...],
        key: str | None,
        redis: RedisServer,
        number: tuple[str, ...],
    ) -> None:
        port = free_port()
        self._up = ("up", *number, "--port", str(port), "--file-niceness", "0")
        self._up += (*options, "--store", store, *shared_options(folder, redis))
        self._env = {
            **os.environ,
            "XDG_STATE_HOME": str(folder / "state"),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        }
        self._node = folder / "state" / "voxlive" / "cluster.json"
        self._key, self.redis = key, redis
        self.http, self.url = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}/v1/live"
        self.servers: list[Server] = []

    def run(self, *args: str, check: bool = False) -> str:
        """What a command of ``voxlive cluster`` prints."""
        command = [sys.executable, "-m", "voxlive.cli.main", "cluster", *args]
        done = subprocess.run(
            command, env=self._env, stdout=subprocess.PIPE, text=True, check=check, timeout=300
        )
        return done.stdout

    def up(self) -> None:
        self.run(*self._up, check=True)
        self.find()

    def find(self) -> None:
        """Those that are there now."""
        self.servers = [*self._found()]

    @property
    def node(self) -> dict:
        """What the commands know of it."""
        return json.loads(self._node.read_text())

    def _found(self) -> Iterator[Server]:
        for process in psutil.Process(self.node["pid"]).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "ServeReplica" in " ".join(process.cmdline()):
                    for one in process.net_connections("tcp"):
                        if one.status == "LISTEN" and one.laddr.port in _PORTS:
                            url = f"http://127.0.0.1:{one.laddr.port}"
                            yield Server(url, process, {}, key=self._key)

    async def until_at_rest(self) -> None:
        """Of those there are: Ray replaces one that is gone or stood still."""
        await asyncio.to_thread(self.find)
        await super().until_at_rest()

    async def suffer(self, fault: str) -> None:
        if fault == END_REPLICA:  # both of them: one after the other, for new ones
            await asyncio.to_thread(self.up)
        else:
            with suppress(psutil.NoSuchProcess):  # Ray ends one that stands still
                await super().suffer(fault)


@contextmanager
def ray_replicas(
    folder: Path,
    store: str,
    *options: str,
    key: str | None = None,
    number: tuple[str, ...] = ("--replicas", "2"),
) -> Iterator[RayReplicas]:
    if not find_spec("ray"):
        pytest.skip("Ray is not installed: pip install 'voxlive[cluster]'")
    with redis_serving() as redis:
        running = RayReplicas(folder, store, options, key, redis, number)
        try:
            running.up()
            while not is_ready(running.http):
                time.sleep(0.05)
            yield running
        finally:
            running.run("down")
