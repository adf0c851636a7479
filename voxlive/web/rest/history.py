"""Stored sessions over HTTP: list, search, read, export, follow, correct and delete.

| request | answer |
|---|---|
| ``GET /v1/sessions`` | a page of sessions, or with ``q`` of what a search finds |
| ``GET /v1/sessions/{session}`` | one with its segments, words and corrections |
| ``GET /v1/sessions/{session}.txt`` and the others of ``EXPORTS`` | a file |
| ``PATCH``, ``DELETE /v1/sessions/{session}`` | title and corrections; everything is gone |
| ``GET /v1/sessions/{session}/events`` | its words from any point on, as server-sent events |
| ``POST /v1/sessions/{session}/refine`` | it is recognised again from its audio |
| ``GET /v1/sessions/{session}/audio`` | its audio, where that is kept: Opus in Ogg, any range |

A store blocks: ``ThreadCalls`` has few threads for it, and refuses what more than a bounded number
of requests ask for. A transcript is written as a file one at a time. The functions that make the
answers are pure but for the store: the command line has the same ones.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from voxlive.errors import RequestRefused
from voxlive.runners.outputs.formats import (
    EXPORTS,
    attachment,
    dump_json,
    export,
    file_name,
    hit_json,
    refinement_json,
    segment_json,
    session_json,
    transcript_json,
    word_json,
)
from voxlive.speakers.labels import SpeakerNamed
from voxlive.store.contract import (
    MAX_CORRECTION,
    MAX_PAGE,
    MAX_TITLE,
    Correction,
    Layer,
    Owners,
    SessionFilter,
    SessionMark,
    SessionStore,
    StoreBusy,
    StoredName,
    StoredTranscript,
    StoredWord,
    StoreError,
    TranscriptPart,
    UnknownSession,
)
from voxlive.values import samples
from voxlive.web.access.access import Grant
from voxlive.web.access.middleware import AuditLog, require_grant
from voxlive.web.captions.events import KEEP_ALIVE, corrected_segments
from voxlive.web.captions.feeds import CaptionFeeds
from voxlive.web.protocols.fields import (
    Json,
    check_fields,
    flag,
    integer,
    line,
    number,
    speaker_named,
    string,
)
from voxlive.web.refiner import Refiner
from voxlive.web.rest.grants import json_body

MAX_WORDS = 250_000
"""Words of a session that is sent whole: more than a day's speech."""
MAX_CHANGE = 1_000_000
"""Bytes of a PATCH."""
MAX_CORRECTIONS = 1000
"""Corrections of a PATCH."""
MAX_FOLLOWERS = 64
"""Readers of events at a time, of all sessions; one key may have half of them."""
MAX_CALLS, CALL_TIMEOUT_S = 64, 60.0
"""Calls of the store that run or wait at a time, and how long one may take."""
MAX_FILES = 8
"""Transcripts that are written or sent at a time."""
MAX_LISTENERS = 64
"""Answers with audio at a time, of all sessions; one key may have half of them."""

_ID = re.compile(r"[\w:-]{1,64}", re.ASCII)
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_MAX_MODEL, _MAX_KIND, _LONGEST_S = 200, 40, 1e7
LAYERS: tuple[Layer, ...] = ("best", "live", "corrected", "refined")
_PLACE = re.compile(r"(\d{1,9})(?:\.(\d{1,9}))?", re.ASCII)
_PART = 500  # words of one event at most
_POLL_S, _SLOWEST_POLL_S, _KEEP_ALIVE_S = 0.5, 2.0, 15.0
_MAX_QUERY = 200
_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    # Whatever a browser takes it for, nothing in it runs.
    "content-security-policy": "default-src 'none'; sandbox",
}
_T = TypeVar("_T")


