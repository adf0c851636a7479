"""Bytes in, 16 kHz mono float32 out: raw PCM in a declared format, or a container."""

from .formats import CONTAINER, ENCODINGS, AudioFormat, BadAudio
from .live import Ingest, open_ingest
from .media import measure, read_file

__all__ = [
    "CONTAINER",
    "ENCODINGS",
    "AudioFormat",
    "BadAudio",
    "Ingest",
    "measure",
    "open_ingest",
    "read_file",
]
