"""Everyone comes in here, over HTTP and over WebSockets: origin, key, scope and limits.

Over HTTP nothing is open unless ``_RULES`` says so: a new path is behind a key before anyone has
thought of it. What a wire format takes for a key stands in its protocol.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access.access import Access, Grant
from .access.credentials import find
from .access.refusal import Refusal
from .errors import ApiError, envelope
from .rest.words import as_deepgram, as_mistral

log = logging.getLogger(__name__)

_GRANT = "voxlive.grant"
_READING = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Rule:
    """What it takes to use a path. ``scope`` None: any key.

    ``counted``: it is one of the key's sessions while it lasts. ``params``: where its clients put a
    key in the query. ``answer``: how an error is written there.
    """

    scope: str | None = None
    open: bool = False
    counted: bool = False
    params: tuple[str, ...] = ()
    answer: Callable[[ApiError], Response] = envelope


_OPEN = Rule(open=True)
_READER = Rule("captions", params=("token",))
# A path is under the longest of these that it begins with.
_RULES = {
    "/": _OPEN,
    "/static": _OPEN,
    "/health": _OPEN,  # most of what it says is for those with a key
    "/v1/models": Rule(),
    "/v1/audio": Rule("files", counted=True),
    "/v1/chat/completions": Rule("files", counted=True),
    "/v1/listen": Rule("files", counted=True, answer=as_deepgram),
    "/v1/realtime/client_secrets": Rule("live"),
    "/v1/auth/grant": Rule("live", answer=as_deepgram),
    "/v1/client/sessions": Rule("live", answer=as_mistral),
    "/captions": _READER,
    "/overlay": _READER,
    "/metrics": Rule("metrics"),
}
_ELSEWHERE = ("elsewhere", Rule())


def rule_of(path: str) -> tuple[str, Rule]:
    """The rule that a path is under, and its name for logs and counters."""
    under = [p for p in _RULES if path == p or (p != "/" and path.startswith(f"{p}/"))]
    return max(((p, _RULES[p]) for p in under), key=lambda rule: len(rule[0]), default=_ELSEWHERE)


class Gate:
    """Who may connect to a server. ``allow_origins``: other sites let in; "*" is all."""

    def __init__(self, access: Access, allow_origins: Collection[str] = ()) -> None:
        self.access = access
        self._allow_origins = allow_origins

    def same_site(self, headers: Headers) -> bool:
        """Whether it is a program, or a page of this server or of an allowed site."""
        if _same_site(headers, self._allow_origins):
            return True
        log.warning("refused a page of %r; see --allow-origin", headers["origin"])
        return False

    def refused(self, refusal: Refusal, place: str) -> None:
        """Log and count it."""
        log.info("refused at %s: %s", place, refusal.code)
        self.access.note(refusal.code, place)


class HttpGate:
    """The gate in front of everything that is answered over HTTP."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        place, rule = rule_of(scope["path"].removeprefix(scope.get("root_path", "")))
        try:
            return await self._pass(Request(scope), receive, send, rule)
        except Refusal as refusal:
            self._gate.refused(refusal, place)
            error = ApiError(refusal.status, refusal.code, refusal.message, headers=refusal.headers)
        except ApiError as too_early:
            self._gate.access.note(too_early.code, place)
            error = too_early
        return await rule.answer(error)(scope, receive, send)

    async def _pass(self, request: Request, receive: Receive, send: Send, rule: Rule) -> None:
        if request.method not in _READING and not self._gate.same_site(request.headers):
            raise ApiError(403, "foreign_origin", "pages of other sites may not do this")
        access = self._gate.access
        secret = find(request.headers, (), request.query_params, key_params=rule.params).secret
        grant = access.known(secret) if rule.open else access.admit(secret, rule.scope)
        scope = {**request.scope, _GRANT: grant}
        with ExitStack() as held:
            if grant and rule.counted:
                held.enter_context(grant.session())
            limit = grant.limits.upload_bytes if grant else 0
            await self._app(scope, _bounded(request.headers, receive, limit), send)


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
    refusal = ApiError(
        413,
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


def _same_site(headers: Headers, allowed: Collection[str]) -> bool:
    """A page may only connect to its own server, unless its origin is allowed.

    Browsers send an Origin with every WebSocket and every POST, and let any page open and send
    them anywhere; programs send none.
    """
    origin = headers.get("origin")
    if origin is None or "*" in allowed or origin.lower() in allowed:
        return True
    host = urlsplit(origin).netloc.lower()
    return bool(host) and host == headers.get("host", "").lower()