class ThreadCalls:
    """Blocking calls in ``threads`` threads; raises StoreBusy beyond ``most`` that run or wait.

    One that takes longer than ``CALL_TIMEOUT_S`` is not waited for, and counts until it ends.
    """

    def __init__(self, name: str, threads: int, most: int) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._free = threading.BoundedSemaphore(most)

    async def run(self, call: Callable[..., _T], *args: object, **options: object) -> _T:
        """What the call returns or raises."""
        if not self._free.acquire(blocking=False):
            raise StoreBusy("the server has too many sessions to look up", retry_after_s=1)
        called = self._threads.submit(call, *args, **options)
        called.add_done_callback(lambda _: self._free.release())
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await asyncio.wrap_future(called)
        except TimeoutError:
            raise StoreBusy("the store takes too long to answer", retry_after_s=5) from None


class HistoryEndpoints:
    """The routes. Without a ``store`` every request is refused with ``no_store``.

    ``closing``: whether the server goes down, which ends the readers of events.
    """

    def __init__(
        self,
        store: SessionStore | None,
        audit: AuditLog,
        closing: Callable[[], bool],
        refiner: Refiner | None = None,
        feeds: CaptionFeeds | None = None,
    ) -> None:
        """Readers of ``feeds`` are told of corrections."""
        self._feeds = feeds
        self._store = store
        self._refiner = refiner
        self._audit = audit
        self._closing = closing
        self._calls = ThreadCalls("store", 4, MAX_CALLS)
        self._writers = ThreadCalls("export", 1, MAX_FILES)
        self._files = threading.BoundedSemaphore(MAX_FILES)
        self._followers: Counter[str] = Counter()
        self._listeners: Counter[str] = Counter()

    async def index(self, request: Request) -> Response:
        """A page of sessions, or of what is found of ``q``, the newest first."""
        store, grant = self._open(request)
        action = "search" if "q" in request.query_params else "list"
        async with self._audit.recorded(request, action) as record:
            query = request.query_params
            found = await self._calls.run(list_sessions, store, query, grant.readable)
            record["sessions"] = [one["id"] for one in found["sessions"]]
        return JSONResponse(found, headers=_HEADERS)

    async def get(self, request: Request) -> Response:
        """A session whole, as JSON or as a file."""
        store, grant = self._open(request)
        name, dot, suffix = request.path_params["session"].rpartition(".")
        ident = check_id(name if dot else suffix)
        if dot and suffix not in EXPORTS:
            message = f"a session comes as {', '.join(EXPORTS)}, not as this"
            raise RequestRefused("not_found", message)
        layer = chosen_layer(request.query_params)
        about = {"format": suffix} if dot else {}
        if not self._files.acquire(blocking=False):
            raise StoreBusy("the server sends as many transcripts as it can", retry_after_s=2)
        with ExitStack() as undo:
            undo.callback(self._files.release)
            async with self._audit.recorded(request, "export" if dot else "read", ident, **about):
                found = await self._calls.run(_whole, store, ident, grant.readable)
                write = export if dot else _document
                content = await self._writers.run(write, found, suffix, layer)
            kind = EXPORTS[suffix].media_type if dot else "application/json"
            charset = "" if suffix == "docx" else "; charset=utf-8"
            headers = {**_HEADERS, "content-type": f"{kind}{charset}"}
            if dot:
                name = f"{file_name(found.session)}.{suffix}"
                headers["content-disposition"] = attachment(name)
            undo.pop_all()
            return _FileResponse(content, headers, self._files.release)

    async def patch(self, request: Request) -> Response:
        """Set the title, add corrections, change marks; the answer is the session as listed."""
        store, grant = self._open(request)
        ident = check_id(request.path_params["session"])
        body = await json_body(request, MAX_CHANGE)
        changes = parse_changes(body, grant.name, datetime.now(UTC))
        ranges = [[one.first, one.stop] for one in changes.corrections]
        about: dict[str, object] = {"title": changes.title is not None, "corrections": ranges}
        if changes.marks or changes.unmarked:
            about["marks"] = len(changes.marks) + len(changes.unmarked)
        if changes.names:
            about["speakers"] = len(changes.names)
        async with self._audit.recorded(request, "change", ident, begun=True, **about):
            changed = await self._change(grant, ident, store.patch, **vars(changes))
        if self._feeds and changes.corrections and changed.state != "ended":
            corrected = await self._calls.run(_corrected, store, ident)
            self._feeds.correct(ident, changed.owner, *corrected)
        if self._feeds and changes.names and changed.state != "ended":
            named = (SpeakerNamed(one.speaker, one.name, one.source) for one in changes.names)
            self._feeds.name(ident, changed.owner, named)
        return JSONResponse(session_json(changed), headers=_HEADERS)

    async def delete(self, request: Request) -> Response:
        """Delete a session; 204 once nothing of it is left."""
        store, grant = self._open(request)
        ident = check_id(request.path_params["session"])
        async with self._audit.recorded(request, "delete", ident, begun=True):
            if self._refiner:
                self._refiner.cancel(ident)
            await self._change(grant, ident, store.delete)
        return Response(status_code=204, headers=_HEADERS)

    async def refine(self, request: Request) -> Response:
        """Queue the session for a model; 202 with how far that is, 200 once it is done."""
        store, grant = self._open(request)
        ident = check_id(request.path_params["session"])
        body = await json_body(request)
        try:
            check_fields(body, ("model",), "a refinement")
            model = string(body, "model", _MAX_MODEL)
        except ValueError as error:
            raise RequestRefused("invalid_value", str(error)) from error
        about = {"model": model} if model else {}
        async with self._audit.recorded(request, "refine", ident, begun=True, **about):
            assert self._refiner
            session = await self._change(grant, ident, store.session)
            made = await self._refiner.request(session, grant.changeable, model, grant.name)
        status = 200 if made.state == "done" else 202
        return JSONResponse(refinement_json(made), status, headers=_HEADERS)

    async def _change(
        self, grant: Grant, ident: str, change: Callable[..., _T], **options: object
    ) -> _T:
        try:
            return await self._calls.run(change, ident, grant.changeable, **options)
        except UnknownSession:
            assert self._store
            if grant.readable != grant.changeable:
                await self._calls.run(self._store.session, ident, grant.readable)
                message = "this key may read this session, and neither change nor delete it"
                raise RequestRefused("forbidden", message) from None
            raise

    async def events(self, request: Request) -> Response:
        """The words and segments from a place on, until the session is over."""
        store, grant = self._open(request)
        ident = check_id(request.path_params["session"])
        number, segment = parse_place(
            request.headers.get("last-event-id") or request.query_params.get("from") or "0"
        )
        async with self._audit.recorded(request, "follow", ident, word=number):
            events = self._follow(store, grant, ident, number, segment)
            first = await anext(events)
        if request.method == "HEAD":
            await events.aclose()
            return Response(headers={**_HEADERS, "content-type": "text/event-stream"})

        async def rest() -> AsyncIterator[str]:
            async with aclosing(events):
                yield first
                async for event in events:
                    yield event

        headers = {**_HEADERS, "x-accel-buffering": "no"}
        return StreamingResponse(rest(), media_type="text/event-stream", headers=headers)

    async def audio(self, request: Request) -> Response:
        """The audio of a session, or a range of its bytes; of a running one, what there is."""
        store, grant = self._open(request)
        ident = check_id(request.path_params["session"])
        with ExitStack() as undo:
            async with self._audit.recorded(request, "listen", ident):
                session = await self._calls.run(store.session, ident, grant.readable)
                path = store.audio.find(ident)
                if path is None:
                    message = f"the audio of session {ident} is not kept here"
                    raise RequestRefused("no_audio", message)
                mine = self._listeners[grant.name]
                if self._listeners.total() >= MAX_LISTENERS or mine >= MAX_LISTENERS // 2:
                    message = "the server sends as much audio as it can; try again later"
                    raise RequestRefused("too_many_readers", message, retry_after_s=5)
                self._listeners[grant.name] += 1
                undo.callback(self._listeners.subtract, [grant.name])
                ranged = check_range(request.headers.get("range", ""), path)
            headers = {**_HEADERS, "content-disposition": attachment(f"{file_name(session)}.ogg")}
            release = undo.pop_all().close
            return _AudioResponse(path, headers, release, ranged=ranged)

    async def _follow(
        self, store: SessionStore, grant: Grant, ident: str, number: int, segment: int
    ) -> AsyncGenerator[str, None]:
        """Server-sent events, until the session is over or gone, or the server goes down."""
        mine = self._followers[grant.name]
        if self._followers.total() >= MAX_FOLLOWERS or mine >= MAX_FOLLOWERS // 2:
            message = "as many sessions are followed as the server serves; try again later"
            raise RequestRefused("too_many_readers", message, retry_after_s=5)
        self._followers[grant.name] += 1
        try:
            part = await self._calls.run(store.since, ident, grant.readable, number, _PART)
            yield _event("session", session_json(part.session))
            place, over, pause_s, quiet_s = EventPlace(number, segment), False, _POLL_S, 0.0
            while not self._closing():
                events = list(place.read(part))
                for event in events:
                    yield event
                if over and not events:
                    yield _event("done", {"error": part.session.error})
                    return
                # What was read with the end may be older than that: once more.
                over = part.session.state == "ended"
                pause_s = _POLL_S if events else min(1.5 * pause_s, _SLOWEST_POLL_S)
                if not over and len(part.words) < _PART:
                    await asyncio.sleep(pause_s)
                    quiet_s = 0.0 if events else quiet_s + pause_s
                if quiet_s >= _KEEP_ALIVE_S:
                    yield KEEP_ALIVE
                    quiet_s = 0.0
                try:
                    part = await self._calls.run(
                        store.since, ident, grant.readable, place.number, _PART
                    )
                except (UnknownSession, StoreError) as error:
                    yield _event("failed", {"code": error.code, "message": error.message})
                    return
        finally:
            self._followers[grant.name] -= 1

    def _open(self, request: Request) -> tuple[SessionStore, Grant]:
        """The store, for a client that may use it. A page of another site cannot even ask.

        Where such a page embeds an address, a browser sends no Origin; how long a search takes
        would say what there is.
        """
        embedded = request.headers.get("sec-fetch-mode") == "no-cors"
        if embedded and request.headers.get("sec-fetch-site") not in ("same-origin", "none"):
            message = "pages of other sites may not embed stored sessions"
            raise RequestRefused("foreign_origin", message)
        if self._store is None:
            message = "this server keeps no sessions: start it with --store to have it keep them"
            raise RequestRefused("no_store", message)
        return self._store, require_grant(request)


