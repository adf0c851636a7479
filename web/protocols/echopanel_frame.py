"""EchoPanel's binary frames: "EP", a version, a source, in version 2 a mode, then s16le at 16 kHz.

A frame without a known header is raw audio of the system, header-like bytes and all.
"""

from __future__ import annotations

SOURCES = ("system", "mic")
_MAGIC = b"EP"
_MODES = 3  # who transcribes: the server, the device or both
_SAMPLE = 2


def split(frame: bytes) -> tuple[str, bytes]:
    """A frame as (source, whole samples): half a sample would shift all that follow."""
    size = _header(frame)
    source = SOURCES[frame[3]] if size else SOURCES[0]
    return source, frame[size : len(frame) - (len(frame) - size) % _SAMPLE]


def _header(frame: bytes) -> int:
    """The length of the header; 0 for none."""
    if len(frame) < 4 or not frame.startswith(_MAGIC) or frame[3] >= len(SOURCES):
        return 0
    match frame[2]:
        case 1:
            return 4
        case 2 if len(frame) >= 5 and frame[4] < _MODES:
            return 5
        case _:
            return 0
