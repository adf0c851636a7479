"""Tell a container from raw PCM by the first bytes of a stream."""

from __future__ import annotations

ENOUGH = 12

# MPEG-1 layer III bit rates in kbit/s and sample rates in Hz, by their index in a frame header
# (ISO 11172-3, 2.4.2.3); lower sample rates halve the rates (ISO 13818-3).
_KBITS_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = (44_100, 48_000, 32_000)


def is_container(head: bytes) -> bool | None:
    """Whether a stream that begins with ``head`` is a container; None: more bytes are needed.

    WebM, Ogg, FLAC, WAV, MP4 and tagged MP3 say so in their first bytes. An untagged MP3 begins
    with a frame header, which PCM can resemble by chance, so the next one must be in its place.
    """
    if len(head) < ENOUGH:
        return None
    if head.startswith((b"\x1a\x45\xdf\xa3", b"OggS", b"fLaC", b"ID3")):
        return True
    if head[4:8] == b"ftyp" or (head.startswith(b"RIFF") and head[8:12] == b"WAVE"):
        return True
    size = _mp3_frame(head)
    if size is None:
        return False
    return None if len(head) < size + 4 else _mp3_frame(head[size:]) is not None


def _mp3_frame(head: bytes) -> int | None:
    """The length in bytes of the layer III frame that ``head`` begins with."""
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    kbits, rate = head[2] >> 4, head[2] >> 2 & 3
    if head[0] != 0xFF or head[1] >> 5 != 7 or version == 1 or layer != 1:
        return None
    if not 0 < kbits < 15 or rate == 3:
        return None
    table, blocks, divisor = (_KBITS_1, 144, 1) if version == 3 else (_KBITS_2, 72, 2)
    divisor = 4 if version == 0 else divisor
    padding = head[2] >> 1 & 1
    return blocks * table[kbits - 1] * 1000 // (_RATES[rate] // divisor) + padding
