"""Endpoints that issue short-lived keys (tickets) for browsers, in the shapes of three APIs.

Deepgram's ``POST /v1/auth/grant``, Mistral's ``POST /v1/client/sessions`` and OpenAI's
``POST /v1/realtime/client_secrets``. The session of the last is checked and returned here, and
applies to every realtime session that is opened with the key; a client may still send its own
``session.update``.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse

from voxlive.engines.contract import EngineInfo
from voxlive.errors import RequestRefused
from voxlive.web.access.access import Access
from voxlive.web.access.middleware import require_grant
from voxlive.web.errors import deepgram_error, mistral_error
from voxlive.web.live_models import LiveModels
from voxlive.web.protocols.fields import Json, integer
from voxlive.web.protocols.openai.config import BadField, Config

MAX_BODY = 64_000
"""Bytes of a JSON body, where no other limit is given."""

# How long short-lived keys are valid, in seconds.
_MAX_LIFETIME_S = 3600
_DEEPGRAM_LIFETIME_S = 30
_MISTRAL_LIFETIME_S = 600
_MIN_SECRET_S, _SECRET_LIFETIME_S, _MAX_SECRET_S = 10, 600, 7200


async def json_body(request: Request, limit: int = MAX_BODY) -> Json:
    """A request's body: an object, empty if there is none. Raises RequestRefused."""
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


class TicketEndpoints:
    """Deepgram's and Mistral's short-lived keys, for live sessions and files."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def deepgram(self, request: Request) -> JSONResponse:
        """``POST /v1/auth/grant``: ``access_token`` and ``expires_in``, in seconds."""
        try:
            lifetime_s = _lifetime(await json_body(request), _DEEPGRAM_LIFETIME_S)
        except RequestRefused as error:
            return deepgram_error(error)
        value, _ = self._access.issue(require_grant(request), lifetime_s)
        return JSONResponse({"access_token": value, "expires_in": lifetime_s})

    async def mistral(self, request: Request) -> JSONResponse:
        """``POST /v1/client/sessions``: a ``client_secret`` for realtime transcription."""
        try:
            lifetime_s = _lifetime(await json_body(request), _MISTRAL_LIFETIME_S)
        except RequestRefused as error:
            return mistral_error(error)
        value, ticket = self._access.issue(require_grant(request), lifetime_s)
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


def _lifetime(body: Json, default: int) -> int:
    try:
        return integer(body, "ttl_seconds", 1, _MAX_LIFETIME_S, default)
    except ValueError as error:
        raise RequestRefused("invalid_value", str(error), "ttl_seconds") from error


class ClientSecrets:
    """OpenAI's short-lived keys. Without keys on the server they only carry their session."""

    def __init__(self, models: LiveModels, access: Access) -> None:
        self._models = models
        self._access = access

    async def post(self, request: Request) -> JSONResponse:
        """``value``, ``expires_at`` in seconds since the epoch, and the session that applies."""
        body = await json_body(request)
        try:
            expires_after = _object(body, "expires_after")
            lifetime_s = integer(
                expires_after, "seconds", _MIN_SECRET_S, _MAX_SECRET_S, _SECRET_LIFETIME_S
            )
            settings = _object(body, "session")
            config = Config().updated(settings, self._find)
        except ValueError as error:
            param = error.param if isinstance(error, BadField) else None
            raise RequestRefused("invalid_value", str(error), param) from error
        info = self._find(config.model)
        session = config.nested(f"sess_{secrets.token_hex(12)}", info)
        value, ticket = self._access.issue(require_grant(request), lifetime_s, settings)
        expires_at = int(ticket.expires_at)
        return JSONResponse({"value": value, "expires_at": expires_at, "session": session})

    def _find(self, model: str | None) -> EngineInfo:
        return self._models.find(model).engine.info


def _object(body: Json, name: str) -> Json:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise BadField(name, f"{name} must be an object")
    return value or {}
