"""The turns of one stream: from pauses, how they sound and what was said, to who may answer when.

A turn begins with speech and lasts through pauses until its speaker has finished. In a pause of
``PAUSE`` samples a network says how likely that is by how it sounds (``detector.py``). Its odds are
multiplied by those of the text so far (``text_odds``), and grow with every moment of silence: the
longer a pause is, the rarer it is within a turn. The turn ends when this confidence reaches a
threshold, or when the pause has become ``max_wait_ms`` long.

``TurnTracker`` is pure. Positions are samples on the session's clock.
"""

from __future__ import annotations

import math
import re
from collections import deque
from dataclasses import astuple, dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from voxlive.errors import CodedError
from voxlive.vad.gate import WINDOW, GateOptions
from voxlive.values import SAMPLE_RATE, Samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from voxlive.turns.detector import TurnDetector
    from voxlive.turns.told import ToldEnd, TurnsTold

Eagerness = Literal["low", "medium", "high", "auto"]

CONTEXT = 8 * SAMPLE_RATE
"""Samples before the moment in question that the network takes."""
WAIT_MS = (200, 30_000)
"""The range of ``TurnOptions.max_wait_ms``."""
THRESHOLD = (0.1, 0.99)
"""The range of the thresholds."""
PAUSE = 4 * WINDOW
"""Samples of silence at which the network is asked: 128 ms.

The voice detector hears speech for some 70 ms more, and the network was trained with 0.2 s.
"""

_PAUSE_S = 0.5  # the mean of what a pause within a turn lasts longer than PAUSE
# The network's odds count by their root, since it is often sure and wrong (benchmarks/SPEED.md).
_SOUND = 0.5
_SURE = 0.02  # it is never surer than this, nor less sure
_PER_MS = SAMPLE_RATE // 1000
_MAX_TAIL = 200  # characters that the odds of a text depend on


