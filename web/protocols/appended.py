"""Audio that comes as base64 in a JSON message, as on ``/v1/realtime``."""

from __future__ import annotations

from .contract import Audio
from .fields import Json, encoded

# An append may carry 15 MiB of audio, which is a third more in base64.
MAX_APPEND = 21 * 1024 * 1024
_PIECE = 1 << 20


def appended(message: Json) -> list[Audio]:
    """The field ``audio`` in pieces of at most 1 MiB; raises ValueError in words."""
    data = encoded(message, "audio")
    return [Audio(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE)]
