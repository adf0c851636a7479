"""``GET /metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from .collector import State


class Metrics:
    """The figures of one server and of its process, in the format that the scraper prefers."""

    def __init__(self, state: State) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(state)
        ProcessCollector(registry=self._registry)

    async def get(self, request: Request) -> Response:
        """All of them; made on the loop, which what they count belongs to."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        headers = {"content-type": media_type, "cache-control": "no-store"}
        return Response(encode(self._registry), headers=headers)
