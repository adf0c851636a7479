"""A server of PostgreSQL from the system's package, on a socket in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
import weakref
from pathlib import Path
from typing import Self

import psycopg


class PostgresServer:
    """``start`` and ``stop`` it as often as is wanted; it keeps what was written."""

    def __init__(self, tools: Path) -> None:
        self._tools = tools
        # Not below pytest's own folder, which other runs of pytest keep closed to other users.
        self._folder = folder = Path(tempfile.mkdtemp(prefix="voxlive-postgres-"))
        self._data = folder / "data"
        self._removed = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._user: dict[str, object] = {}
        if os.getuid() == 0:  # which PostgreSQL refuses
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        initdb = [tools / "initdb", "-D", self._data, "-U", "voxlive", "-A", "trust", "-N"]
        command = [*initdb, "-E", "UTF8", "--locale=C"]
        subprocess.run(command, check=True, capture_output=True, **self._user)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls) -> Self | None:
        """None where it is not installed."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        binary = shutil.which("postgres") or (str(found[-1]) if found else None)
        return cls(Path(binary).resolve().parent) if binary else None

    def start(self) -> None:
        options = ["-c", "listen_addresses=", "-k", self._folder, "-c", "fsync=off"]
        command = [self._tools / "postgres", "-D", self._data, *options]
        log = self._folder / "log"
        with log.open("a") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, **self._user)
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """At once: connections end."""
        if self._process:
            self._process.send_signal(2)
            self._process.wait(60)
            self._process = None

    def url(self, database: str) -> str:
        return f"postgresql://voxlive@/{database}?host={self._folder}"

    def new_database(self) -> str:
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)
