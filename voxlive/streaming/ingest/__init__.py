"""Bytes in, 16 kHz mono float32 out: raw PCM in a declared format, or a container."""

from voxlive.errors import BadAudio
from voxlive.streaming.ingest.formats import CONTAINER, ENCODINGS, AudioFormat, AudioWarning, Report
from voxlive.streaming.ingest.live import Ingest, open_ingest
from voxlive.streaming.ingest.media import Measured, measure, read_file

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
