"""``GET /health``, ``/health/live``, ``/health/ready`` and ``GET /v1/models``: state and models.

``/health`` and ``/health/ready`` are 200 only while the engine can decode; ``/health/live`` is 200
as long as the process answers. ``/v1/models`` lists the models for files.
"""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import JSONResponse

from voxlive.runners.catalogue import ModelCard
from voxlive.streaming.service import Service
from voxlive.web.access.middleware import optional_grant
from voxlive.web.rest.files import FileService

_NO_STORE = {"cache-control": "no-store"}
_CHECK_INTERVAL_S = 1.0
_CHECK_TIMEOUT_S = 10.0


class HealthEndpoints:
    """Health of the process and of the engine, which is checked at most once a second."""

    def __init__(self, service: Service, files: FileService) -> None:
        self._service = service
        self._files = files
        self._checking = asyncio.Lock()
        self._checked_at = float("-inf")
        self._fault: str | None = None

    async def live(self, _request: Request) -> JSONResponse:
        """200 as long as the process answers: a liveness probe."""
        return JSONResponse({"status": "ok", "live": True}, headers=_NO_STORE)

    async def get(self, request: Request) -> JSONResponse:
        """200 while new sessions are served, 503 with the reason otherwise: a readiness probe.

        With ``?live`` it is ``live``. A client without a key, where one is needed, gets that and
        nothing about the engine.
        """
        if "live" in request.query_params:
            return await self.live(request)
        fault = "the server is shutting down" if self._service.closing else await self._check()
        engine = self._service.engine
        info = engine.info
        body: dict[str, object] = {
            "status": "failing" if fault else "ok",
            "live": True,
            "ready": fault is None,
            "key_needed": optional_grant(request) is None,
        }
        details = {
            "error": fault,
            "engine": info.engine,
            "model": info.model,
            "device": info.device,
            "capacity": info.capacity,
            "in_use": engine.in_use,
            "weights": info.weights,
            "note": info.note,
            "languages": list(info.languages),
            "takes_language": info.takes_language,
            "translates": info.no_translation is None,
            "files": self._files.state(),
            "version": version("voxlive"),
        }
        if optional_grant(request):
            body |= details
        return JSONResponse(body, 503 if fault else 200, _NO_STORE)

    async def _check(self) -> str | None:
        async with self._checking:
            if time.monotonic() - self._checked_at > _CHECK_INTERVAL_S:
                self._fault = await asyncio.to_thread(self._service.engine.check, _CHECK_TIMEOUT_S)
                self._checked_at = time.monotonic()
            return self._fault


class ModelEndpoints:
    """``GET /v1/models`` in OpenAI's shape; ``created`` is when a model's files were written.

    Of the model of the live sessions ``weights`` says how they are held in memory, and ``note``
    what its users should know, such as that it is English only.
    """

    def __init__(self, service: Service, files: FileService) -> None:
        self._service = service
        self._catalogue = files.catalogue

    async def index(self, _request: Request) -> JSONResponse:
        """The list, the default first."""
        cards = await asyncio.to_thread(self._catalogue.cards)
        return JSONResponse({"object": "list", "data": [self._model(card) for card in cards]})

    async def get(self, request: Request) -> JSONResponse:
        """One model. Raises RequestRefused 404 for an unknown name."""
        name = request.path_params["name"]
        return JSONResponse(self._model(await asyncio.to_thread(self._catalogue.card, name)))

    def _model(self, card: ModelCard) -> dict[str, object]:
        found, live = card.inspection.capabilities, self._service.engine.info
        about = {"id": card.id, "object": "model", "created": card.created, "owned_by": "voxlive"}
        remarks = {"weights": live.weights, "note": live.note} if card.id == live.model else {}
        known = {name: text for name, text in remarks.items() if text}
        return {**about, "default": card.default, "features": sorted(found.features), **known}
