"""Typed reading of a JSON message's fields. Every check raises ValueError in words.

How every wire format writes its JSON: without spaces, and in the client's own script.

Tell a container from raw PCM by the first bytes of a stream.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping
from typing import TypeVar

from voxlive.checkpoints.languages import language_of

Json = Mapping[str, object]
_T = TypeVar("_T")
_LONGEST_MESSAGE = 64_000  # of those that come beside binary audio


def is_json(frame: str | bytes) -> bool:
    """Whether a frame is a message: text is, and so is a binary frame that holds a JSON object.

    Some WebSocket libraries send whatever is bytes, or all there is, in binary frames.
    """
    if isinstance(frame, str):
        return True
    if len(frame) > _LONGEST_MESSAGE or not frame.lstrip().startswith(b"{"):
        return False
    try:
        parse_object(frame)
    except ValueError:
        return False
    return True


def parse(frame: str | bytes) -> tuple[str, Json]:
    """A frame as (type, all fields)."""
    message = parse_object(frame)
    kind = message.get("type")
    if not isinstance(kind, str):
        raise ValueError('a message must have a "type", which is a string')
    return kind, message


def parse_object(frame: str | bytes) -> Json:
    """A frame as a JSON object."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise ValueError("a message must be JSON") from error
    if not isinstance(message, dict):
        raise ValueError("a message must be a JSON object")
    return message


def only(fields: Json, known: Collection[str], where: str) -> None:
    """Refuse fields that nobody reads: most are misspelt."""
    for name in fields:
        if name not in known:
            raise ValueError(f"{show(name)} is not a field of {where}: {', '.join(known)}")


def whole(fields: Json, name: str, low: int, high: int, default: _T) -> int | _T:
    """A whole number from ``low`` to ``high``; null or nothing is the default."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f'"{name}" must be a whole number from {low} to {high}, not {show(value)}')
    return value


def number(fields: Json, name: str, low: float, high: float, default: _T) -> float | _T:
    """A number from ``low`` to ``high``; null or nothing is the default."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f'"{name}" must be a number from {low:g} to {high:g}, not {show(value)}')
    return value


def flag(fields: Json, name: str, default: bool) -> bool:
    """True or false."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ValueError(f'"{name}" must be true or false, not {show(value)}')
    return value


def string(fields: Json, name: str, longest: int) -> str | None:
    """A string of 1 to ``longest`` characters that UTF-8 can carry; null or nothing is None."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= longest or not _encodable(value):
        raise ValueError(f'"{name}" must be a string of 1 to {longest} characters')
    return value


def language(fields: Json, name: str = "language") -> str | None:
    """The code of a language; what the client leaves open is None."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f'"{name}" must be a string, not {show(value)}')
    return language_of(value)


def encoded(fields: Json, name: str) -> bytes:
    """The bytes of a base64 string."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise ValueError(f'"{name}" must be a string of base64')
    try:
        # Encoders may break lines: RFC 2045's do after 76 characters, and Android's by default.
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError as error:
        raise ValueError(f'"{name}" is not base64') from error


def show(value: object) -> str:
    """A client's value, short enough and safe to say back to it."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _encodable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


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
