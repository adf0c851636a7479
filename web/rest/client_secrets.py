"""``POST /v1/realtime/client_secrets``: short-lived keys for browsers, in OpenAI's shape.

This server asks for no keys, so it takes any: what is handed out here is for clients that will not
connect without one. The session is checked and shown as it would be in force; a client that uses
the key still sends its own ``session.update``.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse

from ...streaming.service import Service
from ..errors import ApiError
from ..protocols.fields import Json, whole
from ..protocols.openai_realtime_config import BadField, Config

MAX_BODY = 64_000
_SHORTEST_S, _DEFAULT_S, _LONGEST_S = 10, 600, 7200


class ClientSecrets:
    """Makes keys; none is kept."""

    def __init__(self, service: Service) -> None:
        self._info = service.engine.info

    async def post(self, request: Request) -> JSONResponse:
        """``value``, ``expires_at`` in seconds since the epoch, and the session in force."""
        body = await _json(request)
        try:
            after = _object(body, "expires_after")
            lasts = whole(after, "seconds", _SHORTEST_S, _LONGEST_S, _DEFAULT_S)
            config = Config().updated(_object(body, "session"), self._info)
        except ValueError as error:
            param = error.param if isinstance(error, BadField) else None
            raise ApiError(400, "invalid_value", str(error), param) from error
        session = config.nested(f"sess_{secrets.token_hex(12)}", self._info)
        value = f"ek_{secrets.token_hex(16)}"
        expires_at = int(time.time()) + lasts
        return JSONResponse({"value": value, "expires_at": expires_at, "session": session})


async def _json(request: Request) -> Json:
    """The body, an object or nothing."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ApiError(413, "too_big", f"the body may have {MAX_BODY} bytes")
    try:
        fields = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_json", "the body must be JSON") from error
    if not isinstance(fields, Mapping):
        raise ApiError(400, "invalid_json", "the body must be a JSON object")
    return fields


def _object(body: Json, name: str) -> Json:
    value = body.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise BadField(name, f"{name} must be an object")
    return value or {}
