"""What recognises an utterance: the contract, whichever library its model comes from.

A recogniser takes audio that is there as a whole and answers with its words. Files go through it
stretch by stretch (``runners``), a live session by passes over an utterance that grows. No pass
depends on another one, and several threads may ask for passes at the same time.

What several recognisers need beside it is pure: a Whisper window's tokens as segments, and where
audio that is longer than a window is best parted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from voxlive.values import SAMPLE_RATE, Segment, Word

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.values import Samples


Task = Literal["transcribe", "translate"]
"""``translate`` is into English, whatever language is spoken."""

WARMING = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""OpenAI's ladder of temperatures: the next one where a text repeats itself or is improbable."""


@dataclass(frozen=True, slots=True)
class LoadingOptions:
    """How a model is loaded.

    ``device`` None: a GPU if there is one. ``threads`` is how many cores a single pass uses,
    ``parallel`` how many passes run at a time; more of them wait for one another. ``compute`` is a
    type of numbers as the library names it, None its adapter's choice.
    """

    device: Literal["gpu", "cpu"] | None = None
    threads: int = 1
    parallel: int = 1
    compute: str | None = None

    def __post_init__(self) -> None:
        if self.threads < 1 or self.parallel < 1:
            raise ValueError(f"a model needs at least one thread: {self}")


@dataclass(frozen=True, slots=True)
class SpokenBefore:
    """What is spoken at the beginning of a pass's audio, and is known: the pass goes on behind it.

    Its ``text`` ends at sample ``end`` of the audio; what is asked for begins at ``start``.
    """

    text: str
    end: int
    start: int


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How one pass is made.

    ``margin_s`` is how many seconds of silence the model gets behind the audio. None fills its
    whole window, which costs most and errs least; with a margin the pass looks at the first window
    alone and may end in a loop (``Recognition.compression`` shows one), the sooner the less it has
    in all: ``least_s`` at least. ``beam`` is how many hypotheses are kept, by a library that can.
    ``temperatures`` are tried in turn while the text repeats itself or is improbable. ``prompt`` is
    text that came before, ``words`` asks for words with times, and ``max_tokens`` ends the text.
    ``before`` is part of the audio, for a recogniser that ``continues``: it is not written again.
    """

    margin_s: float | None = None
    least_s: float = 0.0
    beam: int = 5
    temperatures: tuple[float, ...] = WARMING
    prompt: str | None = None
    words: bool = True
    max_tokens: int | None = None
    before: SpokenBefore | None = None

    def __post_init__(self) -> None:
        positive = self.beam >= 1 and self.temperatures and self.max_tokens != 0
        if not positive or (self.margin_s is not None and self.margin_s < 0):
            raise ValueError(f"no pass can be made like this: {self}")


REPETITIVE, IMPROBABLE, NO_SPEECH = 2.4, -1.0, 0.6
"""OpenAI's thresholds: a text that deflate makes so much smaller repeats itself, one of a mean
log-probability below is a guess, and a guess where no speech is likelier than that is none."""

PADDED = PassOptions()
"""A pass over the whole window, with every check: for words that will not change."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """What one pass made of its audio. Times are samples from the first one that it was given.

    ``language`` is the code of what was recognised, None where it was given or there is only one;
    ``language_p`` its probability. ``no_speech`` is the probability that nobody speaks,
    ``mean_logprob`` the mean log-probability of the text's tokens, ``compression`` how many times
    smaller deflate makes the text (2.4 and more is a loop), ``temperature`` the warmest one that
    was needed; all are the worst of the pass's windows, and None where the model has no such
    figure. ``tokens`` were written, after ``prompt_tokens``; None where they are not counted.
    ``cut_short``: a limit of tokens ended the text before the audio.
    """

    segments: tuple[Segment, ...] = ()
    language: str | None = None
    language_p: float | None = None
    no_speech: float | None = None
    mean_logprob: float | None = None
    compression: float | None = None
    temperature: float | None = None
    tokens: int | None = None
    prompt_tokens: int | None = None
    cut_short: bool = False

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments, in order; empty where they were not asked for."""
        return tuple(word for segment in self.segments for word in segment.words or ())

    @property
    def text(self) -> str:
        """The joined text of all segments."""
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True, slots=True)
class RecogniserInfo:
    """A loaded model. ``window_s`` is how much audio it looks at as one; longer audio is several.

    ``languages`` are codes (``checkpoints.languages``), ``device`` and ``compute`` what it runs on.
    ``languages`` is empty where any may be spoken, or where the model does not know which.
    ``no_translation`` is the reason why it does not translate, None if it does. ``parallel`` passes
    may be made at a time, more of them wait. ``timed_words``: the times of words are the model's;
    without it a segment's time is spread over its words by their characters.
    ``takes_language``: naming a language has an effect. ``language_required``: a pass needs it.
    ``continues``: a pass can go on behind what is known (``PassOptions.before``), in one window.
    ``warning`` concerns the model's files.
    """

    model: str
    languages: tuple[str, ...]
    window_s: float
    device: str
    compute: str
    no_translation: str | None = None
    parallel: int = 1
    timed_words: bool = True
    takes_language: bool = True
    language_required: bool = False
    continues: bool = False
    warning: str | None = None


