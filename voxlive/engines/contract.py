"""The contract between a session and a speech engine.

An engine owns a loaded model and a fixed number of slots. ``Engine.open`` takes a slot and returns
a ``Stream``. A stream takes gated audio and answers with messages (``Committed``, ``Drafted``,
``LanguageFound``, ``Progressed``, ``Behind``, ``Reached``, ``Failed``) through its sink, which is
called in order, as a rule on the engine's own thread, and must return at once; a pool's engine may
ask it to move (``Withdrawn``). Nothing here depends on asyncio, so an engine serves a web session,
the command line and an embedded processor alike.

Times are samples at 16 kHz on the session's clock. An engine never has more than ``capacity``
streams; how much audio a stream may hold is stated by each engine.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol, runtime_checkable

from voxlive.checkpoints.languages import unknown_language_message
from voxlive.errors import UnsupportedOption
from voxlive.processes.supervisor import DEADLINE_S, Work
from voxlive.recognisers.contract import Task
from voxlive.values import PAUSE_MS, SAMPLE_RATE, CodedWarning, QuicklyPickled, Samples, Word

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is loaded. None leaves a choice to the engine.

    ``device`` is gpu or cpu, ``quantize`` 4 or 8 bits on loading, ``delay_ms`` the delay of streams
    that choose none. ``keep_quantized``: weights that are stored quantised are never unpacked.
    ``deadline_s``: a process of the engine that has work and makes no progress for so many seconds
    is ended and replaced. ``commit`` is the rule of streams that choose none, ``vocabulary`` is
    added to that of every stream. ``devices``: an engine on each of these (``pool``). ``cores``:
    how many of the CPU's this engine may use; a part of one is shared with others.
    """

    max_sessions: int | None = None
    device: str | None = None
    delay_ms: int | None = None
    quantize: int | None = None
    deadline_s: float = DEADLINE_S
    keep_quantized: bool = False
    commit: str | None = None
    vocabulary: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    cores: float | None = None

    def require_no_rules(self, model: str) -> None:
        """For an engine without these. Raises UnsupportedOption where one is set."""
        if self.commit is not None:
            raise UnsupportedOption(f"{model} has no rule of commitment: leave it out", "commit")
        if self.vocabulary:
            raise UnsupportedOption(f"{model} takes no vocabulary: leave it out", "vocabulary")


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What one stream asks of its engine.

    ``language`` is a code (``checkpoints.languages``) of what is spoken; None leaves the choice to
    the model. ``task`` translate: into English. ``vocabulary`` are names and terms to expect
    (``recognisers.vocabulary``); an engine without one ignores it. ``commit`` is the name of the
    rule by which words are committed; None takes the engine's default.
    ``delay_ms`` is the model's own delay where it has one; None takes the engine's default.
    ``drafts`` False lets an engine skip work whose only use is text that may still change: for
    files. ``session`` is the same for all streams that one session opens, one after another, and
    ``name`` is what its client calls the model.
    """

    language: str | None = None
    delay_ms: int | None = None
    drafts: bool = True
    task: Task = "transcribe"
    vocabulary: tuple[str, ...] = ()
    commit: str | None = None
    session: str = field(default="", compare=False)
    name: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is: all that has to be known to open a stream, without asking the engine.

    ``capacity`` is its number of slots, ``languages`` are codes (empty: any), ``note`` is a remark
    for people, ``warning`` concerns the model's files. ``weights`` says how they are held in
    memory; None where there is no choice. ``delays_ms`` are the delays that a stream may choose;
    empty where the model has none of its own. ``trail_margin``: samples beyond the delay after
    which the last words are normally out. ``takes_language``: whether a stream's has an
    effect. ``vocabulary`` are the terms of every stream, None where it takes none. ``commit_rules``
    are the names of the rules that a stream may choose, ``no_translation`` is why it does not
    translate, None if it does. ``language_required``: no stream without a language. ``names``:
    other names that clients may choose it by. ``step``: samples in which it takes audio, 0 for
    any (``Progressed.wanted``). ``drop_at``: a fault on demand, the sample at which
    every session's connection is cut; None: never. ``pause_ms``: milliseconds of silence that end
    an utterance where the client says nothing of it.
    """

    engine: str
    model: str
    device: str
    capacity: int
    languages: tuple[str, ...]
    default_delay_ms: int | None = None
    note: str | None = None
    warning: str | None = None
    delays_ms: range = range(0)
    trail_margin: int = 0
    weights: str | None = None
    takes_language: bool = False
    vocabulary: tuple[str, ...] | None = None
    commit_rules: tuple[str, ...] = ()
    default_commit: str | None = None
    no_translation: str | None = "choose a multilingual Whisper"
    language_required: bool = False
    names: tuple[str, ...] = ()
    step: int = 0
    drop_at: int | None = None
    pause_ms: int = PAUSE_MS

    def trail(self, options: StreamOptions) -> int:
        """``Stream.trail`` of a stream with these options, in samples."""
        delay_ms = options.delay_ms or self.default_delay_ms or 0
        return delay_ms * SAMPLE_RATE // 1000 + self.trail_margin

    def validate(self, options: StreamOptions) -> None:
        """Raises UnsupportedOption for a language, task, rule or delay that the model lacks."""
        title = f"{self.engine} ({self.model})"
        language = options.language
        if language is None and self.language_required:
            known = ", ".join(self.languages)
            message = f"{title} has to be told the language: one of {known}"
            raise UnsupportedOption(message, "language")
        if language and self.languages and language not in self.languages:
            note = f" ({self.note})" if self.note else ""
            raise UnsupportedOption(
                unknown_language_message(title, language, self.languages) + note, "language"
            )
        if options.task == "translate" and self.no_translation:
            message = f"{title} does not translate: {self.no_translation}"
            raise UnsupportedOption(message, "task")
        self._validate_commit(title, options.commit)
        self._validate_delay(title, options.delay_ms)

    def _validate_commit(self, title: str, commit: str | None) -> None:
        if commit is None or commit in self.commit_rules:
            return
        if not self.commit_rules:
            message = f"{title} has no rule of commitment: leave it out"
        else:
            rules = ", ".join(self.commit_rules)
            message = f"the rule of commitment must be one of {rules}, not {commit[:40]!r}"
        raise UnsupportedOption(message, "commit")

    def _validate_delay(self, title: str, delay_ms: int | None) -> None:
        if delay_ms is None or delay_ms in self.delays_ms:
            return
        if not self.delays_ms:
            raise UnsupportedOption(f"{title} has no delay to set: leave it out", "delay_ms")
        raise UnsupportedOption(
            f"the delay must be a multiple of {self.delays_ms.step} up to {self.delays_ms[-1]} ms, "
            f"not {delay_ms}",
            "delay_ms",
        )

    def language_of(self, options: StreamOptions) -> str | None:
        """The language that is in force from the start; None if the model finds it out."""
        return options.language if self.takes_language else None

    def terms(self, options: StreamOptions) -> tuple[str, ...]:
        """The vocabulary that is in force: the stream's terms, then those of every stream."""
        if self.vocabulary is None:
            return ()
        return tuple(dict.fromkeys((*options.vocabulary, *self.vocabulary)))

    def ignored(self, options: StreamOptions) -> tuple[CodedWarning, ...]:
        """A warning for each option that has no effect here."""
        warnings = []
        if options.language and len(self.languages) > 1 and not self.takes_language:
            reason = f"{self.model} finds out by itself which one is spoken"
            message = f"the language has no effect: {reason}"
            warnings.append(CodedWarning("language_ignored", message))
        if options.vocabulary and self.vocabulary is None:
            message = f"the vocabulary has no effect: {self.model} takes none"
            warnings.append(CodedWarning("vocabulary_ignored", message))
        return tuple(warnings)


