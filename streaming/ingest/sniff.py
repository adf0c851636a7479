"""Which container a stream is, told from its first bytes, and whether it arrived whole.

The demuxer is chosen here and not by libav's own probing: that would also try playlists and other
formats that open further files, takes any noise for MP3, and waits for more bytes than it needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .formats import BadAudio

HEAD = 16
TAIL = 1 << 16
# Sizes from here on, and 0, stand in WAV headers written before the length was known.
_WAV_UNKNOWN = 0x7FFF_0000
_MP4_BOXES = b"ftyp|styp|moov|mdat|wide|free|skip|pnot"


def _ogg_cut(_head: bytes, tail: bytes, _total: int) -> bool:
    """Whether the last page misses a part: 27 bytes, a table of lengths, and their sum."""
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    return len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def _wav_cut(head: bytes, _tail: bytes, total: int) -> bool:
    """Whether bytes are missing. Some writers wrongly count the 8 of the RIFF header as well."""
    size = int.from_bytes(head[4:8], "little")
    return 0 < size < _WAV_UNKNOWN and total < size


@dataclass(frozen=True, slots=True)
class Container:
    """One container: its first bytes, libav's name for its demuxer, how to see that it was cut.

    ``states_length``: its header tells a length that the last packet must reach. ``cut`` judges
    the first 16 bytes, the last 64 KiB and the number of all bytes.
    """

    name: str
    demuxer: str
    start: re.Pattern[bytes]
    states_length: bool = False
    cut: Callable[[bytes, bytes, int], bool] | None = None


CONTAINERS = (
    Container("WebM", "matroska", re.compile(rb"\x1aE\xdf\xa3"), states_length=True),
    Container("Ogg", "ogg", re.compile(rb"OggS"), cut=_ogg_cut),
    Container("MP4", "mov", re.compile(rb"(?s:....)(?:" + _MP4_BOXES + rb")")),
    Container("FLAC", "flac", re.compile(rb"fLaC"), states_length=True),
    Container("WAV", "wav", re.compile(rb"(?s:RIFF....|RF64....)WAVE"), cut=_wav_cut),
    Container("AAC", "aac", re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")),
    Container("MP3", "mp3", re.compile(rb"ID3|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd][^\xf0-\xff]")),
)


def sniff(head: bytes) -> Container:
    """The container that begins with these 16 bytes; raises BadAudio when it is none of them."""
    for container in CONTAINERS:
        if container.start.match(head):
            return container
    known = ", ".join(container.name for container in CONTAINERS)
    begin = f"it begins with {head[:8].hex(' ')}" if head else "it is empty"
    raise BadAudio(f"the audio is none of {known}: {begin}")


def mp4_index_is_last(head: bytes) -> bool | None:
    """Whether an MP4's sound comes before its index; None while ``head`` is too short to tell."""
    at = 0
    while len(head) >= at + 8:
        size, box = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        if box in (b"mdat", b"moov", b"moof"):
            return box == b"mdat"
        at += max(size, 8)
    return None
