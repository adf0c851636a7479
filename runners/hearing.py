"""A file as the stretches of it in which somebody speaks: decoded, listened to and cut on the way.

No more of the file is in memory than a stretch, however long it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..streaming.clock import SAMPLE_RATE
from ..streaming.ingest import BadAudio, read_file
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


class Hearing:
    """One job's file. ``heard`` counts the samples decoded so far; ``whole``: those were all.

    It ends early once ``cancelled()``.
    """

    def __init__(
        self, job: Job, silero: Silero, options: CutOptions, cancelled: Callable[[], bool]
    ) -> None:
        self._job = job
        self._cancelled = cancelled
        self._listener = _Listener(silero)
        self._cutter = Cutter(options)
        self.heard = 0
        self.whole = False

    def stretches(self) -> Iterator[Stretch]:
        """Raises Refusal for audio that is damaged, longer than allowed, or no audio."""
        rest = np.zeros(0, np.float32)
        for block in self._blocks():
            if self._cancelled():
                return
            audio = np.concatenate([rest, block])
            complete = len(audio) // WINDOW * WINDOW
            windows, rest = audio[:complete], audio[complete:]
            yield from self._cutter.push(windows, self._listener.listen(windows))
        self.whole = True
        yield from self._cutter.finish(rest)

    def _blocks(self) -> Iterator[Samples]:
        job = self._job
        try:
            for block in _raw(job.path, job.raw) if job.raw else read_file(job.path):
                self.heard += len(block)
                if job.longest_s is not None and self.heard > job.longest_s * SAMPLE_RATE:
                    raise Refusal(
                        413,
                        "audio_too_long",
                        f"the audio is longer than the {job.longest_s:g} s that are allowed: "
                        "send it in parts",
                        "file",
                    )
                yield block
        except BadAudio as error:
            raise Refusal(400, error.code, str(error), "file") from error


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
