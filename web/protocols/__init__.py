"""Wire formats, one file each: pure translators between frames, actions and events."""

from __future__ import annotations

from .asr import AsrProtocol
from .contract import Protocol
from .live import LiveProtocol

# A new protocol is one file and one line here.
PROTOCOLS: dict[str, type[Protocol]] = {
    "/v1/live": LiveProtocol,
    "/asr": AsrProtocol,
}
