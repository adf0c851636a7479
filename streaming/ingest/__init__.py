"""Bytes in, 16 kHz mono float32 out: raw PCM in a declared format, or a container."""

from .formats import CONTAINER, ENCODINGS, AudioFormat, BadAudio
from .live import Ingest, open_ingest
from .media import read_file

__all__ = [
    "CONTAINER",
    "ENCODINGS",
    "AudioFormat",
    "BadAudio",
    "Ingest",
    "open_ingest",
    "read_file",
]
