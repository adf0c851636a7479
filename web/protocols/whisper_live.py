"""WhisperLive's protocol, which has a port of its own: any path there.

A segment is said with its words first as the last, incomplete one and then as complete, because its
clients keep the last incomplete segment that they saw until another one takes its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import ClassVar

from ...streaming.clock import SAMPLE_RATE
from ...streaming.engine import EngineInfo
from ...streaming.events import (
    Draft,
    Event,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SessionWarning,
    SpeechStarted,
    Word,
    Words,
)
from ...streaming.ingest import ENCODINGS
from ...streaming.options import SessionOptions
from .compact import compact
from .contract import (
    ENDINGS,
    LONGEST_ERROR,
    MAX_BINARY,
    Action,
    Audio,
    Close,
    Denial,
    Open,
    Out,
    Protocol,
    ProtocolError,
    Refuse,
    Stop,
    Welcome,
    close_code,
)
from .whisper_live_options import MAX_OPTIONS, Wishes, read

END_OF_AUDIO = "END_OF_AUDIO"
_TICK_S = 0.1
_PATIENCE_S = 30.0
# A segment that a speaker does not end by a pause; it is sent anew with every change.
_LONGEST = 10 * SAMPLE_RATE
# The protocol wants minutes, and nobody knows how long the others will speak.
_WAIT_MIN = 1
_CLOSE_WAIT_S = 2.0
_STATUS = {
    "invalid_api_key": 401,
    "forbidden": 403,
    "rate_limit_exceeded": 429,
    "too_many_sessions": 429,
}

_Segment = dict[str, object]


class WhisperLiveProtocol(Protocol):
    """One client of WhisperLive's protocol."""

    name = "whisper_live"
    max_text: ClassVar[int] = MAX_OPTIONS
    max_binary: ClassVar[int] = MAX_BINARY
    tick_s: ClassVar[float | None] = _TICK_S
    refused_by_name: ClassVar[bool] = True
    key_params: ClassVar[tuple[str, ...]] = ("token",)

    def __init__(self, _params: Mapping[str, str], info: EngineInfo) -> None:
        self._info = info
        self._wishes: Wishes | None = None
        self._uid: str | None = None
        self._ended = self._changed = False
        self._ending: str | None = None
        self._bytes = 0
        self._speech: int | None = None  # where the open segment's speech began
        self._upto = 0
        self._open: list[Word] = []
        self._draft = ""
        self._complete: deque[_Segment] = deque()

    def welcome(self, offered: Sequence[str]) -> Welcome:
        """A browser offers ``bearer`` and its key: the first is selected."""
        return Welcome("bearer" if "bearer" in offered else None)

    def denied(self, code: str, message: str) -> Denial | None:
        """A client that may not connect gets an HTTP error: it has not said its name yet."""
        status = _STATUS.get(code)
        return Denial(status, {"error": {"code": code, "message": message}}) if status else None

    @property
    def patience_s(self) -> float | None:
        """The options must come soon; audio may pause."""
        return None if self._wishes else _PATIENCE_S

    def connected(self) -> list[Out]:
        """Nothing: the client speaks first."""
        return []

    def received(self, frame: str | bytes) -> list[Action]:
        """Options, then audio, then END_OF_AUDIO. What comes after that is late, and dropped."""
        if self._wishes is None:
            return [self._begin(frame)]
        if self._ended:
            return []
        if frame in (END_OF_AUDIO, END_OF_AUDIO.encode()):
            self._ended = True
            return [Stop()]
        if isinstance(frame, str):
            return [Refuse("bad_message", "after the options only audio in binary frames is taken")]
        self._bytes += len(frame)
        return [Audio(frame)]

    def _begin(self, frame: str | bytes) -> Open:
        try:
            self._wishes = read(frame)
        except ValueError as error:
            raise ProtocolError("bad_start", str(error)) from error
        self._uid = self._wishes.uid
        self._complete = deque(maxlen=self._wishes.last)
        return Open(self._wishes.options)

    def opened(self, _session: str, _options: SessionOptions) -> list[Out]:
        """SERVER_READY, then what will not be done.

        Clients keep complete segments of the backend "faster_whisper" alone.
        """
        assert self._wishes
        outs: list[Out] = [self._message(message="SERVER_READY", backend="faster_whisper")]
        outs += [self._message(status="WARNING", message=why) for why in self._wishes.warnings]
        return outs

    def told(self, event: Event) -> list[Out]:
        """Complete segments are said at once, what may still change by the next tick."""
        match event:
            case SpeechStarted(at):
                self._speech = at if self._speech is None else self._speech
            case Words(_, words):
                return self._commit(words)
            case Draft(_, text):
                self._changed |= text != self._draft
                self._draft = text
            case SegmentClosed():
                self._speech = None
                self._draft = ""
                return self._close() if self._open else []
            case SessionError(code, message, fatal):
                return self._troubled(code, message, fatal)
            case SessionWarning(code, message):
                return self.refused(code, message)
            case SessionClosed():
                return self._finish()
        return []

    def _commit(self, words: Sequence[Word]) -> list[Out]:
        outs: list[Out] = []
        for word in words:
            if self._open and word.end - self._open[0].start > _LONGEST:
                outs += self._close()
            self._open.append(word)
        self._changed = True
        return outs

    def _close(self) -> list[Out]:
        said = self._segment(self._open, "")
        draft = self._update(said)
        self._complete.append({**said, "completed": True})
        self._upto = self._open[-1].end
        self._open = []
        self._changed = bool(self._draft)
        return [draft, self._update()]

    def tick(self) -> list[Out]:
        """What may still change, if it has. A draft that came to nothing gives way."""
        if not self._changed:
            return []
        self._changed = False
        if self._open or self._draft:
            return [self._update(self._segment(self._open, self._draft))]
        if not self._complete:
            return [self._update(self._segment((), ""))]
        last = self._complete.pop()
        update = self._update({**last, "completed": False})
        self._complete.append(last)
        return [update]

    def _segment(self, words: Sequence[Word], draft: str) -> _Segment:
        """An incomplete one. A draft has no times: it ends with the audio."""
        start = max(self._upto, words[0].start if words else self._speech or 0)
        end = max(start, self._received if draft or not words else words[-1].end)
        said: _Segment = {
            "start": _clock(start),
            "end": _clock(end),
            "text": "".join(word.text for word in words) + draft,
            "completed": False,
        }
        if self._wishes and self._wishes.words and words:
            said["words"] = [_word(word) for word in words]
        return said

    @property
    def _received(self) -> int:
        assert self._wishes
        width = ENCODINGS[self._wishes.options.audio.encoding].dtype.itemsize
        return self._bytes // width

    def _update(self, last: _Segment | None = None) -> str:
        return self._message(segments=[*self._complete, *([last] if last else [])])

    def _troubled(self, code: str, message: str, fatal: bool) -> list[Out]:
        if fatal:
            return self.failed(code, message)
        if code in ENDINGS:
            # A client that is told stops to listen, and the tail is still to come.
            self._ending = code
            return []
        return self.refused(code, message)

    def _finish(self) -> list[Out]:
        rest = self._close() if self._open else self.tick()
        if self._ending and not self._ended:
            bye = self._message(message="DISCONNECT")
            return [*rest, bye, Close(close_code(self._ending))]
        return [*rest, Close(1000)]

    def refused(self, _code: str, message: str) -> list[Out]:
        """A warning; the session goes on."""
        return [self._message(status="WARNING", message=message[:LONGEST_ERROR])]

    def failed(self, code: str, message: str) -> list[Out]:
        """WAIT with minutes if it is for want of room, else an error; and the close."""
        if code == "server_full":
            # Its clients look at intervals whether they are to wait, and forget it with the close.
            wait = self._message(status="WAIT", message=_WAIT_MIN)
            return [wait, Close(close_code(code), _CLOSE_WAIT_S)]
        error = self._message(status="ERROR", message=message[:LONGEST_ERROR])
        return [error, Close(close_code(code))]

    def _message(self, **values: object) -> str:
        message = {"uid": self._uid, **values}
        return compact(message)


def _word(word: Word) -> _Segment:
    return {
        "word": word.text,
        "start": _clock(word.start),
        "end": _clock(word.end),
        "probability": None if word.p is None else round(word.p, 4),
    }


def _clock(samples: int) -> str:
    return f"{samples / SAMPLE_RATE:.3f}"
