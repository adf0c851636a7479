from collections.abc import Iterator

import pytest
from support.server import Server, serving
from support.talk import PORTS


@pytest.fixture(scope="session")
def ports_server() -> Iterator[Server]:
    """One server for this folder that has a port for each protocol with its own.

    It commits words at pauses, so that the same speech has one text however it comes. It has two
    processes for its connections: what holds for one holds for them.
    """
    with serving(*PORTS, "--max-sessions", "4", "--commit", "pause", "--workers", "2") as running:
        yield running
