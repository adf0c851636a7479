"""Reading Wyoming's events, with every length checked before anything of that length is read.

An event is a line of JSON, then as many bytes of JSON and of payload as it says.
"""

from __future__ import annotations

import asyncio
from typing import Any

from wyoming.event import Event

from ..protocols.contract import MAX_BINARY, ProtocolError
from ..protocols.fields import Json, parse, parse_object, whole

MAX_LINE = 64 * 1024
MAX_DATA = 1024 * 1024


async def read_event(reader: asyncio.StreamReader) -> Event | None:
    """The next event, or None when the peer is done. The reader's limit bounds the line.

    Raises ProtocolError, and IncompleteReadError when the peer goes in the middle of an event.
    """
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError as error:
        raise ProtocolError("too_big", f"a header may have {MAX_LINE} bytes") from error
    except asyncio.IncompleteReadError:
        return None
    try:
        kind, header = parse(line.decode())
        sizes = [_size(header, name, most) for name, most in _LENGTHS]
        data_size, payload_size = sizes
        data = dict(_object(header.get("data")))
        if data_size:
            data.update(parse_object(await reader.readexactly(data_size)))
    except ValueError as error:
        raise ProtocolError("bad_message", str(error)) from error
    payload = await reader.readexactly(payload_size) if payload_size else None
    return Event(kind, data, payload)


_LENGTHS = (("data_length", MAX_DATA), ("payload_length", MAX_BINARY))


def _size(header: Json, name: str, most: int) -> int:
    size = whole(header, name, 0, 2**63, 0)
    if size > most:
        raise ProtocolError("too_big", f'"{name}" may be {most} at most, not {size}')
    return size


def _object(data: object) -> dict[str, Any]:
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError('"data" must be an object')
    return data
