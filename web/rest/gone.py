"""Clients that go away while they are waited for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

log = logging.getLogger(__name__)

_T = TypeVar("_T")


async def unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T | None:
    """The work's result; None if the client goes away first, which cancels the work."""
    tasks = working, leaving = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        log.info("the client left during its transcription")
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
