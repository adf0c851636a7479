"""A speaker encoder's ONNX file without weights: the mean size of each filter bank.

Its bytes are protocol buffers as onnx.proto3 names them, so that no library is needed to write one.
"""

from __future__ import annotations

_FLOAT = 1


def write_encoder(bands: int = 80, **metadata: str) -> bytes:
    """One input [N, T, bands], one output [N, bands]: ReduceMean over T of its absolute values."""
    absolute = _node("Abs", "x", "size")
    mean = _node("ReduceMean", "size", "y", axes=[1], keepdims=0)
    graph = (
        _message(1, absolute)
        + _message(1, mean)
        + _text(2, "encoder")
        + _message(11, _tensor("x", ["N", "T", bands]))
        + _message(12, _tensor("y", ["N", bands]))
    )
    properties = (_text(1, key) + _text(2, value) for key, value in metadata.items())
    said = b"".join(_message(14, one) for one in properties)
    return _number(1, 8) + _message(7, graph) + _message(8, _number(2, 13)) + said


def _node(kind: str, given: str, made: str, axes: list[int] | None = None, keepdims: int = 1):
    node = _text(1, given) + _text(2, made) + _text(4, kind)
    if axes is None:
        return node
    listed = b"".join(_number(8, axis) for axis in axes)
    node += _message(5, _text(1, "axes") + listed + _number(20, 7))
    return node + _message(5, _text(1, "keepdims") + _number(3, keepdims) + _number(20, 2))


def _tensor(name: str, shape: list[str | int]) -> bytes:
    sizes = (_text(2, one) if isinstance(one, str) else _number(1, one) for one in shape)
    dimensions = b"".join(_message(1, one) for one in sizes)
    kind = _message(1, _number(1, _FLOAT) + _message(2, dimensions))
    return _text(1, name) + _message(2, kind)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
