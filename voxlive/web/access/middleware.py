"""Authentication of HTTP requests and WebSocket handshakes: origin, key, scope and limits.

``_RULES`` says for every path of the HTTP API which scope opens it. A path without a rule needs a
key, so that a new one is never open by accident. Where clients put keys besides the usual places is
a matter of their wire format. A request's grant is kept in its ASGI scope. ``AuditLog`` records who
used what others may have to answer for.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxlive.errors import CodedError, RequestRefused, VoxliveError
from voxlive.processes.logs import current_log_context
from voxlive.web.access.access import Access, Grant, TooManyWrongKeys
from voxlive.web.access.keys import find_credentials
from voxlive.web.access.sites import Sites
from voxlive.web.config import ConfigError
from voxlive.web.errors import deepgram_error, mistral_error, openai_error

log = logging.getLogger(__name__)

_GRANT = "voxlive.grant"  # in the ASGI scope
_DELAY_S, _MAX_DELAYED = 1.0, 256
_MAX_PATH = 200  # characters of one that is recorded


@dataclass(frozen=True, slots=True)
class RouteRule:
    """What it takes to use a path. ``scope``: that of the key, None for any key.

    ``open``: no key is needed. ``counted``: a request is one of the key's sessions while it lasts.
    ``audited``: the audit log has its refusals; its endpoints record the rest.
    ``params``: where clients put a key in the query. ``error_response``: an error as the path's
    clients read it.
    """

    scope: str | None = None
    open: bool = False
    counted: bool = False
    audited: bool = False
    params: tuple[str, ...] = ()
    error_response: Callable[[VoxliveError], Response] = openai_error


_OPEN = RouteRule(open=True)
_CAPTIONS = RouteRule("captions", params=("token",))
# A path is under the longest of these that it begins with.
_RULES = {
    "/": _OPEN,
    "/static": _OPEN,
    "/health": _OPEN,  # most of its fields are for clients with a key
    "/v1/models": RouteRule(),
    "/v1/admin": RouteRule("admin"),
    "/v1/audio": RouteRule("files", counted=True),
    "/v1/chat/completions": RouteRule("files", counted=True),
    "/v1/listen": RouteRule("files", counted=True, error_response=deepgram_error),
    "/v1/realtime/client_secrets": RouteRule("live"),
    "/v1/auth/grant": RouteRule("live", error_response=deepgram_error),
    "/v1/client/sessions": RouteRule("live", error_response=mistral_error),
    "/v1/sessions": RouteRule("history", audited=True),
    "/v1/voice-profiles": RouteRule("history", audited=True),
    "/captions": _CAPTIONS,
    "/overlay": _OPEN,  # its page shows nothing without a key or a link
    "/read": _OPEN,  # for those who have a link, which is checked there
    "/v1/shares": RouteRule("live", audited=True),
    "/metrics": RouteRule("metrics"),
}
_DEFAULT = ("elsewhere", RouteRule())


def find_rule(path: str) -> tuple[str, RouteRule]:
    """The path that a rule is for, as logs and counters have it, and the rule that applies."""
    under = [p for p in _RULES if path == p or (p != "/" and path.startswith(f"{p}/"))]
    return max(((p, _RULES[p]) for p in under), key=lambda rule: len(rule[0]), default=_DEFAULT)


class AuditFailed(CodedError):
    """The audit log cannot be written."""

    code = "audit_failed"


class AuditLog:
    """Who read, changed or deleted which stored sessions, and who was refused: JSON lines.

    The file is made for its owner alone (0600), and opened for each line: it may be renamed at any
    time. It holds nothing of what was said: no words, no titles and no searches. Without a path
    nothing is recorded. Raises ConfigError for a file that cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path and path.expanduser()
        self._torn = False
        try:
            self._append(b"")
        except OSError as error:
            message = f"audit_log: cannot write {path}: {error.strerror}"
            raise ConfigError(message, "audit_log") from None

    @asynccontextmanager
    async def recorded(
        self,
        request: Request,
        action: str,
        session: str | None = None,
        *,
        begun: bool = False,
        **about: object,
    ) -> AsyncIterator[dict[str, object]]:
        """Record how this ends; with ``begun`` also that it begins: else it does not.

        More may be added to what it yields. Raises AuditFailed.
        """
        record = {"session": session, **about} if session else about
        who, result = require_grant(request).name, "internal"
        if begun:
            await self.write(request, who, action, "begun", record)
        try:
            yield record
            result = "ok"
        except VoxliveError as error:
            result = error.code
            raise
        finally:
            await self.write(request, who, action, result, record)

    async def write(
        self,
        connection: HTTPConnection,
        who: str,
        action: str,
        result: str,
        about: Mapping[str, object],
    ) -> None:
        """Add a line. ``who``: the key's name. Raises AuditFailed."""
        if self._path is None:
            return
        record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "who": who,
            "from": client_address(connection),
            "request": current_log_context().get("request"),
            "action": action,
            **about,
            "result": result,
        }
        try:
            await asyncio.to_thread(self._append, f"{json.dumps(record)}\n".encode())
        except OSError as error:
            log.error("the audit log %s cannot be written: %s", self._path, error.strerror)
            message = "the server cannot write its audit log, without which it does not do this"
            raise AuditFailed(message) from error

    def _append(self, line: bytes) -> None:
        if self._path is None:
            return
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            # Behind a line that the disk had room for in part only, this one is whole.
            line = b"\n" * self._torn + line
            written = os.write(file, line)
            self._torn = 0 < written < len(line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)


