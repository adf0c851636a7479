"""Errors over HTTP: a VoxliveError as a JSON response, in the shape that a path's clients read.

``openai_error`` has the shape of every path that has no other. The ``on_*`` functions handle
Starlette's exceptions. ``run_until_disconnect`` cancels what a client no longer waits for.
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
from voxlive.web.protocols.deepgram import wire

log = logging.getLogger(__name__)

_T = TypeVar("_T")


async def run_until_disconnect(request: Request, work: Coroutine[Any, Any, _T]) -> _T | None:
    """The work's result; None if the client disconnects first, which cancels the work."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_wait_for_disconnect(request))
    tasks = working, leaving
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


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def error_headers(error: VoxliveError) -> dict[str, str]:
    """The headers of an error: WWW-Authenticate with 401, Retry-After where it is known."""
    headers = {"www-authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return headers


def error_body(error: VoxliveError) -> dict[str, object]:
    """The error as the JSON object of OpenAI's API."""
    return {"error": _fields(error)}


def _fields(error: VoxliveError) -> dict[str, object]:
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"message": error.message, "type": kind, "param": error.param, "code": error.code}


def openai_error(error: VoxliveError) -> JSONResponse:
    """The error as a response of OpenAI's API."""
    return JSONResponse(error_body(error), error.status, error_headers(error))


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Handle Starlette's own refusals: no such path, wrong method, broken multipart."""
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    message = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = f"there is nothing at {request.method} {request.url.path}"
    refusal = RequestRefused(code, message, status=error.status_code)
    return JSONResponse(error_body(refusal), refusal.status, error.headers)


async def on_disconnect(_request: Request, _error: Exception) -> Response:
    """Handle a client that disconnects before its request is complete."""
    return Response(status_code=499)


async def on_unexpected_error(_request: Request, _error: Exception) -> JSONResponse:
    """Handle everything else with 500; Starlette logs it as well."""
    return openai_error(RequestRefused("internal", "the server failed; its log says why"))


def deepgram_error(error: VoxliveError, request_id: str | None = None) -> JSONResponse:
    """The error as a response of Deepgram's API; without ``request_id`` it has a new one."""
    denial = wire.refusal(error.status, error.message, request_id or str(uuid.uuid4()))
    return JSONResponse(denial.body, denial.status, {**denial.headers, **error_headers(error)})


def mistral_error(error: VoxliveError) -> JSONResponse:
    """The error as a response of Mistral's API."""
    return JSONResponse({"object": "error", **_fields(error)}, error.status, error_headers(error))
