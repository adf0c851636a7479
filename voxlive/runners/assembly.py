"""A file to one transcript, for models that take only short audio.

The file is decoded, run through the voice detector and cut into stretches of speech
(``stretches``); each is recognised, and the texts are joined. No more of the file than a stretch is
in memory, however long it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from voxlive.errors import RequestRefused
from voxlive.runners.contract import (
    Delta,
    Job,
    JobProgress,
    Transcript,
    Update,
)
from voxlive.runners.stretches import CutOptions, Cutter, Stretch, join, needs_space
from voxlive.streaming.ingest.formats import ENCODINGS, PcmDecoder
from voxlive.streaming.ingest.media import Measured, measure, read_file
from voxlive.vad.detector import CONTEXT, STATE, Silero
from voxlive.vad.gate import WINDOW
from voxlive.values import SAMPLE_RATE, Segment, seconds

if TYPE_CHECKING:
    from pathlib import Path

    from voxlive.streaming.ingest.formats import AudioFormat
    from voxlive.values import Samples

_PIECE = 1 << 16  # bytes of a file of raw PCM that are read at once
_SHORTEST_CUT = 4 * SAMPLE_RATE
_OVERLAP = SAMPLE_RATE


def measure_job(job: Job) -> Measured:
    """How much audio the job's file really has, before any is recognised.

    Raises RequestRefused for audio that is longer than allowed, and BadAudio.
    """
    found = _measure_raw(job.path, job.raw) if job.raw else measure(job.path, job.longest_s)
    if job.longest_s is not None and found.seconds > job.longest_s:
        raise RequestRefused(
            "audio_too_long",
            f"the audio is longer than the {job.longest_s:g} s that are allowed: send it in parts",
            "file",
        )
    return replace(found, seconds=round(found.seconds, 3))


def stretches(
    job: Job, silero: Silero, options: CutOptions, cancelled: Callable[[], bool]
) -> Iterator[Stretch]:
    """Decode a measured file, detect speech and cut. Ends early once ``cancelled()``."""
    detector, cutter = WindowProbabilities(silero), Cutter(options)
    rest = np.zeros(0, np.float32)
    for block in blocks_of(job):
        if cancelled():
            return
        audio = np.concatenate([rest, block])
        complete = len(audio) // WINDOW * WINDOW
        windows, rest = audio[:complete], audio[complete:]
        yield from cutter.push(windows, detector.of(windows))
    yield from cutter.finish(rest)


def blocks_of(job: Job) -> Iterator[Samples]:
    """The file's audio, decoded block after block."""
    return _raw(job.path, job.raw) if job.raw else read_file(job.path)


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


