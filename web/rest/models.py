"""``GET /v1/models``: the models that requests about files may name."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse

from ...runners.catalogue import ModelCard
from .files import Files, as_api_errors


class Models:
    """OpenAI's shape; ``created`` is when a model's files were written."""

    def __init__(self, files: Files) -> None:
        self._catalogue = files.catalogue

    async def index(self, _request: Request) -> JSONResponse:
        """The list, the default first."""
        cards = await asyncio.to_thread(self._catalogue.cards)
        return JSONResponse({"object": "list", "data": [_model(card) for card in cards]})

    async def get(self, request: Request) -> JSONResponse:
        """One model; 404 for a name that is none here."""
        with as_api_errors():
            name = request.path_params["name"]
            return JSONResponse(_model(await asyncio.to_thread(self._catalogue.card, name)))


def _model(card: ModelCard) -> dict[str, object]:
    found = card.survey.capabilities
    about = {"id": card.id, "object": "model", "created": card.created, "owned_by": "voxlive"}
    return {**about, "default": card.default, "features": sorted(found.features)}
