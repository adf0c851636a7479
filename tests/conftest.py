from collections.abc import Iterator

import pytest
from support.server import Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server on the built-in engine for all tests; start special ones with ``serving``."""
    with serving() as running:
        yield running
