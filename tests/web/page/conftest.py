from collections.abc import AsyncIterator

import pytest_asyncio
from support.browser import shared_browsers


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def _browsers() -> AsyncIterator[None]:
    """A module's tests run on one event loop and share a browser, each with a new profile."""
    async with shared_browsers():
        yield
