"""Make media files for tests with PyAV's own encoders."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import soxr
from numpy.typing import NDArray


def encode(
    samples: NDArray[np.float32],
    container: str,
    codec: str,
    rate: int = 48_000,
    layout: str = "mono",
    *,
    seekable: bool = True,
    **options: str,
) -> bytes:
    """Encode float32 mono [n] at 16 kHz; every channel of ``layout`` carries the same.

    ``seekable`` false makes a live stream, whose header cannot know its length.
    """
    if not seekable:
        stream = io.BytesIO()
        _encode(WriteOnly(stream), samples, container, codec, rate, layout, options)
        return stream.getvalue()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "media"
        _encode(str(path), samples, container, codec, rate, layout, options)
        return path.read_bytes()


def _encode(
    sink: str | WriteOnly,
    samples: NDArray[np.float32],
    container: str,
    codec: str,
    rate: int,
    layout: str,
    options: dict[str, str],
) -> None:
    at_rate = soxr.resample(samples, 16_000, rate) if rate != 16_000 else samples
    with av.open(sink, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout, options={"strict": "-2"})
        context = stream.codec_context
        context.open()
        channels = context.layout.nb_channels
        frame = av.AudioFrame.from_ndarray(
            np.tile(at_rate, (channels, 1)).astype(np.float32), "fltp", layout
        )
        frame.rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = 0
        shape = av.AudioResampler(context.format.name, layout, rate, context.frame_size or 1024)
        for piece in (*shape.resample(frame), *shape.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))


class WriteOnly:
    """A file that cannot be sought in, for a muxer."""

    def __init__(self, file: io.BytesIO) -> None:
        self.write = file.write