class WindowProbabilities:
    """The voice detector on one stream."""

    def __init__(self, silero: Silero) -> None:
        self._silero = silero
        self._state = np.zeros((2, 1, STATE), np.float32)
        self._context = np.zeros(CONTEXT, np.float32)

    def of(self, samples: Samples) -> Iterator[float]:
        """The probability of speech in every window of ``samples``."""
        for window in samples.reshape(-1, WINDOW):
            frame = np.concatenate([self._context, window])[None]
            probability, self._state = self._silero.step(frame, self._state)
            self._context = window[-CONTEXT:]
            yield float(probability[0])


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a model made of a stretch; times are from the stretch's own beginning.

    ``cut_short``: it stopped at its token limit, so that the rest of the text is missing; less
    audio may do. ``last``: it stopped where the job's own limit is, and so does everything.
    """

    segments: tuple[Segment, ...]
    language: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cut_short: bool = False
    last: bool = False


Recognise = Callable[[Stretch], Recognised]


def transcribe(
    job: Job,
    stretches_of: Callable[[Job], Iterator[Stretch]],
    recognise: Recognise,
    on_update: Callable[[Update], None],
    cancelled: Callable[[], bool],
) -> Transcript:
    """Recognise every stretch of a file in order and join the texts.

    ``stretches_of`` gives a job's stretches. Ends early once ``cancelled()``.
    """
    found = measure_job(job)
    total_s = found.seconds
    on_update(JobProgress(0.0, total_s))
    assembly = Assembly()
    for stretch in stretches_of(job):
        for part, recognised in _complete(stretch, recognise, cancelled):
            if text := assembly.add(part, recognised):
                on_update(Delta(text))
            on_update(JobProgress(seconds(part.end), total_s))
            if recognised.last:
                break
        if assembly.truncated or cancelled():
            break
    if text := assembly.close():
        on_update(Delta(text))
    on_update(JobProgress(total_s, total_s))
    return replace(assembly.transcript(job, total_s), warnings=found.warnings)


def _complete(
    stretch: Stretch, recognise: Recognise, cancelled: Callable[[], bool]
) -> Iterator[tuple[Stretch, Recognised]]:
    """The stretch, or parts of it so short that the model comes to an end within its limit."""
    waiting = [stretch]
    while waiting and not cancelled():
        part = waiting.pop()
        recognised = recognise(part)
        if not recognised.cut_short:
            yield part, recognised
        elif len(part.samples) >= _SHORTEST_CUT:
            waiting.extend(reversed(part.halves(_OVERLAP)))
        else:
            raise RequestRefused(
                "endless_text",
                f"the model wrote {recognised.completion_tokens} tokens for the audio from"
                f" {seconds(part.start):g} to {seconds(part.end):g} s and had not come to an end:"
                " choose another model for this audio",
                "model",
            )


class Assembly:
    """The transcript in the making. Text that the next stretch overlaps is held back."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._pending: tuple[Segment, ...] = ()
        self._end = ""  # of the text so far
        self._languages: Counter[str] = Counter()
        self._prompt: int | None = None
        self._completion: int | None = None
        self.truncated = False

    def add(self, stretch: Stretch, recognised: Recognised) -> str:
        """Add a stretch's result; the text that is now settled."""
        self._count(recognised)
        self.truncated = recognised.last
        start = stretch.start
        new = tuple(segment.moved(start) for segment in recognised.segments if segment.text.strip())
        if stretch.lead and self._pending:
            self._pending, new = join(self._pending, new, start, start + stretch.lead)
        text = self.close()
        self._pending = new
        return text if stretch.trail else text + self.close()

    def close(self) -> str:
        """Settle the text that was held back, and return it."""
        settled, self._pending = self._pending, ()
        return "".join(self._settle(segment) for segment in settled)

    def transcript(self, job: Job, duration: float) -> Transcript:
        """All that is settled, ``duration`` seconds long."""
        common = self._languages.most_common(1)
        return Transcript(
            "".join(segment.text for segment in self._segments),
            tuple(self._segments),
            duration,
            common[0][0] if common else None,
            job.task,
            self._prompt,
            self._completion,
            self.truncated,
        )

    def _settle(self, segment: Segment) -> str:
        if not self._segments:
            segment = _with_space(segment, segment.text.lstrip())
        elif needs_space(self._end, segment.text):
            segment = _with_space(segment, f" {segment.text}")
        self._segments.append(replace(segment, id=len(self._segments)))
        self._end = segment.text
        return segment.text

    def _count(self, recognised: Recognised) -> None:
        if recognised.language:
            length = sum(len(segment.text) for segment in recognised.segments)
            self._languages[recognised.language] += length
        if recognised.prompt_tokens is not None:
            self._prompt = (self._prompt or 0) + recognised.prompt_tokens
        if recognised.completion_tokens is not None:
            self._completion = (self._completion or 0) + recognised.completion_tokens


def _with_space(segment: Segment, text: str) -> Segment:
    """The segment with ``text``, which differs in its leading space; its first word gets that."""
    if not segment.words:
        return replace(segment, text=text)
    first, *others = segment.words
    space = text[: len(text) - len(text.lstrip())]
    first = replace(first, text=space + first.text.lstrip())
    return replace(segment, text=text, words=(first, *others))