class _AudioResponse(FileResponse):
    """A file, or if it is ``ranged`` the range that is asked for; gives its place back then."""

    def __init__(
        self, path: Path, headers: Mapping[str, str], release: Callable[[], None], *, ranged: bool
    ) -> None:
        super().__init__(path, headers=headers, media_type="audio/ogg")
        self._release = release
        self._ranged = ranged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if not self._ranged:
            headers = [one for one in scope["headers"] if one[0] != b"range"]
            scope = {**scope, "headers": headers}
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


class _FileResponse(Response):
    """A response that gives its place among ``MAX_FILES`` back once it is sent."""

    def __init__(
        self, content: bytes, headers: Mapping[str, str], release: Callable[[], None]
    ) -> None:
        super().__init__(content, headers=headers)
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


def check_id(text: str) -> str:
    """The id of a session. Raises UnknownSession for what cannot be one."""
    if not _ID.fullmatch(text):
        raise UnknownSession(text[:64])
    return text


def check_range(text: str, path: Path) -> bool:
    """Whether a Range is one that is served: one of bytes; another one is ignored.

    Raises RequestRefused ``bad_range`` for one beyond the end of the file.
    """
    found = _RANGE.fullmatch(text)
    if not found or not (found[1] or found[2]):
        return False
    first, last = (int(one) if one else None for one in found.groups())
    if first is not None and last is not None and first > last:
        return False
    size = path.stat().st_size
    if (first is not None and first >= size) or (first is None and last == 0):
        raise RequestRefused("bad_range", f"the audio has {size} bytes", "range")
    return True


