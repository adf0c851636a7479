"""What every wire format reads and writes alike: JSON messages, their fields, the start of audio.

Each ``parse_…`` and each reader of a field raises ValueError, whose text is for the client. JSON
is written without spaces and without escapes for characters beyond ASCII.
"""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Collection, Mapping
from typing import TypeVar

from voxlive.checkpoints.languages import language_of
from voxlive.speakers.labels import MAX_NAME_CHARS, MAX_SPEAKERS
from voxlive.streaming.ingest.frames import mp3_header

Json = Mapping[str, object]
_T = TypeVar("_T")
_NOT_TEXT = ("Cc", "Cs", "Zl", "Zp")  # controls, halves of characters, line separators
_MAX_MESSAGE = 64_000  # bytes, of a message in a binary frame beside binary audio
MIN_HEAD = 12
"""How many bytes of a stream ``is_container`` needs at least."""

encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode_message(kind: str, **fields: object) -> str:
    """A message of this ``type`` as JSON."""
    return encode_json({"type": kind, **fields})


def may_be_json(frame: str | bytes) -> bool:
    """Whether a frame can be a message: text, or a binary frame that begins like a JSON object."""
    return isinstance(frame, str) or frame.lstrip().startswith(b"{")


def is_json(frame: str | bytes) -> bool:
    """Whether a frame is a message: text is, and so is a binary frame that holds a JSON object.

    Some WebSocket libraries send bytes, or even all messages, in binary frames.
    """
    if isinstance(frame, str):
        return True
    if len(frame) > _MAX_MESSAGE or not may_be_json(frame):
        return False
    try:
        parse_object(frame)
    except ValueError:
        return False
    return True


def parse_message(frame: str | bytes) -> tuple[str, Json]:
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


def check_fields(fields: Json, known: Collection[str], where: str) -> None:
    """Raise for a field that is not known: most are misspelt."""
    for name in fields:
        if name not in known:
            raise ValueError(f"{quoted(name)} is not a field of {where}: {', '.join(known)}")


def integer(fields: Json, name: str, low: int, high: int, default: _T) -> int | _T:
    """A whole number from ``low`` to ``high``; null or nothing is the default."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(
            f'"{name}" must be a whole number from {low} to {high}, not {quoted(value)}'
        )
    return value


def number(fields: Json, name: str, low: float, high: float, default: _T) -> float | _T:
    """A number from ``low`` to ``high``; null or nothing is the default."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f'"{name}" must be a number from {low:g} to {high:g}, not {quoted(value)}')
    return value


def flag(fields: Json, name: str, default: bool) -> bool:
    """True or false."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ValueError(f'"{name}" must be true or false, not {quoted(value)}')
    return value


def string(fields: Json, name: str, longest: int) -> str | None:
    """A string of 1 to ``longest`` characters that UTF-8 can carry; null or nothing is None."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= longest or not _encodable(value):
        raise ValueError(f'"{name}" must be a string of 1 to {longest} characters')
    return value


def line(fields: Json, name: str, longest: int) -> str:
    """One line of text of at most ``longest`` characters, without space around it; null is ""."""
    value = "" if fields[name] is None else fields[name]
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError(f'"{name}" must be a string of up to {longest} characters')
    if any(unicodedata.category(char) in _NOT_TEXT for char in value):
        raise ValueError(f'"{name}" must be one line, without control characters')
    return value.strip()


def speaker_named(fields: Json) -> tuple[int, str, str]:
    """A speaker's number, the name that it gets, "" for none, and its source. Raises ValueError."""
    check_fields(fields, ("type", "speaker", "name", "source"), "the name of a speaker")
    speaker = integer(fields, "speaker", 0, MAX_SPEAKERS - 1, None)
    if speaker is None or "name" not in fields:
        raise ValueError('a speaker has a number, "speaker", and "name"')
    source = line(fields, "source", MAX_NAME_CHARS) if fields.get("source") else ""
    return speaker, line(fields, "name", MAX_NAME_CHARS), source


def language(fields: Json, name: str = "language") -> str | None:
    """The code of a language; what the client leaves open is None."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f'"{name}" must be a string, not {quoted(value)}')
    return language_of(value)


def decode_base64(fields: Json, name: str) -> bytes:
    """The bytes of a base64 string."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise ValueError(f'"{name}" must be a string of base64')
    try:
        # Encoders may break lines: RFC 2045's do after 76 characters, and Android's by default.
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError as error:
        raise ValueError(f'"{name}" is not base64') from error


def quoted(value: object) -> str:
    """A client's value as JSON of at most 40 characters, for a message to it."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _encodable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def is_container(head: bytes) -> bool | None:
    """Whether a stream that begins with ``head`` is a container; None: more bytes are needed.

    WebM, Ogg, FLAC, WAV, MP4 and tagged MP3 say so in their first bytes. An untagged MP3 begins
    with a frame header, which PCM can resemble by chance, so the next one must be in its place.
    """
    if len(head) < MIN_HEAD:
        return None
    if head.startswith((b"\x1a\x45\xdf\xa3", b"OggS", b"fLaC", b"ID3")):
        return True
    if head[4:8] == b"ftyp" or (head.startswith(b"RIFF") and head[8:12] == b"WAVE"):
        return True
    size = _mp3_frame_length(head)
    if size is None:
        return False
    return None if len(head) < size + 4 else _mp3_frame_length(head[size:]) is not None


def _mp3_frame_length(head: bytes) -> int | None:
    """The length in bytes of the layer III frame that ``head`` begins with."""
    if head[1] >> 1 & 3 != 1:
        return None
    # The fourth byte has no part in the length, and may not be there yet.
    header = mp3_header(head[:3] + b"\0")
    return header.length if header else None
