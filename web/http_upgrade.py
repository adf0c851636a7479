"""HTTP/1.1 that recognises a WebSocket handshake with more than one Connection header.

Some clients and proxies send ``Connection: Upgrade`` and ``Connection: keep-alive`` as two lines,
which mean the same as one (RFC 9110, 5.3); uvicorn looks at the last.
"""

from __future__ import annotations

from uvicorn.protocols.http.h11_impl import H11Protocol


class UpgradingHttp(H11Protocol):
    """uvicorn's protocol, for all Connection headers together."""

    def _get_upgrade(self) -> bytes | None:
        fields = [(name, value.lower()) for name, value in self.headers]
        tokens = b",".join(value for name, value in fields if name == b"connection").split(b",")
        if b"upgrade" not in [token.strip() for token in tokens]:
            return None
        return next((value for name, value in reversed(fields) if name == b"upgrade"), None)