def list_sessions(store: SessionStore, query: Mapping[str, str], owners: Owners) -> dict[str, Any]:
    """``GET /v1/sessions``: ``sessions``, and ``next``, the cursor of the next page or None.

    Raises RequestRefused ``bad_parameter``.
    """
    chosen = SessionFilter(
        _narrowed(owners, query.get("owner")),
        query.get("model"),
        query.get("language"),
        _moment(query, "since"),
        _moment(query, "before"),
        _flag(query, "titled") if "titled" in query else None,
    )
    text, cursor = query.get("q"), query.get("cursor")
    try:
        limit = integer({"limit": int(query.get("limit", 50))}, "limit", 1, MAX_PAGE, 50)
    except ValueError:
        raise _bad("limit", f"must be a whole number from 1 to {MAX_PAGE}") from None
    if text is None:
        page = store.sessions(chosen, limit, cursor)
        return {"sessions": [session_json(one) for one in page.sessions], "next": page.next}
    if len(text) > _MAX_QUERY:
        raise _bad("q", f"may have {_MAX_QUERY} characters")
    found = store.search(text, chosen, limit, cursor)
    return {"sessions": [hit_json(one) for one in found.hits], "next": found.next}


def _narrowed(owners: Owners, owner: str | None) -> Owners:
    if owner is None:
        return owners
    return frozenset({owner}) if owners is None else owners & {owner}


