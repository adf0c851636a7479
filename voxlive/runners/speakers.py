"""Who speaks in a file: the words of its transcript by their voices, once all of it is recognised.

The file is decoded once more; a vector is made of every 0.8 s of speech, as live
(``speakers/tracker.py``), and all of them are clustered (``speakers/clustering.py``). Of the audio
some seconds are kept, of every vector a kilobyte: 4.5 MB for an hour of speech.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from voxlive.errors import RequestRefused
from voxlive.runners.assembly import WindowProbabilities, blocks_of
from voxlive.runners.contract import JobProgress
from voxlive.speakers.clustering import cluster
from voxlive.speakers.encoder import load_encoder
from voxlive.speakers.labels import by_speaker, speaker_name
from voxlive.speakers.tracker import SpeakerTracker
from voxlive.vad.detector import Silero
from voxlive.vad.gate import WINDOW as STEP
from voxlive.vad.gate import GateOptions
from voxlive.values import SAMPLE_RATE, Segment

if TYPE_CHECKING:
    from voxlive.runners.contract import Job, Runner, Transcript, Update
    from voxlive.speakers.encoder import SpeakerModel
    from voxlive.speakers.tracker import SpeakerOptions, SpeakerPart

_KEPT = 3 * SAMPLE_RATE
_UPDATE_EVERY = 10 * SAMPLE_RATE


def run_with_speakers(
    runner: Runner, job: Job, on_update: Callable[[Update], None], cancelled: Callable[[], bool]
) -> Transcript:
    """As ``Runner.run``; segments that have no speakers then get them as the job says."""
    transcript = runner.run(job, on_update, cancelled)
    if not job.speakers or cancelled() or any(one.speaker for one in transcript.segments):
        return transcript
    return label_speakers(job, transcript, on_update, cancelled)


def label_speakers(
    job: Job,
    transcript: Transcript,
    on_update: Callable[[Update], None],
    cancelled: Callable[[], bool],
    model: SpeakerModel | None = None,
) -> Transcript:
    """The transcript with the speaker of every segment; segments are parted where they change.

    ``model``: by default the encoder. Ends early once ``cancelled()``. Raises RequestRefused for a
    transcript without times, SpeakersMissing, and what decoding raises.
    """
    assert job.speakers
    segments = [one for one in transcript.segments if one.text.strip()]
    if any(one.start is None for one in segments):
        message = "this model knows no times, by which voices are found: choose another one"
        raise RequestRefused("no_times", message, "response_format")
    if not segments:
        return transcript
    model = model or load_encoder()
    parts = [*voices(job, model, on_update, transcript.duration, cancelled)]
    if cancelled():
        return transcript
    speakers = FileSpeakers(parts, job.speakers, model.likeness.same)
    labelled = [part for segment in transcript.segments for part in speakers.split(segment)]
    numbered = tuple(replace(part, id=number) for number, part in enumerate(labelled))
    return replace(transcript, segments=numbered)


def voices(
    job: Job,
    model: SpeakerModel,
    on_update: Callable[[Update], None],
    duration: float,
    cancelled: Callable[[], bool],
) -> Iterator[SpeakerPart]:
    """The parts of a file in which somebody speaks, in order, with their vectors."""
    assert job.speakers
    tracker = SpeakerTracker(job.speakers, GateOptions(), 0, model.likeness)
    probabilities = WindowProbabilities(Silero())
    audio = rest = np.zeros(0, np.float32)
    end = told = 0

    def answer() -> Iterator[SpeakerPart]:
        if asked := tracker.ask:
            first = end - len(audio)
            tracker.hear(model.embed(audio[asked.start - first : asked.end - first]))
        while tracker.parts:
            yield tracker.parts.popleft()

    for block in blocks_of(job):
        if cancelled():
            return
        rest = np.concatenate([rest, block])
        complete = len(rest) // STEP * STEP
        windows, rest = rest[:complete], rest[complete:]
        audio, end = np.concatenate([audio[-_KEPT:], windows]), end + complete
        for probability in probabilities.of(windows):
            tracker.push(probability)
            yield from answer()
        if end - told >= _UPDATE_EVERY:
            told = end
            on_update(JobProgress(duration, duration))
    tracker.finish()
    yield from answer()


class FileSpeakers:
    """Who speaks when in a file, by parts with vectors or without, in order. Pure.

    A part without a vector, which is too short for one, has the speaker of the nearest that has
    one. Speakers are numbered as they are first heard. ``alike``: see ``cluster``.
    """

    def __init__(self, parts: Sequence[SpeakerPart], options: SpeakerOptions, alike: float) -> None:
        known = [part for part in parts if part.vector is not None]
        vectors = [part.vector for part in known if part.vector is not None]
        vectors = vectors or [np.ones(1, np.float32)]  # of speech too short for a voice
        found = cluster(np.stack(vectors), options.speakers, options.max_speakers, alike)
        order = {label: number for number, label in enumerate(dict.fromkeys(found))}
        self._labels = [order[label] for label in found]
        self._starts = [part.start for part in known] or [0]
        self._ends = [part.end for part in known] or [0]

    def at(self, sample: int) -> int:
        """Whose part it lies in, or is nearest to."""
        place = max(0, bisect_right(self._starts, sample) - 1)
        following = place + 1
        if sample >= self._ends[place] and following < len(self._starts):
            nearer = self._starts[following] - sample < sample - self._ends[place]
            place = following if nearer else place
        return self._labels[place]

    def split(self, segment: Segment) -> Iterator[Segment]:
        """The segment as parts of one speaker each; without word times it is whole.

        Then it has the speaker of the most of its time.
        """
        start, end = segment.start or 0, segment.end or 0
        words = segment.words or ()
        if "".join(word.text for word in words) != segment.text:
            times = range(start, max(end, start + 1), SAMPLE_RATE // 10)
            [(speaker, _)] = Counter(map(self.at, times)).most_common(1)
            yield replace(segment, speaker=speaker_name("", speaker))
            return
        parts = by_speaker(words, [self.at((word.start + word.end) // 2) for word in words])
        for number, part in enumerate(parts, 1):
            yield replace(
                segment,
                text=part.text,
                words=part.words,
                start=start if number == 1 else part.start,
                end=end if number == len(parts) else part.end,
                speaker=speaker_name("", part.speaker),
            )
