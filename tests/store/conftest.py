"""Stores of every kind there is: SQLite in a folder, PostgreSQL by a server of the system's."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.postgres import PostgresServer

from voxlive.store.backends import open_store
from voxlive.store.contract import SessionStore

BACKENDS = ("sqlite", "postgresql")


@pytest.fixture
def new_database(postgres_server: PostgresServer) -> str:
    """The URL of a database with nothing in it."""
    return postgres_server.new_database()


@pytest.fixture(params=BACKENDS)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a new store."""
    if request.param == "sqlite":
        return str(tmp_path / "store")
    return request.getfixturevalue("new_database")


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