@dataclass(frozen=True, slots=True)
class Committed(QuicklyPickled):
    """Words that will not change any more, in order."""

    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Drafted(QuicklyPickled):
    """The text recognised after the last committed word. It may still change."""

    text: str


@dataclass(frozen=True, slots=True)
class LanguageFound:
    """The model has found out which language is spoken. It holds for the stream.

    ``probability`` is None where the model has no such figure.
    """

    language: str
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Progressed(QuicklyPickled):
    """All audio before sample ``upto`` has been processed.

    ``wanted``: what is fed next is of no use before all up to this sample is, and then before
    ``EngineInfo.step`` more; 0: it is not known.
    """

    upto: int
    wanted: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Behind(QuicklyPickled):
    """The engine is so many seconds behind the audio received.

    Of a ``PacedStream`` alone: of others the session finds it out.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Reached(QuicklyPickled):
    """Every word from before ``end_utterance(marker)`` or ``flush(marker)`` has been committed.

    No word from after it has been.
    """

    marker: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The stream has failed and sends nothing more. Its slot is already free."""

    code: str
    message: str


MOVE_S = 10.0
"""How long a session waits for a pause before it passes to another engine in mid-speech."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The engine goes out of service: open another stream at the next pause or within so many s.

    The stream works until then.
    """

    within_s: float


