"""The web page and its files, with the headers of its security policy.

Browsers keep the page for when there is no server: ``static/shell.json`` names its files with a
digest of their content, so that another server's page is another version.
"""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
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


_WORKER = "service-worker.js"
_SHELL = (".css", ".js", ".json", ".svg", ".webmanifest")
mimetypes.add_type("application/manifest+json", ".webmanifest")


class Pages(StaticFiles):
    """The page's static files, which browsers revalidate by ETag on every use."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)
        files = [file for file in STATIC.rglob("*") if file.suffix in _SHELL]
        names = sorted(str(file.relative_to(STATIC)) for file in files)
        digest = hashlib.sha256()
        for name in ("index.html", *names):
            digest.update(hashlib.sha256((STATIC / name).read_bytes()).digest())
        self.shell = {"version": digest.hexdigest()[:16], "files": names}
        """What a browser keeps of the page."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file with the page's headers."""
        if path == "shell.json":
            response: Response = JSONResponse(self.shell)
        else:
            response = await super().get_response(path, scope)
        response.headers.update(_PAGE_HEADERS)
        if path.endswith(".woff2"):  # not every system knows it
            response.headers["content-type"] = "font/woff2"
        if path == _WORKER:  # that it may answer for the page, which is above this folder
            response.headers["service-worker-allowed"] = "/"
        return response

    async def index(self, request: Request) -> Response:
        """The page."""
        return await self.get_response("index.html", request.scope)
