"""Errors over HTTP, in the envelope that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


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
