from collections.abc import Iterator

import pytest
from hypothesis import settings
from support.server import Server, serving

# How long an example takes says how busy the machine is, and nothing else.
settings.register_profile("voxlive", deadline=None)
settings.load_profile("voxlive")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server on the built-in engine for all tests; start special ones with ``serving``."""
    with serving("--max-sessions", "4") as running:
        yield running
