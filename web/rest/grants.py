"""Short-lived keys in the shapes of Deepgram and Mistral."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse

from ..access.access import Access
from ..errors import ApiError
from ..gate import granted
from ..protocols.fields import Json, whole
from .body import json_body
from .words import as_deepgram, as_mistral

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
        except ApiError as error:
            return as_deepgram(error)
        value, _ = self._access.issue(granted(request), lasts)
        return JSONResponse({"access_token": value, "expires_in": lasts})

    async def mistral(self, request: Request) -> JSONResponse:
        """``POST /v1/client/sessions``: a ``client_secret`` for realtime transcription."""
        try:
            lasts = _lasts(await json_body(request), _MISTRAL_S)
        except ApiError as error:
            return as_mistral(error)
        value, ticket = self._access.issue(granted(request), lasts)
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
        return whole(body, "ttl_seconds", 1, _LONGEST_S, default)
    except ValueError as error:
        raise ApiError(400, "invalid_value", str(error), "ttl_seconds") from error
