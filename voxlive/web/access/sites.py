"""Which host names a server answers to, and the pages of which web sites may use it (CORS).

A browser sends where a page comes from (Origin) and which server it addresses (Host). A page of
another site is refused unless its origin is allowed. Without keys Host has to be a name of this
server as well: otherwise a site could give its own name this server's address (DNS rebinding) and
pass for a page of this server.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Scope

ANY = "*"

_PORTS = {"http": 80, "https": 443}
_SECURE = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS")
_OTHER_SITE = "pages of other sites may not use this server; see --allow-origin"
_PREFLIGHT_S = 7200  # browsers take no longer one
_EXPOSED = (
    "X-Request-Id",
    "Content-Disposition",
    "X-Voxlive-Warnings",
    "Retry-After",
    "WWW-Authenticate",
    "dg-request-id",
    "dg-error",
)


@dataclass(frozen=True, slots=True)
class Origin:
    """A web origin (RFC 6454): scheme, host and port; pages of equal origins are of one site."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """From an Origin header or an option; None for "null" and for what is no origin."""
        try:
            parts = urlsplit(text.strip().lower())
            host, port = parts.hostname, parts.port
        except ValueError:
            return None
        if not host or not parts.scheme or parts.path.strip("/") or parts.query or parts.username:
            return None
        return cls(parts.scheme, host.rstrip("."), port or _PORTS.get(parts.scheme))

    def __str__(self) -> str:
        """As browsers write it: without the port that its scheme has anyway."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port in (None, _PORTS.get(self.scheme)) else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def server_origin(scope: Scope) -> Origin | None:
    """The origin that the client of an HTTP or WebSocket scope addresses, by its Host header."""
    scheme = _SECURE.get(scope.get("scheme", "http"), "http")
    return Origin.parse(f"{scheme}://{Headers(scope=scope).get('host', '')}")


class Sites:
    """``allow_origins``: other sites whose pages may use the server, as origins; ``*`` for all.

    ``hosts``: None where any Host is served (with keys), else the names besides localhost,
    loopback addresses and the address that a connection came in on; ``*`` for all.
    """

    def __init__(
        self, allow_origins: Iterable[str] = (), hosts: Iterable[str] | None = None
    ) -> None:
        given = frozenset(allow_origins)
        self.any_origin = ANY in given
        self.origins = frozenset(filter(None, map(Origin.parse, given - {ANY})))
        names = None if hosts is None else frozenset(name.lower().rstrip(".") for name in hosts)
        self._hosts = None if names is None or ANY in names else names

    def page_refusal(self, scope: Scope) -> str | None:
        """Why a page may not use this server; None if it may, or if the client is no page."""
        header = Headers(scope=scope).get("origin")
        if header is None or self.any_origin:
            return None
        origin, server = Origin.parse(header), server_origin(scope)
        if origin is not None and (origin in self.origins or origin == server):
            return None
        if origin is None or server is None or origin.host != server.host:
            return _OTHER_SITE
        if (origin.scheme, server.scheme) == ("https", "http"):
            return (
                "a page that came over https may not use a server that is asked over http: let "
                "the proxy between them send X-Forwarded-Proto (see --forwarded-allow-ips), or "
                "name the page's site with --allow-origin"
            )
        return _OTHER_SITE

    def host_refusal(self, scope: Scope) -> str | None:
        """Why requests to this Host are not served; None if they are, or if there is no Host.

        Only a program leaves Host out: HTTP/1.1 and every browser have it.
        """
        if self._hosts is None or not Headers(scope=scope).get("host"):
            return None
        server = server_origin(scope)
        if server and (server.host in self._hosts or self._is_this_machine(server.host, scope)):
            return None
        return (
            "without keys this server answers to localhost and to its own addresses only; "
            "serve it under this name with --allow-host, or use keys"
        )

    @staticmethod
    def _is_this_machine(host: str, scope: Scope) -> bool:
        """localhost, a loopback address, or the address that the connection came in on."""
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            address = _address(host)
            local = _address((scope.get("server") or ("",))[0])
        except ValueError:
            return False
        # No site can give its name an address: beyond this machine every address is a real one.
        return address.is_loopback or (address == local) or not local.is_loopback


def host_names(host: str) -> frozenset[str]:
    """The names by which a server that listens on ``host`` is addressed, besides its addresses."""
    hostname = socket.gethostname().rstrip(".").lower()
    names = {host.lower(), hostname}
    if "." not in hostname:
        names.add(f"{hostname}.local")  # multicast DNS
    return frozenset(name for name in names if name and name != ANY)


def with_cors(app: ASGIApp, sites: Sites) -> ASGIApp:
    """The application with CORS headers for the allowed sites, on refusals and errors too.

    It is the outermost middleware: a preflight carries no key, and a failure needs the headers too.
    """
    if not (sites.any_origin or sites.origins):
        return app
    return CORSMiddleware(
        app,
        allow_origins=[ANY] if sites.any_origin else [str(origin) for origin in sites.origins],
        allow_methods=_METHODS,
        allow_headers=[ANY],
        expose_headers=_EXPOSED,
        allow_private_network=True,
        max_age=_PREFLIGHT_S,
    )


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Raises ValueError for what is no address. An IPv4 address mapped to IPv6 is IPv4."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