class Authenticator:
    """Checks the sites and counts the refusals of a server's HTTP and WebSocket clients."""

    def __init__(
        self, access: Access, sites: Sites | None = None, audit: AuditLog | None = None
    ) -> None:
        self.access = access
        self.audit = audit or AuditLog()
        self._sites = sites or Sites()
        self._delayed = 0

    def check_site(self, scope: Scope) -> None:
        """Raises RequestRefused for a Host that is not served and for a page of another site."""
        host, page = self._sites.host_refusal(scope), self._sites.page_refusal(scope)
        if host or page:
            header = Headers(scope=scope).get("host" if host else "origin", "")
            log.warning("refused %.100r: %s", header, host or page)
        if host:
            raise RequestRefused("unknown_host", host)
        if page:
            raise RequestRefused("foreign_origin", page)

    async def on_refusal(self, refusal: RequestRefused, place: str) -> None:
        """Log and count a refusal. For too many wrong keys it returns after a delay.

        At most ``_MAX_DELAYED`` are delayed at a time.
        """
        log.info("refused at %s: %s", place, refusal.code)
        self.access.count_error(refusal.code, place)
        if isinstance(refusal, TooManyWrongKeys) and self._delayed < _MAX_DELAYED:
            self._delayed += 1
            try:
                await asyncio.sleep(_DELAY_S)
            finally:
                self._delayed -= 1


class AuthMiddleware:
    """ASGI middleware: authenticates every HTTP request, and bounds its body."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its grant, or answer with the refusal."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        place, rule = find_rule(scope["path"].removeprefix(scope.get("root_path", "")))
        try:
            return await self._authorize(Request(scope), receive, send, rule)
        except RequestRefused as refusal:
            await self._authenticator.on_refusal(refusal, place)
            response = rule.error_response(refusal)
        return await response(scope, receive, send)

    async def _authorize(
        self, request: Request, receive: Receive, send: Send, rule: RouteRule
    ) -> None:
        self._authenticator.check_site(request.scope)
        access = self._authenticator.access
        secret = find_credentials(
            request.headers, (), request.query_params, key_params=rule.params
        ).secret
        try:
            grant = (
                access.identify(secret)
                if rule.open
                else await access.admit(secret, rule.scope, client_address(request))
            )
        except RequestRefused as refusal:
            known = access.identify(secret)
            if known and rule.audited:
                # Strangers are not recorded: they could fill the disk.
                about = {"path": request.url.path[:_MAX_PATH]}
                audit = self._authenticator.audit
                await audit.write(request, known.name, request.method, refusal.code, about)
            raise
        scope = {**request.scope, _GRANT: grant}
        with ExitStack() as resources:
            if grant and rule.counted:
                await access.take_session(grant, resources)
            limit = grant.limits.upload_bytes if grant else 0
            await self._app(scope, _limit_body(request.headers, receive, limit), send)


def client_address(connection: HTTPConnection) -> str:
    """The client's address: its connection's, or what a trusted proxy has forwarded; else ""."""
    return connection.client.host if connection.client else ""


def require_grant(connection: HTTPConnection) -> Grant:
    """The grant of a request, on a path that needs a key."""
    grant = optional_grant(connection)
    assert grant is not None, "this path is open"
    return grant


def optional_grant(connection: HTTPConnection) -> Grant | None:
    """The grant of a request on an open path; None for a client without a key."""
    grant: Grant | None = connection.scope[_GRANT]
    return grant


def _limit_body(headers: Headers, receive: Receive, limit: float) -> Receive:
    """Receive a body of at most ``limit`` bytes; raises RequestRefused as soon as it is longer."""
    refusal = RequestRefused(
        "too_big",
        f"an upload may have {limit / 1_000_000:g} MB; send a shorter or a compressed file",
        "file",
    )
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise refusal
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise refusal
        return message

    return receive_limited
