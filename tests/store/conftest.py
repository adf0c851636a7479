"""Stores of every kind there is: SQLite in a folder, PostgreSQL by a server of the system's."""

import os
import pwd
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from voxlive.store.backends import open_store
from voxlive.store.contract import SessionStore

BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of PostgreSQL without a database's name at its end."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    binary = shutil.which("postgres") or (found and str(found[-1]))
    if not binary:
        pytest.skip("PostgreSQL is not installed")
    tools = Path(binary).resolve().parent
    folder = tmp_path_factory.mktemp("postgres")
    user = {}
    if os.getuid() == 0:  # which PostgreSQL refuses
        nobody = pwd.getpwnam("nobody")
        for above in (folder, *folder.parents):
            if above.is_relative_to(tmp_path_factory.getbasetemp().parent.parent):
                above.chmod(above.stat().st_mode | 0o011)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    initdb = [tools / "initdb", "-D", folder / "data", "-U", "voxlive", "-A", "trust", "-N"]
    subprocess.run([*initdb, "-E", "UTF8", "--locale=C"], check=True, capture_output=True, **user)
    options = ["-c", "listen_addresses=", "-k", folder, "-c", "fsync=off"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [binary, "-D", folder / "data", *options], stdout=log, stderr=log, **user
        )
    try:
        url = f"postgresql://voxlive@/{{}}?host={folder}"
        while True:
            try:
                psycopg.connect(url.format("postgres")).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(params=BACKENDS)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a new store."""
    if request.param == "sqlite":
        return str(tmp_path / "store")
    url = request.getfixturevalue("postgres")
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(url.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return url.format(name)


@pytest.fixture
def opened() -> Iterator[Callable[[str | Path], SessionStore]]:
    """Opens a store that is closed after the test."""
    stores: list[SessionStore] = []

    def open_one(location: str | Path) -> SessionStore:
        stores.append(open_store(location))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(location: str, opened: Callable[[str], SessionStore]) -> SessionStore:
    return opened(location)
