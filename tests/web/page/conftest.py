from collections.abc import AsyncIterator

import pytest_asyncio
from support.browser import shared_browsers


@pytest_asyncio.fixture(scope="session", loop_scope="session", autouse=True)
async def _browsers() -> AsyncIterator[None]:
    """Tests of pages run on one event loop and share browsers, each with a new profile."""
    async with shared_browsers():
        yield
