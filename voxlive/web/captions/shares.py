"""Links by which others read along: whoever has one reads one session's captions, nothing else.

A link has a token of its own, which opens ``GET /read/events`` and ``GET /read/state`` and no other
path; it is no key. It is for the sessions of one key that have its name as their id or captions
name, ends at its time or soon after its session, and can be revoked. Of the token a digest is kept,
in the server's store if there is one: so a link outlives the server as its session does. Without a
store it ends with the server.

``Shares`` knows the links, ``ShareEndpoints`` makes and revokes them and serves their readers.
"""

from __future__ import annotations

import asyncio
import io
import logging
import re
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import segno
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from voxlive.errors import RequestRefused
from voxlive.store.contract import Share, StoredSession, StoreError
from voxlive.web.access.access import Access
from voxlive.web.access.keys import digest, find_credentials
from voxlive.web.access.middleware import AuditLog, require_grant
from voxlive.web.captions.endpoints import reading_page, streamed, waiting_feed
from voxlive.web.captions.events import (
    DONE,
    KEEP_ALIVE,
    CaptionSnapshot,
    Place,
    closed_captions,
    event,
    sse_event,
)
from voxlive.web.captions.feed import MAX_READERS, CaptionFeed, CaptionReader, TooManyReaders
from voxlive.web.captions.feeds import CaptionFeeds, is_valid_name
from voxlive.web.pages import Pages
from voxlive.web.protocols.fields import Json, check_fields, flag, integer, string
from voxlive.web.rest.grants import json_body

if TYPE_CHECKING:
    from voxlive.web.recorder import Recorder

log = logging.getLogger(__name__)

MAX_LINKS = 100
"""Of one key at a time."""
MIN_LIFETIME_S, LIFETIME_S, MAX_LIFETIME_S = 60, 86_400, 30 * 86_400
GRACE_S = 600
"""How long after its session a link that ends with it goes on: readers may have been cut off."""
MAX_STORED_WORDS = 250_000
"""Words of a stored session that readers get."""

_TOKEN = re.compile(r"rd_[\w-]{32}", re.ASCII)
_LIFETIME_FIELDS = ("expires_in", "ends_with_session")
_FIELDS = ("captions", *_LIFETIME_FIELDS, "page")
_MAX_URL = 300
_KEEP_ALIVE_S = 10.0
_RECHECK_S = 10.0  # a link may be revoked at another server on the store
_LOOK_S = 3.0  # what the store said of a link's session is true for so long
_LOOKUPS = 4
_NO_STORE = {"cache-control": "no-store"}


@dataclass(slots=True)
class _Known:
    share: Share
    checked_at: float


