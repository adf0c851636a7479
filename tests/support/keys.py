"""Keys for tests, one for each scope, and how they are presented."""

from __future__ import annotations

import pytest
from support.asgi import Running

from voxlive.web.access.keys import SCOPES, Key, digest
from voxlive.web.protocols import PROTOCOLS

KEYS = {scope: f"the-key-for-{scope}-alone" for scope in SCOPES}
LIVE = KEYS["live"]
KEYED = [Key(f"for {s}", digest(secret), frozenset({s})) for s, secret in KEYS.items()]
URLS = {
    "/v1/listen": "/v1/listen?encoding=linear16&sample_rate=16000",
    "/v2/listen": "/v2/listen?encoding=linear16&sample_rate=16000",
    "/v1/audio/transcriptions/realtime": "/v1/audio/transcriptions/realtime?model=any",
}
every_protocol = pytest.mark.parametrize("path", PROTOCOLS)


def bearer(secret: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"} if secret else {}


def url(path: str, **query: str) -> str:
    base = URLS.get(path, path)
    for name, value in query.items():
        base += f"{'&' if '?' in base else '?'}{name}={value}"
    return base


async def let_in(server: Running, path: str, query: dict | None = None, **options) -> bool:
    async with server.dial(url(path, **(query or {})), **options) as talk:
        assert talk.subprotocol not in KEYS.values()
        return talk.status is None and talk.code is None
