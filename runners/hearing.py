"""A file as the stretches of it in which somebody speaks: decoded, listened to and cut on the way.

No more of the file is in memory than a stretch, however long it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..streaming.ingest import ENCODINGS, BadAudio, Measured, measure, read_file
from ..streaming.ingest.pcm import PcmDecoder
from ..vad.gate import WINDOW
from ..vad.silero import CONTEXT, STATE, Silero
from .contract import Job, JobWarning, Refusal
from .cutting import CutOptions, Cutter, Stretch

if TYPE_CHECKING:
    from pathlib import Path

    from ..streaming.engine import Samples
    from ..streaming.ingest import AudioFormat

_PIECE = 1 << 16


def measure_job(job: Job) -> Measured:
    """How much audio is in the job's file, whatever it says of itself, before any is listened to.

    Raises Refusal for audio that is longer than allowed, or of which nothing can be decoded.
    """
    try:
        found = _measure_raw(job.path, job.raw) if job.raw else measure(job.path, job.longest_s)
    except BadAudio as error:
        raise Refusal(400, error.code, str(error), "file") from error
    if job.longest_s is not None and found.seconds > job.longest_s:
        raise Refusal(
            413,
            "audio_too_long",
            f"the audio is longer than the {job.longest_s:g} s that are allowed: send it in parts",
            "file",
        )
    return replace(found, seconds=round(found.seconds, 3))


def job_warnings(found: Measured) -> tuple[JobWarning, ...]:
    """What was wrong with a file, as its transcript tells it."""
    return tuple(JobWarning(one.code, one.message) for one in found.warnings)


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


def _measure_raw(path: Path, audio: AudioFormat) -> Measured:
    frame = ENCODINGS[audio.encoding].dtype.itemsize * audio.channels
    whole, rest = divmod(path.stat().st_size, frame)
    decoder = PcmDecoder(audio)
    decoder.push(bytes(rest))
    return Measured(whole / audio.rate, decoder.warnings)


def _raw(path: Path, audio: AudioFormat) -> Iterator[Samples]:
    decoder = PcmDecoder(audio)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield decoder.push(memoryview(piece))
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
