"""A server of Redis from the system's package, on a free port; it keeps nothing over its end."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from support.server import free_port


class RedisServer:
    """``start`` and ``stop`` it as often as is wanted, at the same ``url``."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        patient = Retry(ConstantBackoff(0.05), 600, supported_errors=(RedisError, OSError))
        with Redis.from_url(self.url, retry=patient) as redis:
            redis.ping()

    def stop(self) -> None:
        """At once, with all that it has."""
        if self._process:
            self._process.kill()
            self._process.wait(60)
            self._process = None


@contextmanager
def redis_serving() -> Iterator[RedisServer]:
    if not shutil.which("redis-server"):
        pytest.skip("there is no Redis on this machine: redis-server")
    server = RedisServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