SessionMessage = Committed | Drafted | LanguageFound | Progressed | Behind | Reached | Failed
"""What a session has to know, whichever engine its stream is of."""
Message = SessionMessage | Withdrawn
Sink = Callable[[Message], None]


class Stream(Protocol):
    """One session's slot in an engine. Calls never block and come from one thread at a time."""

    @property
    def trail(self) -> int:
        """Samples of real audio to feed after speech ends, so that its last words come out."""
        ...

    def feed(self, audio: Samples, at: int) -> None:
        """Take float32 mono audio [n] at 16 kHz whose first sample is sample ``at`` of the session.

        ``at`` never lies before the end of the previous feed. A gap is silence that was left out.
        """
        ...

    def end_utterance(self, marker: int) -> None:
        """The speaker paused: answer ``Reached(marker)`` once all words so far are committed.

        To be called ``trail`` samples after the end of speech or later. Where less audio follows
        the end of speech, ``flush`` has to be called instead for its words to come out.
        """
        ...

    def flush(self, marker: int) -> None:
        """Commit all words now, answer ``Reached(marker)``, and reset the stream's state."""
        ...

    def close(self) -> None:
        """Give the slot back at once. No message follows. May be called twice."""
        ...


@runtime_checkable
class PacedStream(Stream, Protocol):
    """A stream whose messages have a place on the session's clock, as those of a replay have.

    The session keeps to it, so that events of its own come in the same order every time.
    """

    def step(self) -> int | None:
        """Up to which sample the session may receive audio next; None: as much as it likes."""
        ...

    def settle(self) -> None:
        """Send what comes before any further audio or mark."""
        ...

    def advance(self, received: int) -> None:
        """The session has received everything before this sample, and feeds what it will of it."""
        ...


@runtime_checkable
class BatchEngine(Protocol):
    """An engine that works in rounds, each with messages for many streams."""

    after_round: Callable[[], object]
    """Called on the engine's thread when all messages of a round are in their sinks."""


class Engine(Protocol):
    """A loaded model with its slots."""

    @property
    def info(self) -> EngineInfo:
        """What this engine is."""
        ...

    @property
    def in_use(self) -> int:
        """How many slots are taken."""
        ...

    @property
    def steps(self) -> HistogramSource:
        """The durations of its steps: the units of work it does for its streams. Never blocks."""
        ...

    @property
    def work(self) -> Work:
        """What it has to do and how much it has done, from which a hang is detected."""
        ...

    def open(self, options: StreamOptions, sink: Sink) -> Stream:
        """Take a slot; raises EngineFull or UnsupportedOption.

        Never blocks: an error that shows later comes as ``Failed``.
        """
        ...

    def check(self, timeout: float) -> str | None:
        """Decode something; None if that worked, else what is wrong.

        Blocks for up to ``timeout`` seconds.
        """
        ...

    def shutdown(self) -> None:
        """End every stream and free every thread and process. Blocks, briefly."""
        ...


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """A cumulative histogram: ``counts[i]`` observations took at most ``bounds[i]`` seconds.

    ``count`` is the number of all observations, ``total_s`` their sum.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    count: int
    total_s: float

    def __add__(self, other: HistogramSnapshot) -> HistogramSnapshot:
        """Of both, whose bounds are the same."""
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        total_s = self.total_s + other.total_s
        return HistogramSnapshot(self.bounds, counts, self.count + other.count, total_s)


class HistogramSource(Protocol):
    """Whatever has a histogram of durations to read."""

    def read(self) -> HistogramSnapshot:
        """All observations so far."""
        ...


class DurationHistogram:
    """A histogram of seconds in buckets with ascending upper ``bounds``. Thread-safe."""

    def __init__(self, bounds: tuple[float, ...] = BUCKETS_S) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total_s = 0.0
        self._lock = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Count one more observation."""
        at = bisect_left(self._bounds, seconds)
        with self._lock:
            self._counts[at] += 1
            self._total_s += seconds

    def read(self) -> HistogramSnapshot:
        """All observations so far."""
        with self._lock:
            counts, total_s = tuple(self._counts), self._total_s
        *cumulative, count = accumulate(counts)
        return HistogramSnapshot(self._bounds, tuple(cumulative), count, total_s)
