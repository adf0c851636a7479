"""Clients that go away while they are waited for.

Errors over HTTP, in the envelope that OpenAI's clients read.

Errors over HTTP in the words of those whose paths these are.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

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


class ApiError(Exception):
    """A refusal with its HTTP status; ``param`` names the field that is at fault."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers


def error_body(error: ApiError) -> dict[str, object]:
    """The error as JSON."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return {"error": body}


def envelope(error: ApiError) -> JSONResponse:
    """The error as a response."""
    return JSONResponse(error_body(error), error.status, error.headers)


async def on_api_error(_request: Request, error: Exception) -> JSONResponse:
    """Starlette's handler for ApiError."""
    assert isinstance(error, ApiError)
    return envelope(error)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Starlette's handler for its own refusals: no such path, wrong method, broken multipart."""
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    message = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = f"there is nothing at {request.method} {request.url.path}"
    return envelope(ApiError(error.status_code, code, message, headers=error.headers))


async def on_client_gone(_request: Request, _error: Exception) -> Response:
    """Starlette's handler for a client that leaves before its request is complete."""
    return Response(status_code=499)


async def on_crash(_request: Request, _error: Exception) -> JSONResponse:
    """Starlette's handler for everything else, which it also logs."""
    return envelope(ApiError(500, "internal", "the server failed; its log says why"))


def as_deepgram(error: ApiError, request: str | None = None) -> JSONResponse:
    """Deepgram's; ``request`` is the request's id, if it has one already."""
    status = 400 if error.status == 422 else error.status  # it has no 422
    denial = deepgram_json.refusal(status, error.message, request or str(uuid.uuid4()))
    return JSONResponse(denial.body, denial.status, {**denial.headers, **(error.headers or {})})


def as_mistral(error: ApiError) -> JSONResponse:
    """Mistral's."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    body = {"type": kind, "message": error.message, "param": error.param, "code": error.code}
    return JSONResponse({"object": "error", **body}, error.status, error.headers)
