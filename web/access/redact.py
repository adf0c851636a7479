"""Keys out of what libraries log: at level debug uvicorn says whole addresses and headers."""

from __future__ import annotations

import logging
import re

_PARAMETER = re.compile(r"([?&](?:token|api_key|key)=)[^&\s\"']+")
_HEADER = re.compile(
    r"((?:authorization|x-api-key|x-echopanel-token|sec-websocket-protocol|cookie)\W+).*",
    re.IGNORECASE | re.DOTALL,
)
_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "websockets")


class Redact(logging.Filter):
    """Blanks what stands where a key may stand, in addresses and in headers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record stays, with its message made safe."""
        said = record.getMessage()
        safe = _HEADER.sub(r"\1…", _PARAMETER.sub(r"\1…", said))
        if safe != said:
            record.msg, record.args = safe, ()
        return True


def redact_logs() -> None:
    """Nothing that a server's libraries log holds a key from now on."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(Redact())
