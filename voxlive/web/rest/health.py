"""``GET /health`` and below, ``GET /v1/models``, ``/v1/admin``: state, models and devices.

``/health`` and ``/health/ready`` are 200 only while every engine can decode; ``/health/live`` is
200 as long as the process answers. ``/v1/models`` lists the models for files, the live ones too.
"""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import JSONResponse

from voxlive.engines.contract import Engine
from voxlive.engines.pool import EnginePool
from voxlive.errors import RequestRefused
from voxlive.processes.process import command_name
from voxlive.runners.catalogue import ModelCard
from voxlive.streaming.service import Service
from voxlive.web.access.middleware import optional_grant
from voxlive.web.live_models import LiveModels
from voxlive.web.protocols.fields import Json
from voxlive.web.recorder import Recorder
from voxlive.web.rest.files import FileService
from voxlive.web.rest.grants import json_body

_NO_STORE = {"cache-control": "no-store"}
_CHECK_INTERVAL_S = 1.0
_CHECK_TIMEOUT_S = 10.0


class HealthEndpoints:
    """Health of the process and of the engines, which are checked at most once a second."""

    def __init__(
        self, models: LiveModels, files: FileService, recorder: Recorder | None = None
    ) -> None:
        self._models = models
        self._files = files
        self._recorder = recorder
        self._command = command_name()
        self._checking = asyncio.Lock()
        self._checked_at = float("-inf")
        self._faults: dict[str, str] = {}

    async def live(self, _request: Request) -> JSONResponse:
        """200 as long as the process answers: a liveness probe."""
        return JSONResponse({"status": "ok", "live": True}, headers=_NO_STORE)

    async def get(self, request: Request) -> JSONResponse:
        """200 while new sessions are served, 503 with the reason otherwise: a readiness probe.

        With ``?live`` it is ``live``. A client without a key, where one is needed, gets that and
        nothing about the engines. Fields of an engine are the default's; ``models`` has them all.
        ``store`` is where transcripts are kept, None where they are not. ``command`` is what
        ``voxlive`` is called by where the server was started.
        """
        if "live" in request.query_params:
            return await self.live(request)
        faults = {} if self._models.closing else await self._check()
        fault = "the server is shutting down" if self._models.closing else self._fault(faults)
        body: dict[str, object] = {
            "status": "failing" if fault else "ok",
            "live": True,
            "ready": fault is None,
            "key_needed": optional_grant(request) is None,
        }
        details = {
            "error": fault,
            **_about(self._models.default),
            "models": [
                {"name": label, "error": faults.get(label), **_about(service)}
                for label, service in self._models.labels.items()
            ],
            "files": self._files.state(),
            "store": self._recorder.state if self._recorder else None,
            "version": version("voxlive"),
            "command": self._command,
        }
        if optional_grant(request):
            body |= details
        return JSONResponse(body, 503 if fault else 200, _NO_STORE)

    async def _check(self) -> dict[str, str]:
        """What is wrong with engines, by the label of their model."""
        async with self._checking:
            if time.monotonic() - self._checked_at > _CHECK_INTERVAL_S:
                labels = self._models.labels
                found = await asyncio.gather(
                    *(
                        asyncio.to_thread(service.engine.check, _CHECK_TIMEOUT_S)
                        for service in labels.values()
                    )
                )
                self._faults = {
                    label: fault for label, fault in zip(labels, found, strict=True) if fault
                }
                self._checked_at = time.monotonic()
            return self._faults

    def _fault(self, faults: dict[str, str]) -> str | None:
        """All of it in one line, which names the models where there are several."""
        if not self._models.named:
            return next(iter(faults.values()), None)
        return "; ".join(f"{label}: {fault}" for label, fault in faults.items()) or None


def devices_of(engine: Engine) -> list[dict[str, object]]:
    """The devices of a pool; none of an engine that has one process."""
    if not isinstance(engine, EnginePool):
        return []
    return [
        {
            "device": device.name,
            "state": device.state,
            "capacity": device.slots,
            "in_use": device.in_use,
            "error": device.fault,
            "pid": device.pid,
        }
        for device in engine.devices
    ]


def _about(service: Service) -> dict[str, object]:
    info = service.engine.info
    return {
        "engine": info.engine,
        "model": info.model,
        "device": info.device,
        "capacity": info.capacity,
        "in_use": service.engine.in_use,
        "devices": devices_of(service.engine),
        "weights": info.weights,
        "note": info.note,
        "languages": list(info.languages),
        "takes_language": info.takes_language,
        "translates": info.no_translation is None,
        "commit_rules": list(info.commit_rules),
        "commit": info.default_commit,
        "pause_ms": info.pause_ms,
        "delays_ms": list(info.delays_ms),
        "delay_ms": info.default_delay_ms,
    }


