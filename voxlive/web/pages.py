"""The web page and its files, with the headers of its security policy."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"

# No inline script or style; audio worklets and workers from here; WebSockets to any server, since
# the page can use another one.
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; "
        "media-src 'self' blob:; worker-src 'self'; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "microphone=(self), display-capture=(self)",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Pages(StaticFiles):
    """The page's static files, which browsers revalidate by ETag on every use."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file with the page's headers."""
        response = await super().get_response(path, scope)
        response.headers.update(_PAGE_HEADERS)
        if path.endswith(".woff2"):  # not every system knows it
            response.headers["content-type"] = "font/woff2"
        return response

    async def index(self, request: Request) -> Response:
        """The page."""
        return await self.get_response("index.html", request.scope)
