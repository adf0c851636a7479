"""Small JSON bodies.

Short-lived keys in the shapes of Deepgram and Mistral.

``POST /v1/realtime/client_secrets``: short-lived keys for browsers, in OpenAI's shape.

The session that is asked for is checked and shown here, and in force in every realtime session
that is opened with the key; a client may still send its own ``session.update``.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse

from voxlive.errors import RequestRefused
from voxlive.streaming.service import Service
from voxlive.web.access.access import Access
from voxlive.web.access.middleware import require_grant
from voxlive.web.errors import deepgram_error, mistral_error
from voxlive.web.protocols.fields import Json, integer
from voxlive.web.protocols.openai.config import BadField, Config

MAX_BODY = 64_000


async def json_body(request: Request, limit: int = MAX_BODY) -> Json:
    """The body, an object or nothing. Raises RequestRefused."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise RequestRefused("too_big", f"the body may have {limit} bytes")
    try:
        fields = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise RequestRefused("invalid_json", "the body must be JSON") from error
    if not isinstance(fields, Mapping):
        raise RequestRefused("invalid_json", "the body must be a JSON object")
    return fields


_LONGEST_S = 3600
_DEEPGRAM_S = 30
_MISTRAL_S = 600


class Grants:
    """Makes keys for live sessions and files."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def deepgram(self, request: Request) -> JSONResponse:
        """``POST /v1/auth/grant``: ``access_token`` and ``expires_in``, in seconds."""
        try:
            lasts = _lasts(await json_body(request), _DEEPGRAM_S)
        except RequestRefused as error:
            return deepgram_error(error)
        value, _ = self._access.issue(require_grant(request), lasts)
        return JSONResponse({"access_token": value, "expires_in": lasts})

    async def mistral(self, request: Request) -> JSONResponse:
        """``POST /v1/client/sessions``: a ``client_secret`` for realtime transcription."""
        try:
            lasts = _lasts(await json_body(request), _MISTRAL_S)
        except RequestRefused as error:
            return mistral_error(error)
        value, ticket = self._access.issue(require_grant(request), lasts)
        expires_at = datetime.fromtimestamp(ticket.expires_at, UTC).isoformat()
        return JSONResponse(
            {
                "object": "client.session",
                "purpose": "realtime",
                "expires_at": expires_at,
                "client_secret": {"value": value, "expires_at": expires_at},
            },
            status_code=201,
        )


def _lasts(body: Json, default: int) -> int:
    try:
        return integer(body, "ttl_seconds", 1, _LONGEST_S, default)
    except ValueError as error:
        raise RequestRefused("invalid_value", str(error), "ttl_seconds") from error


_SHORTEST_S, _DEFAULT_S, _LONGEST_SECRET_S = 10, 600, 7200


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
            lasts = integer(after, "seconds", _SHORTEST_S, _LONGEST_SECRET_S, _DEFAULT_S)
            config = Config().updated(_object(body, "session"), self._info)
        except ValueError as error:
            param = error.param if isinstance(error, BadField) else None
            raise RequestRefused("invalid_value", str(error), param) from error
        session = config.nested(f"sess_{secrets.token_hex(12)}", self._info)
        value, ticket = self._access.issue(require_grant(request), lasts, config)
        expires_at = int(ticket.expires_at)
        return JSONResponse({"value": value, "expires_at": expires_at, "session": session})


def _object(body: Json, name: str) -> Json:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise BadField(name, f"{name} must be an object")
    return value or {}
