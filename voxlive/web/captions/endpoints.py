"""``GET /captions``, ``GET /captions/{session}`` and ``GET /overlay/{session}``.

Readers with a link have ``voxlive.web.captions.shares``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from voxlive.errors import RequestRefused
from voxlive.web.access.middleware import require_grant
from voxlive.web.captions.cues import HEADER, LiveCues
from voxlive.web.captions.events import Caption
from voxlive.web.captions.feed import CaptionFeed
from voxlive.web.captions.feeds import CaptionFeeds
from voxlive.web.pages import Pages

if TYPE_CHECKING:
    from voxlive.store.contract import StoredSession
    from voxlive.web.recorder import Recorder

_VTT = ".vtt"
_HEADERS = {
    "cache-control": "no-store",
    # A reverse proxy must not buffer what is meant to be read at once.
    "x-accel-buffering": "no",
}


class CaptionEndpoints:
    """Read access to the captions of live sessions."""

    def __init__(
        self, feeds: CaptionFeeds, pages: Pages, recorder: Recorder | None = None, wait_s: float = 0
    ) -> None:
        """Sessions that another server has left in the store wait ``wait_s`` for their clients."""
        self._feeds = feeds
        self._pages = pages
        self._recorder = recorder
        self._wait_s = wait_s

    async def index(self, request: Request) -> JSONResponse:
        """The sessions that the client may read, the oldest first."""
        grant, relay = require_grant(request), self._feeds.relay
        elsewhere = await relay.listed() if relay else []
        listed = [
            {
                "session": feed.session,
                "name": feed.name,
                "path": feed.path,
                "readers": feed.readers,
            }
            for feed in (*elsewhere, *self._feeds)
            if grant.may_read(feed.owner)
        ]
        return JSONResponse({"sessions": listed}, headers={"cache-control": "no-store"})

    async def follow(self, request: Request) -> Response:
        """A session's captions as server-sent events, or WebVTT by ``.vtt`` or an Accept header."""
        name = request.path_params["session"]
        feed = await self._readable(request, name)
        as_vtt = "text/vtt" in request.headers.get("accept", "")
        if feed is None and name.endswith(_VTT):
            feed, as_vtt = await self._readable(request, name.removesuffix(_VTT)), True
        if feed is None:
            feed = await self._waiting(request, name.removesuffix(_VTT) if as_vtt else name)
        if feed is None:
            message = "no live session has this id or name now; GET /captions lists those there are"
            raise RequestRefused("no_such_session", message)
        media_type = "text/vtt" if as_vtt else "text/event-stream"
        return await streamed(_vtt(feed.read()) if as_vtt else feed.events(), media_type)

    async def _readable(self, request: Request, name: str) -> CaptionFeed | None:
        """The feed of a session id or name; None where the client may not read it, either."""
        feed = await self._feeds.locate(name)
        return feed if feed and require_grant(request).may_read(feed.owner) else None

    async def _waiting(self, request: Request, name: str) -> CaptionFeed | None:
        """The feed of a session that another server has left; None for none that may be read."""
        found = self._recorder and await self._recorder.find_named(name)
        if not self._recorder or not found or not require_grant(request).may_read(found.owner):
            return None
        return await waiting_feed(self._feeds, self._recorder, found, self._wait_s)

    async def builder(self, request: Request) -> Response:
        """The page on which an overlay's address is made."""
        return await reading_page(self._pages, "builder.html", request)

    async def overlay(self, request: Request) -> Response:
        """The overlay's page, whose script reads the session from the URL."""
        return await reading_page(self._pages, "overlay.html", request)


async def waiting_feed(
    feeds: CaptionFeeds, recorder: Recorder, left: StoredSession, wait_s: float
) -> CaptionFeed | None:
    """The feed of a session that another server has left, which waits so long for its client."""
    transcript = await recorder.transcript(left.id)
    return feeds.find_owned(left.id, left.owner) or feeds.wait(transcript, wait_s)


async def reading_page(pages: Pages, name: str, request: Request) -> Response:
    """A page for those who read, which has no use for a microphone."""
    response = await pages.get_response(name, request.scope)
    response.headers["permissions-policy"] = "microphone=(), camera=(), display-capture=()"
    return response


async def streamed(texts: AsyncGenerator[str, None], media_type: str) -> StreamingResponse:
    """A response that begins once there is a first text: what fails before that is an error."""
    first = await anext(texts)

    async def all_of_it() -> AsyncIterator[str]:
        async with aclosing(texts):
            yield first
            async for text in texts:
                yield text

    return StreamingResponse(all_of_it(), media_type=media_type, headers=_HEADERS)


async def _vtt(captions: AsyncGenerator[Caption | None, None]) -> AsyncGenerator[str, None]:
    live_cues = LiveCues()
    async with aclosing(captions):
        first = await anext(captions)
        yield HEADER + (live_cues.on_caption(first) if first else "")
        async for caption in captions:
            if caption and (blocks := live_cues.on_caption(caption)):
                yield blocks
