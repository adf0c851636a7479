"""Errors over HTTP in the words of those whose paths these are."""

from __future__ import annotations

import uuid

from starlette.responses import JSONResponse

from ..errors import ApiError
from ..protocols import deepgram_json


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
