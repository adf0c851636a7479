"""Small JSON bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.requests import Request

from ..errors import ApiError
from ..protocols.fields import Json

MAX_BODY = 64_000


async def json_body(request: Request, limit: int = MAX_BODY) -> Json:
    """The body, an object or nothing. Raises ApiError."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise ApiError(413, "too_big", f"the body may have {limit} bytes")
    try:
        fields = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_json", "the body must be JSON") from error
    if not isinstance(fields, Mapping):
        raise ApiError(400, "invalid_json", "the body must be a JSON object")
    return fields
