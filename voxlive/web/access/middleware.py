"""Everyone comes in here, over HTTP and over WebSockets: origin, key, scope and limits.

Over HTTP nothing is open unless ``_RULES`` says so: a new path is behind a key before anyone has
thought of it. What a wire format takes for a key stands in its protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxlive.errors import RequestRefused, VoxliveError
from voxlive.web.access.access import Access, Grant, TooManyWrongKeys
from voxlive.web.access.keys import find
from voxlive.web.access.sites import Sites
from voxlive.web.errors import as_deepgram, as_mistral, envelope

log = logging.getLogger(__name__)

_GRANT = "voxlive.grant"
_HELD_S, _MOST_HELD = 1.0, 256


@dataclass(frozen=True, slots=True)
class RouteRule:
    """What it takes to use a path. ``scope`` None: any key.

    ``counted``: it is one of the key's sessions while it lasts. ``params``: where its clients put a
    key in the query. ``answer``: how an error is written there.
    """

    scope: str | None = None
    open: bool = False
    counted: bool = False
    params: tuple[str, ...] = ()
    answer: Callable[[VoxliveError], Response] = envelope


_OPEN = RouteRule(open=True)
_READER = RouteRule("captions", params=("token",))
# A path is under the longest of these that it begins with.
_RULES = {
    "/": _OPEN,
    "/static": _OPEN,
    "/health": _OPEN,  # most of what it says is for those with a key
    "/v1/models": RouteRule(),
    "/v1/audio": RouteRule("files", counted=True),
    "/v1/chat/completions": RouteRule("files", counted=True),
    "/v1/listen": RouteRule("files", counted=True, answer=as_deepgram),
    "/v1/realtime/client_secrets": RouteRule("live"),
    "/v1/auth/grant": RouteRule("live", answer=as_deepgram),
    "/v1/client/sessions": RouteRule("live", answer=as_mistral),
    "/captions": _READER,
    "/overlay": _READER,
    "/metrics": RouteRule("metrics"),
}
_ELSEWHERE = ("elsewhere", RouteRule())


def rule_of(path: str) -> tuple[str, RouteRule]:
    """The rule that a path is under, and its name for logs and counters."""
    under = [p for p in _RULES if path == p or (p != "/" and path.startswith(f"{p}/"))]
    return max(((p, _RULES[p]) for p in under), key=lambda rule: len(rule[0]), default=_ELSEWHERE)


class Authenticator:
    """Who may connect to a server: those with a key, from pages and to names that are allowed."""

    def __init__(self, access: Access, sites: Sites | None = None) -> None:
        self.access = access
        self._sites = sites or Sites()
        self._held = 0

    def check_site(self, scope: Scope) -> None:
        """Raises RequestRefused for a Host that is not served and for a page of another site."""
        host, page = self._sites.refuses_host(scope), self._sites.refuses_page(scope)
        if host or page:
            about = Headers(scope=scope).get("host" if host else "origin", "")
            log.warning("refused %.100r: %s", about, host or page)
        if host:
            raise RequestRefused("unknown_host", host)
        if page:
            raise RequestRefused("foreign_origin", page)

    async def refused(self, refusal: RequestRefused, place: str) -> None:
        """Log and count it. Who tries keys waits for the answer, as long as few do."""
        log.info("refused at %s: %s", place, refusal.code)
        self.access.note(refusal.code, place)
        if isinstance(refusal, TooManyWrongKeys) and self._held < _MOST_HELD:
            self._held += 1
            try:
                await asyncio.sleep(_HELD_S)
            finally:
                self._held -= 1


class AuthMiddleware:
    """The gate in front of everything that is answered over HTTP."""

    def __init__(self, app: ASGIApp, gate: Authenticator) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        place, rule = rule_of(scope["path"].removeprefix(scope.get("root_path", "")))
        try:
            return await self._pass(Request(scope), receive, send, rule)
        except RequestRefused as refusal:
            await self._gate.refused(refusal, place)
            answer = rule.answer(refusal)
        return await answer(scope, receive, send)

    async def _pass(self, request: Request, receive: Receive, send: Send, rule: RouteRule) -> None:
        self._gate.check_site(request.scope)
        access = self._gate.access
        secret = find(request.headers, (), request.query_params, key_params=rule.params).secret
        grant = (
            access.known(secret)
            if rule.open
            else access.admit(secret, rule.scope, address(request))
        )
        scope = {**request.scope, _GRANT: grant}
        with ExitStack() as held:
            if grant and rule.counted:
                held.enter_context(grant.session())
            limit = grant.limits.upload_bytes if grant else 0
            await self._app(scope, _bounded(request.headers, receive, limit), send)


def address(connection: HTTPConnection) -> str:
    """Where a client is, as a trusted proxy says or as its connection has it."""
    return connection.client.host if connection.client else ""


def granted(connection: HTTPConnection) -> Grant:
    """Who a client of HTTP is."""
    grant = known(connection)
    assert grant is not None, "this path is open"
    return grant


def known(connection: HTTPConnection) -> Grant | None:
    """The same where a path is open: None for a client without a key."""
    grant: Grant | None = connection.scope[_GRANT]
    return grant


def _bounded(headers: Headers, receive: Receive, limit: float) -> Receive:
    """Receive a body that is refused as soon as it is known to be too long."""
    refusal = RequestRefused(
        "too_big",
        f"an upload may have {limit / 1_000_000:g} MB; send a shorter or a compressed file",
        "file",
    )
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise refusal
    seen = 0

    async def receive_bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise refusal
        return message

    return receive_bounded
