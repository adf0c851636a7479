"""Bytes in, 16 kHz mono float32 out: raw PCM in a declared format, or a container."""

from .formats import CONTAINER, ENCODINGS, AudioFormat, AudioWarning, BadAudio, Report
from .live import Ingest, open_ingest
from .media import Measured, measure, read_file

__all__ = [
    "CONTAINER",
    "ENCODINGS",
    "AudioFormat",
    "AudioWarning",
    "BadAudio",
    "Ingest",
    "Measured",
    "Report",
    "measure",
    "open_ingest",
    "read_file",
]