class Recogniser(Protocol):
    """A loaded model."""

    @property
    def info(self) -> RecogniserInfo:
        """What was loaded."""
        ...

    def recognise(
        self,
        samples: Samples,
        language: str | None = None,
        task: Task = "transcribe",
        vocabulary: tuple[str, ...] = (),
        how: PassOptions = PADDED,
    ) -> Recognition:
        """The words in ``samples``: float32 mono [n] at 16 kHz. Blocks, and lets other threads run.

        ``language`` None lets the model find out, which costs a step of its decoder. ``vocabulary``
        are names and terms to expect. Raises RequestRefused for a language or a task that the
        model does not know.
        """
        ...

    def languages_of(self, samples: Samples) -> tuple[tuple[str, float], ...]:
        """Codes of the languages that may be spoken here with probabilities, the likeliest first.

        Only the first window is looked at. A model of one language names that one; one that gives
        no probabilities, none.
        """
        ...

    def close(self) -> None:
        """Free the model's memory. No pass may be under way."""
        ...


LoadRecogniser = Callable[["LocalModel", LoadingOptions], Recogniser]
"""Blocks. Raises RequestRefused for files that do not make up such a model and for what is missing
on this machine."""


WINDOW = 3000
"""Frames of a whole window: 30 s."""
FRAMES_PER_S = 100
OPENING = "\"'“¿([{-"
CLOSING = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001
"""Punctuation that belongs to the word behind it, and to the word before it."""

_TOKENS_PER_S = 50
_QUIET = SAMPLE_RATE // 20  # samples over which loudness is measured


def split_tokens(
    tokens: Sequence[int], first_time: int, seek: int, frames: int
) -> tuple[list[dict[str, Any]], int]:
    """A window's tokens as segments in seconds, and how many of its frames they settle.

    Tokens from ``first_time`` on are times, 20 ms apart. Two of them in a row end one segment and
    begin the next; what is behind the last such pair is unfinished, and recognised again by the
    next window. One time at the very end means that nobody speaks behind it (OpenAI's
    ``transcribe.py``).
    """
    pairs = [at for at in range(1, len(tokens)) if min(tokens[at - 1], tokens[at]) >= first_time]
    finished = len(tokens) > 1 and tokens[-2] < first_time <= tokens[-1]
    offset = seek / FRAMES_PER_S
    if not pairs:
        times = [token - first_time for token in tokens if token > first_time]
        end = times[-1] / _TOKENS_PER_S if times else frames / FRAMES_PER_S
        return [_piece(tokens, offset, offset + end, seek)], frames
    cuts = [0, *pairs, *([len(tokens)] if finished else [])]
    pieces = [
        _piece(
            tokens[begin:end],
            offset + (tokens[begin] - first_time) / _TOKENS_PER_S,
            offset + (tokens[end - 1] - first_time) / _TOKENS_PER_S,
            seek,
        )
        for begin, end in itertools.pairwise(cuts)
    ]
    if finished:
        return pieces, frames
    settled = (tokens[cuts[-1] - 1] - first_time) * FRAMES_PER_S // _TOKENS_PER_S
    return pieces, max(1, settled)


def _piece(tokens: Sequence[int], start: float, end: float, seek: int) -> dict[str, Any]:
    """As the library's alignment of words takes it, and writes the words into it."""
    return {"seek": seek, "start": start, "end": end, "tokens": list(tokens)}


def quietest(audio: Samples, start: int, end: int) -> int:
    """The sample between ``start`` and ``end`` around which the audio is quietest."""
    return start + int(loudness(audio[start:end], _QUIET).argmin()) * _QUIET + _QUIET // 2


def loudness(audio: Samples, frame: int) -> NDArray[np.float64]:
    """The mean power of frames of so many samples, each with its two neighbours: float64 [n]."""
    frames = audio[: len(audio) // frame * frame].reshape(-1, frame)
    return np.convolve(np.square(frames).mean(axis=1), np.ones(3), "same")


def in_windows(audio: Samples, longest: int) -> Iterator[tuple[int, Samples]]:
    """Audio in parts of at most ``longest`` samples with their places, cut where it is quiet."""
    start = 0
    while len(audio) - start > longest:
        end = quietest(audio, start + longest * 2 // 3, start + longest)
        yield start, audio[start:end]
        start = end
    yield start, audio[start:]