class ModelEndpoints:
    """``GET /v1/models`` in OpenAI's shape; ``created`` is when a model's files were written.

    ``live`` is whether live sessions can name it. Of such a model ``weights`` says how they are
    held in memory, and ``note`` what its users should know, such as that it is English only. A
    replay, which has no files, is listed with the names of its recordings.
    """

    def __init__(self, models: LiveModels, files: FileService) -> None:
        self._models = models
        self._catalogue = files.catalogue
        self._since = int(time.time())

    async def index(self, _request: Request) -> JSONResponse:
        """The list, the default first."""
        cards = await asyncio.to_thread(self._catalogue.cards)
        replays = self._replays()
        taken = [replay["id"] for replay in replays]
        models = [self._model(card) for card in cards if card.id not in taken]
        return JSONResponse({"object": "list", "data": replays + models})

    async def get(self, request: Request) -> JSONResponse:
        """One model. Raises RequestRefused 404 for an unknown name."""
        name = request.path_params["name"]
        for replay in self._replays():
            if replay["id"] == name:
                return JSONResponse(replay)
        return JSONResponse(self._model(await asyncio.to_thread(self._catalogue.card, name)))

    async def reload(self, request: Request) -> JSONResponse:
        """``POST /v1/admin/reload``: a live model anew, or ``model`` in its place.

        ``name`` is the live model's, the default's if it is left out. Answers once new sessions
        have the new engine, with that and how many sessions stay with the one before. Raises
        RequestRefused and what loading raises.
        """
        body = await json_body(request)
        if unknown := set(body) - {"name", "model"}:
            message = f"there is no field {min(unknown)!r}: use name and model"
            raise RequestRefused("invalid_value", message)
        name, model = (_text(body, field) for field in ("name", "model"))
        service, stay = await self._models.reload(name, model)
        label = self._models.label(service)
        answer = {"name": label, **_about(service), "sessions_that_stay": stay}
        return JSONResponse(answer)

    async def devices(self, _request: Request) -> JSONResponse:
        """``GET /v1/admin/devices``: of every live model that has several."""
        found = {
            label: devices_of(service.engine) for label, service in self._models.labels.items()
        }
        return JSONResponse({"models": found}, headers=_NO_STORE)

    async def set_device(self, request: Request) -> JSONResponse:
        """``POST /v1/admin/devices``: ``device`` out of service, or back into it.

        ``name`` is the live model's, the default's if it is left out. Answers when that is done:
        when the device's sessions have passed to others and its process has ended, or when its
        engine is loaded. Raises RequestRefused, and EngineError as ``LiveModels.set_device``.
        """
        body = await json_body(request)
        if unknown := set(body) - {"name", "device", "in_service"}:
            message = f"there is no field {min(unknown)!r}: use name, device and in_service"
            raise RequestRefused("invalid_value", message)
        name, device = (_text(body, field) for field in ("name", "device"))
        in_service = body.get("in_service")
        if device is None:
            raise RequestRefused("invalid_value", "device must be a text such as gpu:1", "device")
        if not isinstance(in_service, bool):
            raise RequestRefused("invalid_value", "in_service must be true or false", "in_service")
        pool = await self._models.set_device(name, device, in_service=in_service)
        return JSONResponse({"devices": devices_of(pool)})

    def _replays(self) -> list[dict[str, object]]:
        return [
            {
                "id": label,
                "object": "model",
                "created": self._since,
                "owned_by": "voxlive",
                "default": service is self._models.default,
                "live": True,
                "features": ["live"],
                "note": service.engine.info.note,
                "recordings": list(service.engine.info.names),
            }
            for label, service in self._models.labels.items()
            if service.engine.info.names
        ]

    def _model(self, card: ModelCard) -> dict[str, object]:
        features = sorted(card.inspection.capabilities.features)
        about = {"id": card.id, "object": "model", "created": card.created, "owned_by": "voxlive"}
        remarks = {}
        live = self._models.serves(card.id)
        if live:
            info = self._models.find(card.id).engine.info
            remarks = {"weights": info.weights, "note": info.note}
        known = {name: text for name, text in remarks.items() if text}
        return {**about, "default": card.default, "live": live, "features": features, **known}


def _text(body: Json, field: str) -> str | None:
    value = body.get(field)
    if value is not None and not isinstance(value, str):
        raise RequestRefused("invalid_value", f"{field} must be a text", field)
    return value
