"""A file as the stretches of it in which somebody speaks: decoded, listened to and cut on the way.

No more of the file is in memory than a stretch, however long it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..streaming.ingest import ENCODINGS, BadAudio, measure, read_file
from ..streaming.ingest.pcm import PcmDecoder
from ..vad.gate import WINDOW
from ..vad.silero import CONTEXT, STATE, Silero
from .contract import Job, Refusal
from .cutting import CutOptions, Cutter, Stretch

if TYPE_CHECKING:
    from pathlib import Path

    from ..streaming.engine import Samples
    from ..streaming.ingest import AudioFormat

log = logging.getLogger(__name__)

_PIECE = 1 << 16


def measure_job(job: Job) -> float:
    """Seconds of audio in the job's file, whatever it says of itself, before any is listened to.

    Raises Refusal for audio that is damaged, longer than allowed, or no audio.
    """
    try:
        if job.raw:
            frame = ENCODINGS[job.raw.encoding].dtype.itemsize * job.raw.channels
            total_s = job.path.stat().st_size // frame / job.raw.rate
        else:
            total_s = measure(job.path, job.longest_s)
    except BadAudio as error:
        raise Refusal(400, error.code, str(error), "file") from error
    if job.longest_s is not None and total_s > job.longest_s:
        raise Refusal(
            413,
            "audio_too_long",
            f"the audio is longer than the {job.longest_s:g} s that are allowed: send it in parts",
            "file",
        )
    return round(total_s, 3)


def stretches(
    job: Job, silero: Silero, options: CutOptions, cancelled: Callable[[], bool]
) -> Iterator[Stretch]:
    """Decode a file that was measured, listen and cut. Ends early once ``cancelled()``."""
    listener, cutter = _Listener(silero), Cutter(options)
    rest = np.zeros(0, np.float32)
    for block in _raw(job.path, job.raw) if job.raw else read_file(job.path):
        if cancelled():
            return
        audio = np.concatenate([rest, block])
        complete = len(audio) // WINDOW * WINDOW
        windows, rest = audio[:complete], audio[complete:]
        yield from cutter.push(windows, listener.listen(windows))
    yield from cutter.finish(rest)


def _raw(path: Path, audio: AudioFormat) -> Iterator[Samples]:
    decoder = PcmDecoder(audio)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield decoder.push(memoryview(piece))
    if decoder.pending:
        log.warning("%d bytes at the end are no whole frame of %s", decoder.pending, audio)
    yield decoder.finish()


class _Listener:
    """The voice detector on one stream."""

    def __init__(self, silero: Silero) -> None:
        self._silero = silero
        self._state = np.zeros((2, 1, STATE), np.float32)
        self._context = np.zeros(CONTEXT, np.float32)

    def listen(self, samples: Samples) -> Iterator[float]:
        """The probability of speech in every window of ``samples``."""
        for window in samples.reshape(-1, WINDOW):
            frame = np.concatenate([self._context, window])[None]
            probability, self._state = self._silero.step(frame, self._state)
            self._context = window[-CONTEXT:]
            yield float(probability[0])