class TurnOptionError(CodedError, ValueError):
    """An option of turns is out of its range; ``param`` names it."""

    code = "bad_parameter"


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """When a turn ends. ``eager_threshold`` None: nothing is said before it has.

    Thresholds are confidences from 0.1 to 0.99, the eager one at most the other. ``max_wait_ms`` is
    how long a pause always ends the turn. ``eagerness``: what they are made from, None where they
    were chosen one by one. Raises TurnOptionError.
    """

    threshold: float = 0.85
    eager_threshold: float | None = 0.6
    max_wait_ms: int = 3000
    eagerness: Eagerness | None = "auto"

    def __post_init__(self) -> None:
        _check("threshold", self.threshold, *THRESHOLD)
        if self.eager_threshold is not None:
            _check("eager_threshold", self.eager_threshold, THRESHOLD[0], self.threshold)
        _check("max_wait_ms", self.max_wait_ms, *WAIT_MS)

    def changed(
        self,
        threshold: float | None = None,
        eager_threshold: float | None = None,
        max_wait_ms: int | None = None,
    ) -> TurnOptions:
        """With those that are given."""
        given = {
            "threshold": threshold,
            "eager_threshold": eager_threshold,
            "max_wait_ms": max_wait_ms,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        if not changes:
            return self
        # A threshold below the eager one takes it along, unless that was given too.
        if threshold is not None and eager_threshold is None and self.eager_threshold is not None:
            changes["eager_threshold"] = min(self.eager_threshold, threshold)
        return replace(self, eagerness=None, **changes)  # type: ignore[arg-type]


def _check(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise TurnOptionError(f"{name} must be a number from {low:g} to {high:g}", name)


EAGERNESS: Mapping[str, TurnOptions] = {
    "low": TurnOptions(0.95, 0.8, 5000, "low"),
    "medium": TurnOptions(eagerness="medium"),
    "high": TurnOptions(0.7, 0.5, 2000, "high"),
    "auto": TurnOptions(),
}
"""Ready-made options: how soon an answer may come, against how often it interrupts."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """Turn number ``turn`` begins, with speech at sample ``at``."""

    turn: int
    at: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class TurnLikelyEnded:
    """Speech has stopped at sample ``at`` and may have been the turn's last; it may go on.

    ``confidence`` is that it has ended, as far as is known from the audio before sample ``upto``.
    """

    turn: int
    at: int
    upto: int
    confidence: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class TurnResumed:
    """Speech goes on at sample ``at`` in a turn that had likely ended."""

    turn: int
    at: int
    source: str = ""


EndedBy = Literal["confidence", "timeout", "client", "audio_end", "stalled"]


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The turn is over; its speech ended at sample ``at``. ``upto`` is as in TurnLikelyEnded.

    ``by``: the confidence has reached the threshold; the pause, ``max_wait_ms``; the client has
    said so; there is no more audio, or none came for long. Only the first has a confidence that
    decided.
    """

    turn: int
    at: int
    upto: int
    confidence: float
    by: EndedBy = "confidence"
    source: str = ""


TurnEvent = TurnStarted | TurnLikelyEnded | TurnResumed | TurnEnded


class TurnPhase(Enum):
    """Whether a turn has begun and not ended, and whether somebody speaks then."""

    NONE = "none"
    SPEECH = "speech"
    PAUSE = "pause"


_PHASE = 2  # its place among the fields of a state


@dataclass(frozen=True, slots=True)
class TurnState:
    """A tracker's state behind the window that ends at sample ``end``, for another one to go on.

    ``turn`` is the number of the turn that goes on, which ``began`` there, or of the next one.
    ``onset``: of what may be speech. ``sound``: see ``TurnTracker``.
    """

    turn: int
    end: int
    phase: TurnPhase = TurnPhase.NONE
    began: int = 0
    onset: int | None = None
    voiced_end: int = 0
    likely: bool = False
    asks: bool = False
    sound: float = 0.0
    options: TurnOptions = field(default_factory=TurnOptions)

    def after(self, event: TurnEvent, began: int) -> TurnState:
        """The state behind an event that followed, of a turn that ``began`` there.

        How the pause sounds is to be asked again. It ends with a window.
        """
        end = event.upto if isinstance(event, TurnEnded | TurnLikelyEnded) else event.at
        end = self.end + max(0, end - self.end) // WINDOW * WINDOW
        known = replace(
            self, turn=event.turn, end=end, began=began, onset=None, voiced_end=event.at
        )
        match event:
            case TurnEnded():
                ended = TurnPhase.NONE
                return replace(known, turn=event.turn + 1, phase=ended, likely=False, asks=False)
            case TurnLikelyEnded():
                return replace(known, phase=TurnPhase.PAUSE, likely=True, asks=True)
        return replace(known, phase=TurnPhase.SPEECH, likely=False, asks=False)

    def dump(self) -> list[object]:
        """As JSON."""
        *fields, options = astuple(self)
        fields[_PHASE] = self.phase.value
        return [*fields, options]

    @classmethod
    def load(cls, dumped: Sequence[Any]) -> Self:
        """From JSON."""
        fields: list[Any] = [*dumped]
        fields[_PHASE] = TurnPhase(fields[_PHASE])
        fields[-1] = TurnOptions(*fields[-1])
        return cls(*fields)


class TurnTracker:
    """The turns of one stream from sample ``at`` on, the next of which has the number ``turn``.

    ``gate`` has what counts as speech. Where ``asks`` is true, ``judge`` is to be called before the
    next ``push``. ``began``: where the last turn did.
    """

    def __init__(self, options: TurnOptions, gate: GateOptions, at: int = 0, turn: int = 0) -> None:
        self.options = options
        self.turn = turn
        self.asks = False
        self.began = at
        self._threshold = gate.threshold
        self._exit_threshold = gate.exit_threshold
        self._min_speech = gate.min_speech_ms * _PER_MS
        self._end = at  # of the last window
        self._phase = TurnPhase.NONE
        self._onset: int | None = None  # of what may be speech
        self._voiced_end = at
        self._likely = False
        self._sound = 0.0  # log odds of the end of the turn, by how the pause sounds
        self._text, self._text_upto = "", at

    @property
    def open(self) -> bool:
        """Whether a turn has begun and not ended."""
        return self._phase is not TurnPhase.NONE

    @property
    def state(self) -> TurnState:
        """What another tracker goes on from."""
        return TurnState(
            self.turn,
            self._end,
            self._phase,
            self.began,
            self._onset,
            self._voiced_end,
            self._likely,
            self.asks,
            self._sound,
            self.options,
        )

    def resume(self, state: TurnState) -> None:
        """Go on from there: windows before ``state.end`` are not to be pushed again."""
        self.options, self.turn, self.asks = state.options, state.turn, state.asks
        self.began, self._phase, self._likely = state.began, state.phase, state.likely
        self._end, self._onset, self._voiced_end = state.end, state.onset, state.voiced_end
        self._sound = state.sound

    @property
    def end(self) -> int:
        """The sample after the last window."""
        return self._end

    @property
    def asked_end(self) -> int:
        """The sample before which the network hears what ``asks`` is about."""
        return min(self._end, self._voiced_end + PAUSE)

    def push(self, probability: float) -> list[TurnEvent]:
        """Take the probability of speech in the next window of 512 samples."""
        start = self._end
        self._end += WINDOW
        if self._phase is TurnPhase.SPEECH:
            if probability >= self._exit_threshold:
                self._voiced_end = self._end
            elif self._end - self._voiced_end >= PAUSE:
                self._phase, self.asks = TurnPhase.PAUSE, True
            return []
        if self._onset is None and probability >= self._threshold:
            self._onset = start
        elif probability < self._exit_threshold:
            self._onset = None
        if self._onset is not None and self._end - self._onset >= self._min_speech:
            return self._speak(self._onset)
        return self._decide() if self._phase is TurnPhase.PAUSE else []

    def _speak(self, onset: int) -> list[TurnEvent]:
        begins, resumes = not self.open, self._likely
        self._phase, self._onset, self._likely = TurnPhase.SPEECH, None, False
        self._voiced_end = self._end
        if begins:
            self.began = onset
            return [TurnStarted(self.turn, onset)]
        return [TurnResumed(self.turn, onset)] if resumes else []

    def judge(self, probability: float) -> list[TurnEvent]:
        """Take the network's probability that a turn ends with the audio so far."""
        self.asks = False
        held = min(max(probability, _SURE), 1 - _SURE)
        self._sound = _SOUND * math.log(held / (1 - held))
        return self._decide()

    def hear(self, text: str, upto: int) -> None:
        """The text of the turn so far, or its end, which is of the audio before sample ``upto``."""
        self._text, self._text_upto = text[-_MAX_TAIL:], upto

    @property
    def confidence(self) -> float:
        """That the turn has ended with the speech so far; 0 while somebody speaks."""
        if self._phase is not TurnPhase.PAUSE:
            return 0.0
        odds = self._sound + (self._end - self._voiced_end - PAUSE) / (_PAUSE_S * SAMPLE_RATE)
        # A text that lacks the last words says nothing of how the turn ends.
        if self._text_upto >= self._voiced_end:
            odds += text_odds(self._text)
        return round(1 / (1 + math.exp(-odds)), 4)

    def _decide(self) -> list[TurnEvent]:
        if self._onset is not None:
            return []  # it may be speech
        confidence = self.confidence
        if confidence >= self.options.threshold:
            return [self._finish(confidence, "confidence")]
        if self._end - self._voiced_end >= self.options.max_wait_ms * _PER_MS:
            return [self._finish(confidence, "timeout")]
        eager = self.options.eager_threshold
        if eager is not None and confidence >= eager and not self._likely:
            self._likely = True
            return [TurnLikelyEnded(self.turn, self._voiced_end, self._end, confidence)]
        return []

    def interrupt(self, total: int, by: EndedBy) -> list[TurnEvent]:
        """End the turn here, at sample ``total``, if there is one. What may be speech counts."""
        begun, self._onset = self._onset, None
        if not self.open:
            if begun is None:
                return []
            # The gate counts it as a word.
            started, self._voiced_end = TurnStarted(self.turn, begun), total
            self.began = begun
            return [started, self._finish(0.0, by, total)]
        if self._phase is TurnPhase.SPEECH and self._voiced_end == self._end:
            self._voiced_end = total
        return [self._finish(self.confidence, by, total)]

    def _finish(self, confidence: float, by: EndedBy, upto: int | None = None) -> TurnEnded:
        upto = self._end if upto is None else upto
        ended = TurnEnded(self.turn, self._voiced_end, upto, confidence, by)
        self._phase, self._likely, self.asks = TurnPhase.NONE, False, False
        self._text, self._text_upto = "", upto
        self.turn += 1
        return ended


# How a text ends hardly says that nothing follows, but some ends say that something does.
_SENTENCE = re.compile("[.?!\u3002\uff1f\uff01\u061f\u0964][\"'\u201d\u2019)\\]]*$")
_TRAILING = re.compile("(\\.\\.\\.|[\u2026\u2013\u2014-])$")
_COMMA = re.compile("[,;:]$")
_DIGITS = """
zero oh one two three four five six seven eight nine
null ein eins zwei drei vier fünf sechs sieben acht neun
zéro un deux trois quatre cinq sept huit neuf
cero uno dos tres cuatro cinco seis siete ocho nueve
"""
_NUMBER = re.compile(rf"\b(\d[\d\s,-]*|({'|'.join(_DIGITS.split())}))$")
# Words that hardly ever end what somebody says, in English, German, French and Spanish.
_HANGING_WORDS = """
a the and or but because if when while although which who whose my your their our than um uh er
und oder aber weil dass ob wenn als der die das eine einen einem einer mein meine ihrem ihren ihrer
unserem unseren äh ähm
et ou mais parce que qui le la les une des du de à euh
y o pero porque el los las una del al
"""
# Words that may ("turn it on", "ruf mich an"): those count where no full stop is behind them.
_MAY_HANG_WORDS = """
an that so his of to in on at with from for by as is are was were be been has have had will would
can could should
für von zu mit bei nach
dans pour avec sur
con por para
"""
_HANGING = frozenset(_HANGING_WORDS.split())
_MAY_HANG = frozenset(_MAY_HANG_WORDS.split())
# An end that trails off or hangs is hardly ever a turn's: at pauses of telephone prompts, drafts by
# Whisper had one in 58 of 163 in mid-turn and in none of 47 behind a turn (benchmarks/SPEED.md).
_SENTENCE_ODDS, _COMMA_ODDS, _NUMBER_ODDS, _UNFINISHED_ODDS = 0.3, -0.7, -0.7, -2.5


def text_odds(text: str) -> float:
    """By how much (in log odds) a text's end makes the end of the turn likelier, or less likely.

    A sentence's end does so; a comma, a number that may go on and, most of all, a hanging "and" or
    an ellipsis does not; 0: the text says nothing. Recognisers put a full stop behind much, so a
    hanging word counts before it.
    """
    text = text.strip().lower()
    words = re.findall(r"\w+", text)
    if not words:
        return 0.0
    if words[-1] in _HANGING or _TRAILING.search(text):
        return _UNFINISHED_ODDS
    if _COMMA.search(text):
        return _COMMA_ODDS
    ends = _SENTENCE.search(text) is not None
    if words[-1] in _MAY_HANG:
        return 0.0 if ends else _UNFINISHED_ODDS
    if number := _NUMBER.search(text.rstrip(".!?")):
        # One number ends a sentence often, several are of one that is read out.
        alone = not _NUMBER.search(text[: number.start()].rstrip(" ,"))
        return 0.0 if ends and alone and " " not in number[0] else _NUMBER_ODDS
    return _SENTENCE_ODDS if ends else 0.0


@dataclass(slots=True)
class TurnText:
    """What was said since the last turn ended: ``words`` that stand, and a ``draft``."""

    words: list[str] = field(default_factory=list)
    draft: str = ""

    @property
    def tail(self) -> str:
        """Its last characters."""
        tail = self.draft
        for word in reversed(self.words):
            if len(tail) >= _MAX_TAIL:
                break
            tail = word + tail
        return tail

    def take(self) -> str:
        """All words that stand, which are the turn's that has ended."""
        text = "".join(self.words).strip()
        self.words.clear()
        return text


class TurnLane:
    """The turns of one stream: its tracker, its last audio, and the network's answers.

    Raises TurnsMissing. At most 9 s of audio are kept.
    """

    def __init__(
        self,
        detector: TurnDetector,
        options: TurnOptions,
        gate: GateOptions,
        at: int = 0,
    ) -> None:
        detector.prepare()
        self.tracker = TurnTracker(options, gate, at)
        self.text = TurnText()
        self._detector = detector
        self._blocks: deque[Samples] = deque()
        self._kept = 0  # samples in them
        self._received = at
        self._told = 0  # windows that the tracker has had at another server
        self.told_ends: deque[ToldEnd] = deque()
        """Turns that end once more, of which the client was told by another server."""

    def resume(
        self, state: TurnState | None, told: TurnsTold, words: Iterable[str], window: int, upto: int
    ) -> list[ToldEnd]:
        """Go on from a checkpoint, None: from the beginning, and from what a client was told.

        ``window`` is where the next window begins. ``words``: those since the last turn that is
        closed, of the audio before sample ``upto``. Returns the turns that had ended before the
        window and are not closed.
        """
        behind = told.state(state or self.tracker.state)
        self._told = (behind.end - window) // WINDOW
        self.tracker.resume(behind)
        self.text.words += words
        self.tracker.hear(self.text.tail, upto)
        self.told_ends.extend(one for one in told.ended if one.upto > window)
        return [one for one in told.ended if one.upto <= window and not one.closed]

    def receive(self, samples: Samples) -> None:
        """Keep float32 samples [n] at 16 kHz, a second at the most."""
        self._blocks.append(np.array(samples, np.float32))
        self._kept += len(samples)
        self._received += len(samples)
        while self._kept - len(self._blocks[0]) >= CONTEXT + SAMPLE_RATE:
            self._kept -= len(self._blocks.popleft())

    def push(self, probability: float) -> list[TurnEvent]:
        """Take the next window's probability of speech; ``answer`` follows."""
        if self._told:
            self._told -= 1
            return []
        return self.tracker.push(probability)

    async def answer(self) -> list[TurnEvent]:
        """Ask the network, if that is wanted. Raises NetworkFailed."""
        if self._told or not self.tracker.asks:
            return []
        behind = self._received - self.tracker.asked_end
        audio = np.concatenate(self._blocks)
        audio = audio[: len(audio) - behind][-CONTEXT:]
        return self.tracker.judge(await self._detector.ask(audio))

    def hear(self, upto: int) -> None:
        """The text has changed, or the audio is recognised before sample ``upto``."""
        self.tracker.hear(self.text.tail, upto)
