"""Clients that go away while they are waited for.

Errors over HTTP, in the envelope that OpenAI's clients read.

Errors over HTTP in the words of those whose paths these are.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from voxlive.errors import RequestRefused, VoxliveError
from voxlive.web.protocols.deepgram import messages as deepgram_json

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


def headers_of(error: VoxliveError) -> dict[str, str]:
    """What HTTP says besides: how to log in, when to come back."""
    headers = {"www-authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return headers


def error_body(error: VoxliveError) -> dict[str, object]:
    """The error as JSON."""
    return {"error": _fields(error)}


def _fields(error: VoxliveError) -> dict[str, object]:
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"message": error.message, "type": kind, "param": error.param, "code": error.code}


def envelope(error: VoxliveError) -> JSONResponse:
    """The error as a response."""
    return JSONResponse(error_body(error), error.status, headers_of(error))


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Starlette's handler for its own refusals: no such path, wrong method, broken multipart."""
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    message = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = f"there is nothing at {request.method} {request.url.path}"
    refusal = RequestRefused(code, message, status=error.status_code)
    return JSONResponse(error_body(refusal), refusal.status, error.headers)


async def on_client_gone(_request: Request, _error: Exception) -> Response:
    """Starlette's handler for a client that leaves before its request is complete."""
    return Response(status_code=499)


async def on_crash(_request: Request, _error: Exception) -> JSONResponse:
    """Starlette's handler for everything else, which it also logs."""
    return envelope(RequestRefused("internal", "the server failed; its log says why"))


def as_deepgram(error: VoxliveError, request: str | None = None) -> JSONResponse:
    """Deepgram's; ``request`` is the request's id, if it has one already."""
    denial = deepgram_json.refusal(error.status, error.message, request or str(uuid.uuid4()))
    return JSONResponse(denial.body, denial.status, {**denial.headers, **headers_of(error)})


def as_mistral(error: VoxliveError) -> JSONResponse:
    """Mistral's."""
    return JSONResponse({"object": "error", **_fields(error)}, error.status, headers_of(error))
