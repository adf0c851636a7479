"""Serving under a path of a site: ``https://site/voxlive/`` through a reverse proxy."""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class RootPath:
    """An application under a path, whether or not the proxy takes the path off.

    ``prefix`` is in the form "/path". The path alone is sent on to "/path/": the page's own URLs
    are relative.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the path back where the proxy has taken it off."""
        prefix, path = self._prefix, scope["path"]
        if scope["type"] == "http" and path == prefix:
            query = scope["query_string"].decode("latin-1")
            answer = RedirectResponse(f"{prefix}/{query and '?'}{query}")
            return await answer(scope, receive, send)
        if not path.startswith(f"{prefix}/"):
            path = prefix + path
        return await self._app({**scope, "root_path": prefix, "path": path}, receive, send)


def clean(path: str) -> str:
    """A root path as it was typed, in the form "/path"; "" for none."""
    path = path.strip("/")
    return f"/{path}" if path else ""
