"""The formats of audio: the registry of PCM encodings, a client's declared format, and warnings.

Rates are in Hz; samples are float32 with full scale 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxlive.errors import BadAudio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxlive.values import Samples

CONTAINER = "container"
MIN_RATE, MAX_RATE = 8_000, 96_000
MAX_CHANNELS = 8


@dataclass(frozen=True, slots=True)
class AudioWarning:
    """What of the audio was lost or left out. ``code`` is stable, ``message`` for people.

    ``cut_off``: its end is missing. ``damaged``: parts were left out. ``trailing_data``: what
    follows it is no audio. ``timeline_jump``: its time stamps leap too far for silence.
    """

    code: str
    message: str


class Report:
    """Collects the warnings about one stream while it is decoded; of each code the first."""

    def __init__(self) -> None:
        self._found: dict[str, AudioWarning] = {}

    def add(self, code: str, message: str) -> None:
        """Add a warning."""
        self._found.setdefault(code, AudioWarning(code, message))

    @property
    def warnings(self) -> tuple[AudioWarning, ...]:
        """All so far."""
        return tuple(self._found.values())


def to_unit(values: NDArray[Any]) -> Samples:
    """Samples of any width as float32 with full scale 1: integers are divided by 2^(bits-1).

    Floats outside [-1, 1] are clipped, as every integer format would; NaN and infinities become 0.
    """
    if values.dtype.kind == "f":
        finite: NDArray[Any] = np.where(np.isfinite(values), values, 0)
        return finite.clip(-1, 1).astype(np.float32, copy=False)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - np.float32(128)) / np.float32(128)
    scale = np.float32(2.0 ** (1 - 8 * values.dtype.itemsize))
    scaled: Samples = np.multiply(values, scale, dtype=np.float32)
    return scaled


def _mulaw_table() -> Samples:
    """The decoder of ITU-T G.711 mu-law for all 256 codes, at 16-bit scale."""
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 132 << ((code >> 4) & 7)) - 132
    return to_unit(np.where(code & 0x80, -magnitude, magnitude).astype(np.int16))


def _alaw_table() -> Samples:
    """The decoder of ITU-T G.711 A-law for all 256 codes, at 16-bit scale."""
    code = np.arange(256) ^ 0x55
    segment, step = (code >> 4) & 7, (code & 0x0F) << 4
    magnitude = np.where(segment, step + 0x108 << np.maximum(segment - 1, 0), step + 8)
    return to_unit(np.where(code & 0x80, magnitude, -magnitude).astype(np.int16))


@dataclass(frozen=True, slots=True)
class Encoding:
    """One PCM encoding: the type of a sample, and the decoding table of a companded one."""

    dtype: np.dtype[Any]
    table: Samples | None = None

    def decode(self, data: bytes | memoryview) -> Samples:
        """Whole samples as float32 [n] with full scale 1."""
        values = np.frombuffer(data, self.dtype)
        return to_unit(values) if self.table is None else self.table[values]


ENCODINGS = {
    "s16le": Encoding(np.dtype("<i2")),
    "s32le": Encoding(np.dtype("<i4")),
    "f16le": Encoding(np.dtype("<f2")),
    "f32le": Encoding(np.dtype("<f4")),
    "u8": Encoding(np.dtype("u1")),
    "mulaw": Encoding(np.dtype("u1"), _mulaw_table()),
    "alaw": Encoding(np.dtype("u1"), _alaw_table()),
}


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How a client's audio arrives; raises BadAudio when that is not supported.

    ``encoding`` is a key of ENCODINGS, or "container" for a stream in one of those of
    ``sniff.CONTAINERS``, which states its own rate and channels.
    """

    encoding: str
    rate: int = 16_000
    channels: int = 1

    def __post_init__(self) -> None:
        if self.encoding == CONTAINER:
            if (self.rate, self.channels) != (16_000, 1):
                raise BadAudio("a container states its own rate and channels: leave them out")
            return
        if self.encoding not in ENCODINGS:
            known = ", ".join((*ENCODINGS, CONTAINER))
            raise BadAudio(f"encoding {self.encoding!r} is not supported: use one of {known}")
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise BadAudio(
                f"a rate of {self.rate} Hz is not supported: use {MIN_RATE} to {MAX_RATE}"
            )
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise BadAudio(f"{self.channels} channels are not supported: use 1 to {MAX_CHANNELS}")
