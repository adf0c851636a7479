import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import settings
from support.server import Server, serving
from support.talk import PORTS

# How long an example takes says how busy the machine is, and nothing else.
settings.register_profile("voxlive", deadline=None)
settings.load_profile("voxlive")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server on the built-in engine for all tests; start special ones with ``serving``."""
    with serving("--max-sessions", "4") as running:
        yield running


@pytest.fixture(scope="session")
def _small() -> Iterator[Server]:
    with serving(*PORTS, "--max-sessions", "1") as running:
        yield running


@pytest.fixture
def small(_small: Server) -> Iterator[Server]:
    """One with a single session, free before and after the test, and a port for each protocol."""
    yield _small
    asyncio.run(_small.until(in_use=0))
