from collections.abc import Iterator

import pytest
from support.server import Server, serving
from support.talk import PORTS


@pytest.fixture(scope="session")
def ports_server() -> Iterator[Server]:
    """One server for this folder that has a port for each protocol with its own.

    It commits words at pauses, so that the same speech has one text however it comes.
    """
    with serving(*PORTS, "--max-sessions", "4", "--commit", "pause") as running:
        yield running