class Shares:
    """The links of a server. All of it belongs to the event loop.

    ``now`` is in UTC.
    """

    def __init__(self, access: Access, feeds: CaptionFeeds, recorder: Recorder | None) -> None:
        self._access = access
        self._store = recorder.store if recorder else None
        self._known: dict[str, _Known] = {}  # by the token's digest
        # By the link's id, and whether each is counted.
        self._readers: defaultdict[str, dict[CaptionReader, bool]] = defaultdict(dict)
        self._lookups = asyncio.Semaphore(_LOOKUPS)
        self._ending: set[asyncio.Task[None]] = set()
        feeds.on_over = self._on_over

    async def make(
        self, owner: str, name: str, lifetime_s: float, *, with_session: bool
    ) -> tuple[str, Share]:
        """A new link and its token. Raises RequestRefused at the bound, and StoreError."""
        if len(await self.of(owner)) >= MAX_LINKS:
            message = f"a key has {MAX_LINKS} links at most: revoke some"
            raise RequestRefused("too_many_links", message)
        token = f"rd_{secrets.token_urlsafe(24)}"
        now = datetime.now(UTC)
        share = Share(
            f"link_{secrets.token_hex(8)}",
            digest(token).hex(),
            owner,
            name,
            now,
            now + timedelta(seconds=lifetime_s),
            with_session,
        )
        if self._store:
            await asyncio.to_thread(self._store.add_share, share)
        self._know(share)
        return token, share

    async def of(self, owner: str) -> list[Share]:
        """The links of a key that have not ended, the oldest first. Raises StoreError."""
        if self._store:
            found = await asyncio.to_thread(self._store.shares, owner)
        else:
            found = tuple(one.share for one in self._known.values() if one.share.owner == owner)
        return [share for share in found if not _has_expired(share)]

    async def find(self, token: str) -> Share | None:
        """The link of a token; None where there is none, or it has ended. Raises StoreError."""
        if not _TOKEN.fullmatch(token):
            return None
        presented = digest(token).hex()
        async with self._lookups:
            known = self._known.get(presented)
            if self._store and (known is None or self._is_old(known)):
                found = await asyncio.to_thread(self._store.share, presented)
                known = self._know(found) if found else None
                if found is None:
                    self._known.pop(presented, None)
        if known is None or _has_expired(known.share) or not self._access.has(known.share.owner):
            return None
        return known.share

    async def expired(self, share: Share) -> bool:
        """Whether a link that has ended did so at its time, which may have changed."""
        known = self._known.get(share.digest)
        if known is None and self._store:
            found = await asyncio.to_thread(self._store.share, share.digest)
            share = found or share
        return _has_expired(known.share if known else share)

    async def change(
        self, ident: str, owner: str, lifetime_s: float, *, with_session: bool
    ) -> Share | None:
        """Have a link of a key last so long from now on; None for no such link. Raises StoreError.

        One that has ended is one no more.
        """
        found = next((one for one in await self.of(owner) if one.id == ident), None)
        if found is None:
            return None
        expires_at = datetime.now(UTC) + timedelta(seconds=lifetime_s)
        share = replace(found, expires_at=expires_at, with_session=with_session)
        if self._store and not await asyncio.to_thread(self._store.change_share, share):
            return None
        self._know(share)
        self._wake(ident)
        return share

    async def revoke(self, ident: str, owner: str) -> bool:
        """End a link of a key at once; whether there was one. Raises StoreError."""
        mine = [
            presented
            for presented, one in self._known.items()
            if (one.share.id, one.share.owner) == (ident, owner)
        ]
        revoked = bool(mine)
        if self._store:
            revoked = await asyncio.to_thread(self._store.revoke_share, ident, owner)
        for presented in mine:
            self._known.pop(presented, None)
        if revoked:
            for reader in self._readers.get(ident, ()):
                reader.stopped = True
            self._wake(ident)
        return revoked

    def count(self, share: Share) -> int:
        """How many people read by a link now."""
        return sum(self._readers.get(share.id, {}).values())

    @contextmanager
    def joined(self, share: Share, *, counted: bool) -> Iterator[CaptionReader]:
        """A reader of a link, until it leaves. Raises TooManyReaders."""
        reader, readers = CaptionReader(), self._readers[share.id]
        if len(readers) >= MAX_READERS:
            raise TooManyReaders
        readers[reader] = counted
        try:
            yield reader
        finally:
            del readers[reader]
            if not readers:
                del self._readers[share.id]

    def _wake(self, ident: str) -> None:
        """Have readers look at their link."""
        for reader in self._readers.get(ident, ()):
            reader.changed.set()

    def _is_old(self, known: _Known) -> bool:
        return asyncio.get_running_loop().time() - known.checked_at > _RECHECK_S

    def _know(self, share: Share) -> _Known:
        self._known = {d: one for d, one in self._known.items() if not _has_expired(one.share)}
        known = _Known(share, asyncio.get_running_loop().time())
        self._known[share.digest] = known
        return known

    def _on_over(self, feed: CaptionFeed) -> None:
        """A session is over, and soon the links are that end with it."""
        names = {feed.session, feed.name}
        ending = [
            one
            for one in self._known.values()
            if one.share.with_session and one.share.owner == feed.owner and one.share.name in names
        ]
        at = datetime.now(UTC) + timedelta(seconds=GRACE_S)
        for one in ending:
            one.share = replace(one.share, expires_at=min(at, one.share.expires_at))
            self._wake(one.share.id)
        if ending and self._store:
            task = asyncio.get_running_loop().create_task(self._end(feed.owner, names, at))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end(self, owner: str, names: set[str], at: datetime) -> None:
        assert self._store
        try:
            await asyncio.to_thread(self._store.end_shares, owner, names, at)
        except StoreError as error:
            log.warning("links that end with their session end at their time: %s", error.message)


