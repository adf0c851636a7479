"""Audio that comes in a request: its transcription, and clients that go away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request

from ...streaming.engine import EngineError, EngineFull, StreamOptions, UnsupportedOption
from ...streaming.ingest import AudioFormat, BadAudio
from ...streaming.service import Service
from ...streaming.transcribe import Transcription, transcribe
from ...vad.gate import GateOptions
from ..errors import ApiError

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 5

_T = TypeVar("_T")


async def transcribed(
    service: Service,
    path: Path,
    gate: GateOptions,
    stream: StreamOptions,
    raw: AudioFormat | None = None,
) -> Transcription:
    """``transcribe`` whose every failure is an ApiError."""
    try:
        return await transcribe(service, path, gate, stream, raw=raw)
    except BadAudio as error:
        raise ApiError(400, error.code, str(error), "file") from error
    except UnsupportedOption as error:
        raise ApiError(400, error.code, error.message, "language") from error
    except EngineFull as error:
        retry = {"retry-after": str(_RETRY_AFTER_S)}
        raise ApiError(503, error.code, error.message, headers=retry) from error
    except EngineError as error:
        status = 503 if service.closing else 500
        raise ApiError(status, error.code, error.message) from error


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
