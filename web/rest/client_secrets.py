"""``POST /v1/realtime/client_secrets``: short-lived keys for browsers, in OpenAI's shape.

The session that is asked for is checked and shown here, and in force in every realtime session
that is opened with the key; a client may still send its own ``session.update``.
"""

from __future__ import annotations

import secrets

from starlette.requests import Request
from starlette.responses import JSONResponse

from ...streaming.service import Service
from ..access.access import Access
from ..errors import ApiError
from ..gate import granted
from ..protocols.fields import Json, whole
from ..protocols.openai_realtime_config import BadField, Config
from .body import json_body

_SHORTEST_S, _DEFAULT_S, _LONGEST_S = 10, 600, 7200


class ClientSecrets:
    """Makes keys; on a server without keys they only carry their session."""

    def __init__(self, service: Service, access: Access) -> None:
        self._info = service.engine.info
        self._access = access

    async def post(self, request: Request) -> JSONResponse:
        """``value``, ``expires_at`` in seconds since the epoch, and the session in force."""
        body = await json_body(request)
        try:
            after = _object(body, "expires_after")
            lasts = whole(after, "seconds", _SHORTEST_S, _LONGEST_S, _DEFAULT_S)
            config = Config().updated(_object(body, "session"), self._info)
        except ValueError as error:
            param = error.param if isinstance(error, BadField) else None
            raise ApiError(400, "invalid_value", str(error), param) from error
        session = config.nested(f"sess_{secrets.token_hex(12)}", self._info)
        value, ticket = self._access.issue(granted(request), lasts, config)
        expires_at = int(ticket.expires_at)
        return JSONResponse({"value": value, "expires_at": expires_at, "session": session})


def _object(body: Json, name: str) -> Json:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise BadField(name, f"{name} must be an object")
    return value or {}
