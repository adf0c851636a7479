"""``GET /v1/models``: the one model that this server has loaded."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse

from ...streaming.service import Service
from ..errors import ApiError


class Models:
    """The served model in OpenAI's shape; ``created`` is when it was loaded here."""

    def __init__(self, service: Service) -> None:
        self._model: dict[str, object] = {
            "id": service.engine.info.model,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "voxlive",
        }

    async def index(self, _request: Request) -> JSONResponse:
        """The list."""
        return JSONResponse({"object": "list", "data": [self._model]})

    async def get(self, request: Request) -> JSONResponse:
        """One model; 404 for any other name."""
        name = request.path_params["name"]
        if name != self._model["id"]:
            message = f'the model "{name}" is not loaded here; "{self._model["id"]}" is'
            raise ApiError(404, "model_not_found", message, "model")
        return JSONResponse(self._model)