def _moment(query: Mapping[str, str], name: str) -> datetime | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        form = "must be a date or a time such as 2026-01-31 or 2026-01-31T15:00:00Z"
        raise _bad(name, form) from None


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text not in ("true", "1", "false", "0"):
        raise _bad(name, "must be true or false")
    return text in ("true", "1")


def chosen_layer(query: Mapping[str, str]) -> Layer:
    """The layer that is asked for; ``original`` is another name of live."""
    layer = query.get("layer", "best")
    for known in LAYERS:
        if layer == known:
            return "live" if _flag(query, "original") else known
    raise _bad("layer", f"must be {', '.join(LAYERS)}")


def _bad(name: str, problem: str) -> RequestRefused:
    return RequestRefused("bad_parameter", f"{name} {problem}", name)


def parse_place(text: str) -> tuple[int, int]:
    """Where a reader goes on: a word's number and, behind a point, the last segment's id or -1."""
    found = _PLACE.fullmatch(text)
    if not found:
        raise _bad("from", "must be the number of a word")
    return int(found[1]), int(found[2] or -1)


@dataclass(frozen=True)
class SessionChanges:
    """A PATCH: a title, None to leave it, and what is added, changed and deleted."""

    title: str | None = None
    corrections: tuple[Correction, ...] = ()
    marks: tuple[SessionMark, ...] = ()
    unmarked: tuple[int, ...] = ()
    names: tuple[StoredName, ...] = ()


def parse_changes(body: Json, who: str, now: datetime) -> SessionChanges:
    """The changes of a PATCH. Raises RequestRefused."""
    try:
        check_fields(body, ("title", "corrections", "marks", "speakers"), "a change")
        title = line(body, "title", MAX_TITLE) if "title" in body else None
        given = [_objects(body, name) for name in ("corrections", "marks")]
        made = tuple(_correction(one, who, now) for one in given[0])
        marks = [_mark(one, who, now) for one in given[1]]
        changes = SessionChanges(
            title,
            made,
            tuple(one for one in marks if isinstance(one, SessionMark)),
            tuple(one for one in marks if isinstance(one, int)),
            tuple(StoredName(*speaker_named(one)) for one in _objects(body, "speakers")),
        )
        if changes == SessionChanges():
            known = '"title", "corrections", "marks" or "speakers"'
            raise ValueError(f"there is nothing to change: give {known}")
    except ValueError as error:
        raise RequestRefused("invalid_value", str(error)) from error
    return changes


