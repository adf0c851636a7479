"""The gate: from one speech probability per window, which audio is fed to the engine.

A pure state machine on sample numbers; the audio itself waits in ``UndecidedAudio``. Speech begins
at a window of at least ``threshold`` (the candidate's onset) from which, for ``min_speech``, no
window falls below ``exit_threshold``. It ends when every window stayed below ``exit_threshold`` for
``min_silence``. What was fed or skipped is never taken back; every sample is one or the other
exactly once, in order. Positions are samples on the session's clock.
"""

from __future__ import annotations

import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from voxlive.errors import CodedError
from voxlive.values import PAUSE_MS, SAMPLE_RATE, Samples

WINDOW = 512
"""Samples to a probability: 32 ms."""

_PER_MS = SAMPLE_RATE // 1000


class GateOptionError(CodedError, ValueError):
    """A gate option is out of its range; ``field`` names it."""

    code = "bad_parameter"

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} must be {allowed}, not {reprlib.repr(value)}", field)
        self.field = field


@dataclass(frozen=True, slots=True)
class GateOptions:
    """What counts as speech: probabilities from 0.01 to 0.99 and whole milliseconds.

    ``pre_roll_ms`` of audio before the onset are fed as well, so that no first syllable is clipped.
    ``min_silence_ms`` None: what suits the engine (``with_pause``). Raises GateOptionError.
    """

    threshold: float = 0.5
    exit_threshold: float = 0.35
    min_speech_ms: int = 96
    min_silence_ms: int | None = None
    pre_roll_ms: int = 300

    def __post_init__(self) -> None:
        _check_probability("threshold", self.threshold, 0.99, "0.99")
        most = f"threshold ({self.threshold:g})"
        _check_probability("exit_threshold", self.exit_threshold, self.threshold, most)
        _check_ms("min_speech_ms", self.min_speech_ms, 2_000)
        _check_ms("min_silence_ms", self.pause_ms, 10_000)
        _check_ms("pre_roll_ms", self.pre_roll_ms, 2_000)

    @property
    def pause_ms(self) -> int:
        """The pause that ends an utterance, in milliseconds."""
        return PAUSE_MS if self.min_silence_ms is None else self.min_silence_ms

    def with_pause(self, pause_ms: int) -> GateOptions:
        """The same with a pause of ``pause_ms``, where none was chosen."""
        return self if self.min_silence_ms is not None else replace(self, min_silence_ms=pause_ms)


