"""``GET /captions``, ``GET /captions/{session}`` and ``GET /overlay/{session}``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ..errors import ApiError
from ..gate import granted
from ..pages import Pages
from . import sse
from .feed import Caption, Feed, Feeds, TooManyReaders
from .vtt import HEADER, LiveCues

_Captions = AsyncGenerator["Caption | None", None]

_KEEP_ALIVE_S = 15.0
_VTT = ".vtt"
_HEADERS = {
    "cache-control": "no-store",
    # A reverse proxy must not collect what is meant to be read at once.
    "x-accel-buffering": "no",
}


class Captions:
    """What live sessions say, to be read and not to be changed."""

    def __init__(self, feeds: Feeds, pages: Pages) -> None:
        self._feeds = feeds
        self._pages = pages

    async def index(self, request: Request) -> JSONResponse:
        """The sessions that the client can read now, the oldest first."""
        reader = granted(request)
        listed = [
            {"session": feed.session, "name": feed.name, "path": feed.path}
            for feed in self._feeds
            if reader.may_read(feed.owner)
        ]
        return JSONResponse({"sessions": listed}, headers={"cache-control": "no-store"})

    async def follow(self, request: Request) -> Response:
        """Server-sent events, or WebVTT for ``.vtt`` or an Accept header that asks for it."""
        name = request.path_params["session"]
        feed = self._readable(request, name)
        as_vtt = "text/vtt" in request.headers.get("accept", "")
        if feed is None and name.endswith(_VTT):
            feed, as_vtt = self._readable(request, name.removesuffix(_VTT)), True
        if feed is None:
            message = "no live session has this id or name now; GET /captions lists those there are"
            raise ApiError(404, "no_such_session", message)
        captions = feed.read(None if as_vtt else _KEEP_ALIVE_S)
        try:
            first = await anext(captions)
        except TooManyReaders as error:
            message = "this session has as many readers as it serves; try again later"
            raise ApiError(503, "too_many_readers", message) from error
        write, media_type = _WRITERS[as_vtt]
        return StreamingResponse(write(first, captions), media_type=media_type, headers=_HEADERS)

    def _readable(self, request: Request, name: str) -> Feed | None:
        """What a client may not read is not there."""
        feed = self._feeds.find(name)
        return feed if feed and granted(request).may_read(feed.owner) else None

    async def overlay(self, request: Request) -> Response:
        """The overlay's page; its script reads the address."""
        return await self._pages.get_response("overlay.html", request.scope)


async def _vtt(first: Caption | None, captions: _Captions) -> AsyncIterator[str]:
    cues = LiveCues()
    async with aclosing(captions):
        yield HEADER + (cues.heard(first) if first else "")
        async for caption in captions:
            if caption and (written := cues.heard(caption)):
                yield written


async def _events(first: Caption | None, captions: _Captions) -> AsyncIterator[str]:
    async with aclosing(captions):
        yield sse.event(first) if first else sse.KEEP_ALIVE
        async for caption in captions:
            yield sse.event(caption) if caption else sse.KEEP_ALIVE
    yield sse.DONE


_WRITERS = {True: (_vtt, "text/vtt"), False: (_events, "text/event-stream")}