def _objects(body: Json, name: str) -> list[Json]:
    given = body.get(name, [])
    if not isinstance(given, list) or len(given) > MAX_CORRECTIONS:
        raise ValueError(f'"{name}" must be a list of up to {MAX_CORRECTIONS}')
    if not all(isinstance(one, dict) for one in given):
        raise ValueError(f'"{name}" must be a list of objects')
    return given


def _mark(fields: Json, who: str, now: datetime) -> SessionMark | int:
    """A mark to add or, with an id, to change; the id of one to delete."""
    check_fields(fields, ("id", "at", "kind", "text", "delete"), "a mark")
    ident = integer(fields, "id", 1, 2**53, None)
    if flag(fields, "delete", False):
        if ident is None or len(fields) > 2:
            raise ValueError('a mark to delete needs its "id", and nothing else')
        return ident
    at = number(fields, "at", 0, _LONGEST_S, None)
    if at is None:
        raise ValueError('a mark needs "at", in seconds')
    kind = line(fields, "kind", _MAX_KIND) if "kind" in fields else ""
    text = line(fields, "text", MAX_CORRECTION) if "text" in fields else ""
    return SessionMark(samples(at), kind or "note", text, who, now, ident)


def _correction(fields: Json, who: str, now: datetime) -> Correction:
    check_fields(fields, ("first", "stop", "text"), "a correction")
    first, stop = (integer(fields, name, 0, 2**31 - 1, None) for name in ("first", "stop"))
    if first is None or stop is None or first >= stop or "text" not in fields:
        raise ValueError('a correction needs "first", "stop" beyond it, and "text"')
    return Correction(first, stop, line(fields, "text", MAX_CORRECTION), who, now)


def _whole(store: SessionStore, ident: str, owners: Owners) -> StoredTranscript:
    """A session that is not too long to be sent whole."""
    count = store.session(ident, owners).words
    if count > MAX_WORDS:
        message = f"the session has {count} words: read them in parts, by its events?from="
        raise RequestRefused("too_big", message)
    return store.transcript(ident, owners)


def _corrected(store: SessionStore, ident: str) -> tuple[dict[int, tuple[str, int]], int]:
    """For ``CaptionFeed.correct``."""
    found = store.transcript(ident, None)
    return corrected_segments(found), len(found.corrections)


def _document(found: StoredTranscript, _suffix: str, layer: Layer) -> bytes:
    return dump_json(transcript_json(found, layer)).encode(errors="replace")


class EventPlace:
    """Where a reader of events is: at word ``number``, behind the segment of id ``segment``.

    Every event about words and segments has that as its id, by which the reader goes on.
    """

    def __init__(self, number: int, segment: int = -1) -> None:
        self.number = number
        self.segment = segment

    def read(self, part: TranscriptPart) -> Iterator[str]:
        """The words and closed segments that come next, in order."""
        words = [word for word in part.words if word.number >= self.number]
        for closed in part.segments:
            if closed.id > self.segment:
                inside = [word for word in words if word.number < closed.stop]
                yield from self._words(inside)
                words = words[len(inside) :]
                self.segment = closed.id
                yield _event("segment", segment_json(closed), self._id)
        yield from self._words(words)

    @property
    def _id(self) -> str:
        return f"{self.number}.{self.segment}" if self.segment >= 0 else str(self.number)

    def _words(self, words: list[StoredWord]) -> Iterator[str]:
        if words:
            self.number = words[-1].number + 1
            yield _event("words", {"words": [word_json(word) for word in words]}, self._id)


def _event(kind: str, data: Mapping[str, object], ident: str = "") -> str:
    # JSON on one line: a line break in the data would be read as another field.
    place = f"id: {ident}\n" if ident else ""
    return f"event: {kind}\n{place}data: {json.dumps(data)}\n\n"