def _check_probability(field: str, value: float, most: float, name: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0.01 <= value <= most:
        raise GateOptionError(field, value, f"a number from 0.01 to {name}")


def _check_ms(field: str, value: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise GateOptionError(field, value, f"a whole number from 0 to {most}")


@dataclass(frozen=True, slots=True)
class Feed:
    """Feed samples ``start`` to ``end`` to the engine."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Record samples ``start`` to ``end`` as silence."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Started:
    """Speech began at sample ``at``: its onset, not where it was detected."""

    at: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """Speech ended at sample ``at``: the end of its last window, not where that was detected."""

    at: int


@dataclass(frozen=True, slots=True)
class Paused:
    """The utterance is over, and all its audio, the engine's trail included, has been fed."""


Action = Feed | Skip | Started | Stopped | Paused


@dataclass(frozen=True, slots=True)
class GateState:
    """Where a gate is between utterances, or in speech that goes on behind a flush.

    ``end``: the last window's; ``done``: every sample before it was fed or skipped. ``voiced``: the
    end of the last window that counted as speech, where speech goes on, else None.
    """

    end: int = 0
    done: int = 0
    voiced: int | None = None


class _Phase(Enum):
    QUIET = "quiet"  # undecided: the pre-roll, and a candidate's windows
    SPEECH = "speech"  # fed at once
    TRAIL = "trail"  # speech has stopped, the engine's trail is still being fed
    FINISHED = "finished"


def _joined(actions: list[Action]) -> list[Action]:
    """The same actions with each run of feeds, which adjoin, as one."""
    joined: list[Action] = []
    for action in actions:
        if joined and isinstance(action, Feed) and isinstance(joined[-1], Feed):
            joined[-1] = Feed(joined[-1].start, action.end)
        else:
            joined.append(action)
    return joined


class _GateBase(ABC):
    """What gates have in common: the position of the last window and of the last decision."""

    def __init__(self, at: int = 0) -> None:
        self._end = at  # end of the last window
        self._done = at  # every sample before this one has been fed or skipped
        self._phase = _Phase.QUIET

    @property
    def speaking(self) -> bool:
        """Whether speech has started and not stopped."""
        return self._phase is _Phase.SPEECH

    @property
    def in_utterance(self) -> bool:
        """Whether speech has started and ``Paused`` has not followed."""
        return self._phase in (_Phase.SPEECH, _Phase.TRAIL)

    @property
    def state(self) -> GateState | None:
        """What another gate can go on from; None while an utterance may begin or end."""
        match self._phase:
            case _Phase.QUIET:
                return GateState(self._end, self._done)
            case _Phase.SPEECH:
                return GateState(self._end, self._done, self._last_voiced)
        return None

    @property
    def end(self) -> int:
        """The end of the last window."""
        return self._end

    @property
    def least(self) -> int:
        """The samples that it knows of: it decides about no fewer."""
        return max(self._end, self._done)

    @property
    def _last_voiced(self) -> int:
        return self._end

    def resume(self, state: GateState) -> None:
        """Go on from there, before anything is pushed."""
        self._end, self._done = state.end, state.done
        if state.voiced is not None:
            self._phase = _Phase.SPEECH

    def process(self, probabilities: Iterable[float], total: int) -> list[Action]:
        """Take windows, and ``feed_ahead`` up to sample ``total``; feeds that adjoin are one."""
        actions: list[Action] = []
        for probability in probabilities:
            actions += self.push(float(probability))
        actions += self.feed_ahead(total)
        return _joined(actions) if len(actions) > 1 else actions

    @abstractmethod
    def push(self, probability: float) -> list[Action]:
        """Take the speech probability, 0 to 1, of the next window."""
        ...

    @abstractmethod
    def flush(self, total: int) -> list[Action]:
        """Decide everything before sample ``total``, the number of samples received, now."""
        ...

    def pause(self, total: int) -> list[Action]:
        """End the utterance at sample ``total``, if there is one; what follows may begin another.

        A candidate counts as speech: it may be a word.
        """
        actions = self.flush(total)
        if self._phase is _Phase.SPEECH:
            self._phase = _Phase.QUIET
            actions += [Stopped(self._speech_end(total)), Paused()]
        return actions

    def finish(self, total: int) -> list[Action]:
        """``pause``, and take no more: the session ends."""
        actions = self.pause(total)
        self._phase = _Phase.FINISHED
        return actions

    def _speech_end(self, total: int) -> int:
        """Where speech that goes on ends if the audio ends at sample ``total``."""
        return total

    def feed_ahead(self, total: int) -> list[Action]:
        """Feed the incomplete window up to sample ``total``, where that is certain already."""
        return self._feed(total) if self._phase is _Phase.SPEECH else []

    def _next_window(self, probability: float) -> int:
        """Advance by a window; returns its first sample."""
        self._check_open()
        if not 0 <= probability <= 1:
            raise ValueError(f"a probability lies between 0 and 1; this is {probability}")
        start = self._end
        self._end += WINDOW
        return start

    def _check_total(self, total: int) -> None:
        self._check_open()
        if not self.least <= total < self._end + WINDOW:
            raise ValueError(
                f"{total} samples do not go with windows up to {self._end} and "
                f"{self._done} samples dealt with: push every complete window first"
            )

    def _check_open(self) -> None:
        if self._phase is _Phase.FINISHED:
            raise RuntimeError("the gate is finished: a new session needs a new gate")

    def _feed(self, upto: int) -> list[Action]:
        start, self._done = self._done, max(self._done, upto)
        return [Feed(start, upto)] if start < upto else []

    def _skip(self, upto: int) -> list[Action]:
        start, self._done = self._done, max(self._done, upto)
        return [Skip(start, upto)] if start < upto else []


class Gate(_GateBase):
    """The gate of one session's audio from sample ``at`` on.

    ``trail``: the samples after the end of speech that the engine needs for its last words. At most
    ``max_undecided`` samples and the incomplete window are undecided.
    """

    def __init__(self, options: GateOptions, trail: int, at: int = 0) -> None:
        super().__init__(at)
        self._threshold = options.threshold
        self._exit_threshold = options.exit_threshold
        self._min_speech = options.min_speech_ms * _PER_MS
        self._min_silence = options.pause_ms * _PER_MS
        self._pre_roll = options.pre_roll_ms * _PER_MS
        self._trail = trail
        self._onset: int | None = None  # the candidate's
        self._voiced_end = at  # end of the last window that counted as speech
        self._flushed = at  # no onset lies before the last flush

    @property
    def state(self) -> GateState | None:
        """See ``GateState``."""
        return None if self._onset is not None else super().state

    @property
    def _last_voiced(self) -> int:
        return self._voiced_end

    def resume(self, state: GateState) -> None:
        """Go on from there, before anything is pushed."""
        super().resume(state)
        self._flushed = state.done
        self._voiced_end = state.end if state.voiced is None else state.voiced

    @property
    def max_undecided(self) -> int:
        """The largest number of samples in complete windows that are undecided."""
        return self._pre_roll + max(0, math.ceil(self._min_speech / WINDOW) - 1) * WINDOW

    def push(self, probability: float) -> list[Action]:
        """Take the next window's probability."""
        start = self._next_window(probability)
        if self._phase is _Phase.SPEECH:
            return self._continue_speech(probability)
        self._update_candidate(start, probability)
        if self._onset is not None and self._end - self._onset >= self._min_speech:
            return self._start(self._onset, self._end)
        if self._phase is _Phase.TRAIL:
            return [*self._feed(self._end), *self._pause()]
        return self._skip((self._end if self._onset is None else self._onset) - self._pre_roll)

    def flush(self, total: int) -> list[Action]:
        """Decide everything before sample ``total``, the number of samples received, now.

        A candidate counts as speech, other undecided audio as silence. Speech is not stopped by a
        flush. An utterance that only lacks its trail is over, since the engine is flushed next.
        """
        self._check_total(total)
        self._flushed = total
        if self._onset is not None:
            return self._start(self._onset, total)
        if self._phase is _Phase.SPEECH:
            return self._feed(total)
        if self._phase is _Phase.TRAIL:
            self._phase = _Phase.QUIET
            return [*self._feed(total), Paused()]
        return self._skip(total)

    def _speech_end(self, total: int) -> int:
        return total if self._voiced_end == self._end else self._voiced_end

    def _update_candidate(self, start: int, probability: float) -> None:
        """Begin, keep or drop the candidate for an onset."""
        if self._onset is None and probability >= self._threshold:
            self._onset = max(start, self._flushed)
        elif probability < self._exit_threshold:
            self._onset = None

    def _start(self, onset: int, upto: int) -> list[Action]:
        self._phase = _Phase.SPEECH
        self._onset = None
        self._voiced_end = self._end
        return [Started(onset), *self._feed(upto)]

    def _continue_speech(self, probability: float) -> list[Action]:
        actions = self._feed(self._end)
        if probability >= self._exit_threshold:
            self._voiced_end = self._end
        elif self._end - self._voiced_end >= self._min_silence:
            self._phase = _Phase.TRAIL
            actions += [Stopped(self._voiced_end), *self._pause()]
        return actions

    def _pause(self) -> list[Action]:
        """End the utterance once the trail is complete, but never while there is a candidate."""
        if self._onset is not None or self._end - self._voiced_end < self._trail:
            return []
        self._phase = _Phase.QUIET
        return [Paused()]


class OpenGate(_GateBase):
    """The gate of a session without voice detection: all audio is one utterance."""

    def push(self, probability: float) -> list[Action]:
        """Feed the next window, whatever its probability."""
        self._next_window(probability)
        return self._open(self._end)

    def flush(self, total: int) -> list[Action]:
        """Feed everything before sample ``total``, the number of samples received."""
        self._check_total(total)
        return self._open(total)

    def _open(self, upto: int) -> list[Action]:
        if self._phase is _Phase.SPEECH or upto == self._done:
            return self._feed(upto)
        self._phase = _Phase.SPEECH
        return [Started(self._done), *self._feed(upto)]


class UndecidedOverflow(Exception):
    """More audio was appended than may wait for a decision."""


class UndecidedAudio:
    """The samples of a stream from ``start`` to ``end``, about which its gate has not decided.

    They are appended at the end, taken or dropped at the start. At most ``capacity`` wait; an
    append beyond that raises UndecidedOverflow and changes nothing. The default has room for
    ``Gate.max_undecided`` and seconds of new audio. The last ``history`` samples before ``end`` can
    be read after the decision too; before the stream's first, at ``at``, they are zeros.
    """

    def __init__(self, at: int = 0, history: int = 0, capacity: int = 8 * SAMPLE_RATE) -> None:
        self.start = self.end = at
        self._history = history
        self._capacity = capacity
        self._held: Samples = np.zeros(history, np.float32)  # the last before ``end``

    def append(self, samples: Samples) -> None:
        """Add float32 samples [n], which must not be changed any more, at ``end``."""
        undecided = self.end - self.start
        if undecided + len(samples) > self._capacity:
            raise UndecidedOverflow(
                f"{undecided} samples wait for a decision and {len(samples)} more do "
                f"not fit in {self._capacity}: append shorter pieces, and decide about each one"
            )
        if kept := max(undecided, self._history):
            samples = np.concatenate((self._held[-kept:], samples))
        self._held = samples
        self.end += len(samples) - kept

    def retract(self, count: int) -> None:
        """Undo the last append, of ``count`` samples, about which nothing was decided yet."""
        self._held = self._held[: len(self._held) - count]
        self.end -= count

    def read(self, start: int) -> Samples:
        """Float32 [end - start], not to be written to; ``start`` may lie in the history."""
        return self._held[start - self.end + len(self._held) :]

    def take(self, start: int, end: int) -> Samples:
        """Remove everything before ``end``; returns float32 [end - start], not to be written to.

        Raises ValueError for a range that is not held.
        """
        self._check(start, end)
        self.start = end
        return self.read(start)[: end - start]

    def drop(self, upto: int) -> None:
        """Remove every sample before ``upto``. Raises ValueError if that is not held."""
        self._check(self.start, upto)
        self.start = upto

    def _check(self, start: int, end: int) -> None:
        if not self.start <= start <= end <= self.end:
            raise ValueError(f"{start} to {end} is not within {self.start} to {self.end}")
