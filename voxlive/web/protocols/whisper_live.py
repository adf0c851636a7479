"""What a WhisperLive client's first message asks for.

WhisperLive's protocol, which has a port of its own: any path there.

A segment is said with its words first as the last, incomplete one and then as complete, because its
clients keep the last incomplete segment that they saw until another one takes its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from voxlive.engines.contract import EngineInfo, StreamOptions
from voxlive.errors import ProtocolError, close_code, status_of
from voxlive.streaming.events import (
    Draft,
    Event,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SessionWarning,
    SpeechStarted,
    Words,
)
from voxlive.streaming.ingest.formats import ENCODINGS, AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.vad.gate import GateOptionError, GateOptions
from voxlive.values import SAMPLE_RATE, Word
from voxlive.web.protocols.contract import (
    DENIAL_CODES,
    ENDING_CODES,
    MAX_ERROR_CHARS,
    Action,
    AudioFrame,
    CloseSocket,
    Denial,
    HandshakeResponse,
    OpenSession,
    Out,
    Protocol,
    Refuse,
    StopSession,
)
from voxlive.web.protocols.fields import (
    Json,
    encode_json,
    flag,
    integer,
    language,
    parse_object,
    quoted,
    string,
)

# The options may hold recordings of speakers.
MAX_OPTIONS = 8_000_000
_MOST_SEGMENTS = 1000
_LONGEST_UID = 200
_AUDIO = {"float32": "f32le", "int16": "s16le", "uint8": "u8"}
_GATE = {
    "threshold": "threshold",
    "neg_threshold": "exit_threshold",
    "min_speech_duration_ms": "min_speech_ms",
    "min_silence_duration_ms": "min_silence_ms",
    "speech_pad_ms": "pre_roll_ms",
}
# Below its threshold by so much is where the voice detector of WhisperLive lets speech end.
_HYSTERESIS = 0.15
_NOT_DONE = {
    "enable_translation": "this server does not translate: there will be no translated segments",
    "enable_diarization": "this server does not tell speakers apart",
}


@dataclass(frozen=True, slots=True)
class WhisperLiveOptions:
    """``last``: how many complete segments each update repeats; ``words``: with their words."""

    uid: str | None
    options: SessionOptions
    last: int
    words: bool
    warnings: tuple[str, ...]


def read(frame: str | bytes) -> WhisperLiveOptions:
    """The first frame; raises ValueError in words."""
    try:
        message = parse_object(frame)
    except ValueError as error:
        raise ValueError("the first message must be the options as JSON, then audio") from error
    if message.get("task") == "translate":
        raise ValueError('this server does not translate: "task" must be "transcribe"')
    return WhisperLiveOptions(
        uid=string(message, "uid", _LONGEST_UID),
        options=SessionOptions(_audio(message), _gate(message), StreamOptions(language(message))),
        last=integer(message, "send_last_n_segments", 1, _MOST_SEGMENTS, 10),
        words=flag(message, "word_timestamps", False),
        warnings=tuple(why for name, why in _NOT_DONE.items() if flag(message, name, False)),
    )


def _audio(message: Json) -> AudioFormat:
    asked = message.get("audio_format", "float32")
    if not isinstance(asked, str) or asked not in _AUDIO:
        raise ValueError(f'"audio_format" must be one of {", ".join(_AUDIO)}, not {quoted(asked)}')
    return AudioFormat(_AUDIO[asked])


def _gate(message: Json) -> GateOptions | None:
    if not flag(message, "use_vad", True):
        return None
    asked = message.get("vad_parameters")
    if asked is None:
        return GateOptions()
    if not isinstance(asked, dict):
        raise ValueError(f'"vad_parameters" must be an object, not {quoted(asked)}')
    values = {ours: asked[name] for name, ours in _GATE.items() if asked.get(name) is not None}
    threshold = values.get("threshold")
    if isinstance(threshold, int | float):
        values.setdefault("exit_threshold", max(0.01, threshold - _HYSTERESIS))
    try:
        return GateOptions(**values)
    except GateOptionError as error:
        raise ValueError(f"vad_parameters: {error}") from error


END_OF_AUDIO = "END_OF_AUDIO"
_TICK_S = 0.1
_PATIENCE_S = 30.0
# A segment that a speaker does not end by a pause; it is sent anew with every change.
_LONGEST = 10 * SAMPLE_RATE
# The protocol wants minutes, and nobody knows how long the others will speak.
_WAIT_MIN = 1
_CLOSE_WAIT_S = 2.0
_Segment = dict[str, object]


class WhisperLiveProtocol(Protocol):
    """One client of WhisperLive's protocol."""

    name = "whisper_live"
    max_text: ClassVar[int] = MAX_OPTIONS
    tick_s: ClassVar[float | None] = _TICK_S
    full_after_options: ClassVar[bool] = True
    key_params: ClassVar[tuple[str, ...]] = ("token",)

    def __init__(self, _params: Mapping[str, str], info: EngineInfo) -> None:
        self._info = info
        self._wishes: WhisperLiveOptions | None = None
        self._uid: str | None = None
        self._ended = self._changed = False
        self._ending: str | None = None
        self._bytes = 0
        self._speech: int | None = None  # where the open segment's speech began
        self._upto = 0
        self._open: list[Word] = []
        self._draft = ""
        self._complete: deque[_Segment] = deque()

    def handshake_response(self, offered: Sequence[str]) -> HandshakeResponse:
        """A browser offers ``bearer`` and its key: the first is selected."""
        return HandshakeResponse("bearer" if "bearer" in offered else None)

    def denied(self, code: str, message: str) -> Denial | None:
        """A client that may not connect gets an HTTP error: it has not said its name yet."""
        if code not in DENIAL_CODES:
            return None
        return Denial(status_of(code), {"error": {"code": code, "message": message}})

    @property
    def receive_timeout_s(self) -> float | None:
        """The options must come soon; audio may pause."""
        return None if self._wishes else _PATIENCE_S

    def received(self, frame: str | bytes) -> list[Action]:
        """Options, then audio, then END_OF_AUDIO. What comes after that is late, and dropped."""
        if self._wishes is None:
            return [self._begin(frame)]
        if self._ended:
            return []
        if frame in (END_OF_AUDIO, END_OF_AUDIO.encode()):
            self._ended = True
            return [StopSession()]
        if isinstance(frame, str):
            return [Refuse("bad_message", "after the options only audio in binary frames is taken")]
        self._bytes += len(frame)
        return [AudioFrame(frame)]

    def _begin(self, frame: str | bytes) -> OpenSession:
        try:
            self._wishes = read(frame)
        except ValueError as error:
            raise ProtocolError("bad_start", str(error)) from error
        self._uid = self._wishes.uid
        self._complete = deque(maxlen=self._wishes.last)
        return OpenSession(self._wishes.options)

    def opened(self, _session: str, _options: SessionOptions) -> list[Out]:
        """SERVER_READY, then what will not be done.

        Clients keep complete segments of the backend "faster_whisper" alone.
        """
        assert self._wishes
        outs: list[Out] = [self._message(message="SERVER_READY", backend="faster_whisper")]
        outs += [self._message(status="WARNING", message=why) for why in self._wishes.warnings]
        return outs

    def on_event(self, event: Event) -> list[Out]:
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
        if code in ENDING_CODES:
            # A client that is told stops to listen, and the tail is still to come.
            self._ending = code
            return []
        return self.refused(code, message)

    def _finish(self) -> list[Out]:
        rest = self._close() if self._open else self.tick()
        if self._ending and not self._ended:
            bye = self._message(message="DISCONNECT")
            return [*rest, bye, CloseSocket(close_code(self._ending))]
        return [*rest, CloseSocket(1000)]

    def refused(self, _code: str, message: str) -> list[Out]:
        """A warning; the session goes on."""
        return [self._message(status="WARNING", message=message[:MAX_ERROR_CHARS])]

    def failed(self, code: str, message: str) -> list[Out]:
        """WAIT with minutes if it is for want of room, else an error; and the close."""
        if code == "server_full":
            # Its clients look at intervals whether they are to wait, and forget it with the close.
            wait = self._message(status="WAIT", message=_WAIT_MIN)
            return [wait, CloseSocket(close_code(code), _CLOSE_WAIT_S)]
        error = self._message(status="ERROR", message=message[:MAX_ERROR_CHARS])
        return [error, CloseSocket(close_code(code))]

    def _message(self, **values: object) -> str:
        message = {"uid": self._uid, **values}
        return encode_json(message)


def _word(word: Word) -> _Segment:
    return {
        "word": word.text,
        "start": _clock(word.start),
        "end": _clock(word.end),
        "probability": None if word.probability is None else round(word.probability, 4),
    }


def _clock(samples: int) -> str:
    return f"{samples / SAMPLE_RATE:.3f}"