def _lifetime(body: Json) -> tuple[int, bool]:
    """How many seconds a link lasts, and whether it ends with its session. Raises ValueError."""
    lifetime_s = integer(body, "expires_in", MIN_LIFETIME_S, MAX_LIFETIME_S, LIFETIME_S)
    return lifetime_s, flag(body, "ends_with_session", False)


def _has_expired(share: Share) -> bool:
    return share.expires_at <= datetime.now(UTC)


class ShareEndpoints:
    """``/v1/shares`` for those who speak, ``/read`` for those who read along."""

    def __init__(
        self,
        shares: Shares,
        feeds: CaptionFeeds,
        pages: Pages,
        audit: AuditLog,
        recorder: Recorder | None = None,
        wait_s: float = 0,
    ) -> None:
        """Sessions that another server has left in the store wait ``wait_s`` for their clients."""
        self._shares = shares
        self._feeds = feeds
        self._pages = pages
        self._audit = audit
        self._recorder = recorder
        self._wait_s = wait_s
        self._looking = asyncio.Lock()
        self._looked: dict[str, tuple[float, StoredSession | None]] = {}  # by the link's id
        self._finished: tuple[str, float, str] = "", 0.0, ""  # a stored session, as an event

    async def make(self, request: Request) -> JSONResponse:
        """``POST /v1/shares``: a link for sessions of a captions name or an id."""
        grant = require_grant(request)
        if grant.by_ticket:
            message = "a short-lived key cannot make links: use the real one"
            raise RequestRefused("forbidden", message)
        body = await json_body(request)
        try:
            check_fields(body, _FIELDS, "a link")
            name = string(body, "captions", 64) or f"page-{secrets.token_hex(8)}"
            if not is_valid_name(name):
                raise ValueError('"captions" must be the name or the id of a session')
            lifetime_s, with_session = _lifetime(body)
            page = string(body, "page", _MAX_URL) or str(request.base_url)
            if urlsplit(page).scheme not in ("http", "https"):
                raise ValueError('"page" must be the address of this server\'s page')
        except ValueError as error:
            raise RequestRefused("invalid_value", str(error)) from error
        async with self._audit.recorded(request, "share", begun=True, captions=name) as record:
            token, share = await self._shares.make(
                grant.name, name, lifetime_s, with_session=with_session
            )
            record["link"] = share.id
        url = f"{urljoin(page, 'read')}#{token}"
        made = {**self._listed(share), "token": token, "url": url, "qr": qr_svg(url)}
        return JSONResponse(made, 201, headers=_NO_STORE)

    async def index(self, request: Request) -> JSONResponse:
        """``GET /v1/shares``: the key's links, without their tokens, which nobody knows."""
        found = await self._shares.of(require_grant(request).name)
        return JSONResponse({"links": [self._listed(one) for one in found]}, headers=_NO_STORE)

    async def change(self, request: Request) -> JSONResponse:
        """``PATCH /v1/shares/{link}``: how long it lasts from now on."""
        ident, owner = request.path_params["link"], require_grant(request).name
        body = await json_body(request)
        try:
            check_fields(body, _LIFETIME_FIELDS, "a change of a link")
            lifetime_s, with_session = _lifetime(body)
        except ValueError as error:
            raise RequestRefused("invalid_value", str(error)) from error
        async with self._audit.recorded(request, "share", begun=True, link=ident[:64]):
            share = await self._shares.change(ident, owner, lifetime_s, with_session=with_session)
            if share is None:
                raise RequestRefused("no_such_link", "this key has no such link")
        return JSONResponse(self._listed(share), headers=_NO_STORE)

    async def revoke(self, request: Request) -> Response:
        """``DELETE /v1/shares/{link}``: its readers are told, and it opens nothing any more."""
        ident, owner = request.path_params["link"], require_grant(request).name
        async with self._audit.recorded(request, "unshare", begun=True, link=ident[:64]):
            if not await self._shares.revoke(ident, owner):
                raise RequestRefused("no_such_link", "this key has no such link")
        return Response(status_code=204, headers=_NO_STORE)

    async def page(self, request: Request) -> Response:
        """``GET /read``: the reading page, whose script has the token from the fragment."""
        return await reading_page(self._pages, "read.html", request)

    async def state(self, request: Request) -> JSONResponse:
        """``GET /read/state``: whether the session is live, and how many read by the link."""
        share = await self._admit(request)
        live = await self._feeds.locate(share.name, share.owner)
        shown = {**self._listed(share), "live": live is not None}
        return JSONResponse(shown, headers=_NO_STORE)

    async def events(self, request: Request) -> Response:
        """``GET /read/events``: all captions from the start, or what is said from now on.

        A reader that was here goes on where it was, by Last-Event-ID. The connection lasts over
        the end of a session, since the next one may have its name.
        """
        share = await self._admit(request)
        query = request.query_params
        place = Place.parse(request.headers.get("last-event-id") or query.get("after", ""))
        counted, start = query.get("count") != "0", query.get("from") != "now"
        stream = self._stream(request, share, place, counted=counted, start=start)
        response = await streamed(stream, "text/event-stream")
        if request.method == "HEAD":
            await stream.aclose()
            return Response(headers=response.headers)
        return response

    async def _admit(self, request: Request) -> Share:
        """The link of a request's token. Raises RequestRefused."""
        share = await self._shares.find(_token(request))
        if share is None:
            message = "this link has ended, or is not whole: ask for a new one"
            raise RequestRefused("no_such_link", message)
        return share

    def _listed(self, share: Share) -> dict[str, Any]:
        return {
            "id": share.id,
            "captions": share.name,
            "made_at": share.made_at.isoformat(timespec="seconds"),
            "expires_at": share.expires_at.isoformat(timespec="seconds"),
            "ends_with_session": share.with_session,
            "readers": self._shares.count(share),
        }

    async def _stream(
        self, request: Request, share: Share, place: Place | None, *, counted: bool, start: bool
    ) -> AsyncGenerator[str, None]:
        """What a reader is sent.

        ``told``: which session it knows to be over; "" if it knows that there was none.
        """
        token = _token(request)
        told: str | None = None
        with self._shares.joined(share, counted=counted) as reader:
            while not reader.stopped and (found := await self._shares.find(token)):
                share = found
                feed = await self._feed(share)
                if feed is None:
                    if not told:
                        before, (told, text) = told, await self._between(request, share)
                        if told != before:
                            yield text
                    self._feeds.waiting.add(reader)
                    try:
                        if not self._feeds.find_owned(
                            share.name, share.owner
                        ) and not await reader.wait(self._rest_s(share)):
                            yield KEEP_ALIVE
                    finally:
                        self._feeds.waiting.discard(reader)
                    continue
                await self._complete(feed, place, start=start)
                with feed.reading(reader, place, start=start):
                    while not reader.stopped:
                        while reader.unread and not reader.stopped:
                            yield reader.take()
                        if reader.ended:
                            break
                        if not await reader.wait(self._rest_s(share)):
                            yield KEEP_ALIVE
                            if await self._shares.find(token) is None:
                                break
                if reader.behind or feed.left:
                    return
                if reader.ended:
                    told, place, start = feed.session, None, True
                    yield DONE
            expired = not reader.stopped and await self._shares.expired(share)
            yield event("over", {"reason": "expired" if expired else "revoked"})

    @staticmethod
    def _rest_s(share: Share) -> float:
        """How long to wait: no longer than the link lasts, as far as is known."""
        left_s = (share.expires_at - datetime.now(UTC)).total_seconds()
        return max(0.05, min(_KEEP_ALIVE_S, left_s))

    async def _feed(self, share: Share) -> CaptionFeed | None:
        """The feed of a live session, or of one that waits for its client to come here."""
        feed = await self._feeds.locate(share.name, share.owner)
        if feed or not self._recorder:
            return feed
        stored = await self._look(share)
        if stored is None or stored.state == "ended":
            return self._feeds.find_owned(share.name, share.owner)
        waits = await self._recorder.find_named(stored.id)
        if waits is None or waits.owner != share.owner:
            return None
        return await waiting_feed(self._feeds, self._recorder, stored, self._wait_s)

    async def _look(self, share: Share) -> StoredSession | None:
        """The newest session of a link in the store, as it was some seconds ago."""
        assert self._recorder
        clock = asyncio.get_running_loop().time
        async with self._looking:
            at, found = self._looked.get(share.id, (float("-inf"), None))
            if clock() - at > _LOOK_S:
                found = await asyncio.to_thread(self._recorder.store.shared_session, share)
                fresh = clock() - _LOOK_S
                self._looked = {k: v for k, v in self._looked.items() if v[0] > fresh}
                self._looked[share.id] = clock(), found
            return found

    async def _between(self, request: Request, share: Share) -> tuple[str, str]:
        """What a reader is told while there is no live session: which one is over, and how."""
        stored = await self._look(share) if self._recorder else None
        # The store may come to know a moment later that a session is over.
        over = stored and (stored.state == "ended" or self._feeds.is_over(stored.id))
        if not (stored and over) or stored.words > MAX_STORED_WORDS:
            return "", event("waiting", {})
        return stored.id, await self._text_of(request, share, stored.id) + DONE

    async def _text_of(self, request: Request, share: Share, session: str) -> str:
        """A session that is over, as a snapshot; read once for all who come together."""
        assert self._recorder
        clock = asyncio.get_running_loop().time
        async with self._looking:
            kept, at, text = self._finished
            if kept != session or clock() - at > _RECHECK_S:
                transcript = await self._recorder.transcript(session)
                closed = await asyncio.to_thread(closed_captions, transcript, "best")
                count, fixed = len(transcript.words), len(transcript.corrections)
                snapshot = CaptionSnapshot(closed, (), "", session=session)
                text = sse_event(snapshot, str(Place(session, count, fixed)))
                self._finished = session, clock(), text
                who = f"{share.owner} ({share.id})"
                await self._audit.write(request, who, "read", "ok", {"session": session})
        return text

    async def _complete(self, feed: CaptionFeed, place: Place | None, *, start: bool) -> None:
        """Have a feed know what was said before that which it keeps, if a reader needs it."""
        if not self._recorder or not feed.lacks(place, start=start):
            return
        async with feed.loading:
            if feed.lacks(place, start=start):
                try:
                    transcript = await self._recorder.transcript(feed.session)
                    feed.add_earlier(await asyncio.to_thread(closed_captions, transcript))
                except (StoreError, RequestRefused) as error:  # it is not stored, or was deleted
                    log.debug("what was said before is not there: %s", error)


def _token(request: Request) -> str:
    query = request.query_params
    return find_credentials(request.headers, (), query, key_params=("token",)).secret or ""


def qr_svg(text: str) -> str:
    """A QR code as an SVG image, black on white with the margin that readers need."""
    written = io.BytesIO()
    segno.make(text, error="m", micro=False).save(
        written, kind="svg", xmldecl=False, border=4, dark="#000", light="#fff", omitsize=True
    )
    return written.getvalue().decode()
