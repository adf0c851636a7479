"""What recognises an utterance: the contract, whichever library its model comes from.

A recogniser takes audio that is there as a whole and answers with its words. Files go through it
stretch by stretch (``runners``), a live session by passes over an utterance that grows. No pass
depends on another one, and several threads may ask for passes at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from voxlive.values import Segment, Word

if TYPE_CHECKING:
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
class PassOptions:
    """How one pass is made.

    ``margin_s`` is how many seconds of silence the model gets behind the audio. None fills its
    whole window, which costs most and errs least; with a margin the pass looks at the first window
    alone and may end in a loop (``Recognition.compression`` shows one), the sooner the less it has
    in all: ``least_s`` at least. ``beam`` is how many hypotheses are kept, by a library that can.
    ``temperatures`` are tried in turn while the text repeats itself or is improbable. ``prompt`` is
    text that came before, ``words`` asks for words with times, and ``max_tokens`` ends the text.
    """

    margin_s: float | None = None
    least_s: float = 0.0
    beam: int = 5
    temperatures: tuple[float, ...] = WARMING
    prompt: str | None = None
    words: bool = True
    max_tokens: int | None = None

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
