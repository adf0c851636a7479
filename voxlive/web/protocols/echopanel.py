"""EchoPanel's protocol, ``WS /ws/live-listener``.

A connection carries one or two sources, the system's sound and the microphone; each is a session of
its own, opened by its first audio. They cannot be channels of one session: ``start`` does not say
which will come, a frame is of one source and has no place on a clock, and either source may begin
late or pause, so that nobody knows which samples of the two belong together.

A binary frame is "EP", a version, a source, in version 2 a mode, then s16le at 16 kHz; one without
a known header is raw audio of the system, all of it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from voxlive.engines.contract import EngineInfo, StreamOptions
from voxlive.errors import ProtocolError, close_code
from voxlive.streaming.events import (
    Draft,
    Event,
    Lag,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SessionWarning,
    Words,
)
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.streaming.recovery import MAX_BACKLOG
from voxlive.values import SAMPLE_RATE, Word, seconds
from voxlive.web.protocols.contract import (
    MAX_ERROR_CHARS,
    Action,
    AudioFrame,
    CloseSocket,
    OpenSession,
    Out,
    Protocol,
    Refuse,
    Reply,
    StopSession,
)
from voxlive.web.protocols.fields import (
    Json,
    decode_base64,
    encode_json,
    integer,
    is_json,
    language,
    parse_message,
    quoted,
    string,
)

SOURCES = ("system", "mic")
_MAGIC = b"EP"
_MODES = 3  # who transcribes: the server, the device or both
_AUDIO = AudioFormat("s16le", SAMPLE_RATE)
_SAMPLE_BYTES = 2
_MAX_FINAL = 10 * SAMPLE_RATE  # of speech without a pause
_MAX_TEXT = 11_000_000  # 8 MB of audio in base64
_MAX_ID_CHARS = 200
_TICK_S = 0.1
_TICKS_TO_METRICS = 10
_FRAMES_A_SECOND = 50  # its clients send 20 ms at a time
_CLOSE_CODES = {"invalid_api_key": 1008, "forbidden": 1008}
# How many seconds behind a session is reported as buffering, and as overloaded.
_BUFFERING_S, _OVERLOADED_S = 3.0, 15.0

AsrResult = dict[str, object]


def split_frame(frame: bytes) -> tuple[str, bytes]:
    """A frame as (source, whole samples): half a sample would shift all that follow."""
    size = _header(frame)
    source = SOURCES[frame[3]] if size else SOURCES[0]
    return source, frame[size : len(frame) - (len(frame) - size) % _SAMPLE_BYTES]


def _header(frame: bytes) -> int:
    """The length of the header; 0 for none."""
    if len(frame) < 4 or not frame.startswith(_MAGIC) or frame[3] >= len(SOURCES):
        return 0
    match frame[2]:
        case 1:
            return 4
        case 2 if len(frame) >= 5 and frame[4] < _MODES:
            return 5
        case _:
            return 0


class EchoPanelSource:
    """The open words and the draft of one source.

    Its first sample is sample ``begin`` of the connection.
    """

    def __init__(self, name: str, begin: int) -> None:
        self.name = name
        self._begin = begin
        self.behind_s = 0.0
        self._bytes = 0
        self._words: list[Word] = []
        self._draft = ""
        self._upto = 0
        self._changed = False

    @property
    def received(self) -> int:
        """Where its audio ends on the connection's clock."""
        return self._begin + self._bytes // _SAMPLE_BYTES

    def on_audio(self, audio: bytes) -> None:
        """Count audio that was received."""
        self._bytes += len(audio)

    def on_draft(self, text: str) -> None:
        """What may still change after the words."""
        self._changed |= text != self._draft
        self._draft = text

    def on_words(self, words: Sequence[Word]) -> list[AsrResult]:
        """Add words; returns the finals that have become long enough."""
        finals: list[AsrResult] = []
        for word in words:
            if self._words and word.end - self._words[0].start > _MAX_FINAL:
                finals += self.close()
            self._words.append(word)
        self._changed = True
        return finals

    def close(self) -> list[AsrResult]:
        """The open words as a final, if there are any."""
        if not self._words:
            return []
        words, self._words = self._words, []
        self._upto = words[-1].end
        known = [word.probability for word in words if word.probability is not None]
        confidence = round(sum(known) / len(known), 4) if len(known) == len(words) else None
        start, end = self._begin + words[0].start, self._begin + words[-1].end
        return [self._result(_text(words), start, end, confidence)]

    def partial(self) -> AsrResult | None:
        """What is not final, if it has changed. It ends with the audio: a draft has no times."""
        if not self._changed:
            return None
        self._changed = False
        start = self._begin + (self._words[0].start if self._words else self._upto)
        return self._result(
            _text(self._words) + self._draft, start, max(start, self.received), None
        )

    def _result(self, text: str, start: int, end: int, confidence: float | None) -> AsrResult:
        return {
            "text": text.strip(),
            "t0": seconds(start),
            "t1": seconds(end),
            "confidence": confidence,
            "source": self.name,
        }


class EchoPanelProtocol(Protocol):
    """One client of EchoPanel's protocol."""

    name = "echopanel"
    max_text: ClassVar[int] = _MAX_TEXT
    tick_s: ClassVar[float | None] = _TICK_S
    key_params: ClassVar[tuple[str, ...]] = ("token",)
    key_headers: ClassVar[tuple[str, ...]] = ("x-echopanel-token",)

    def __init__(self, _params: Mapping[str, str], _info: EngineInfo) -> None:
        self._options = SessionOptions(_AUDIO)
        self._ids: dict[str, object] = {}
        self._started = self._ended = False
        self._sources: dict[str, EchoPanelSource] = {}
        self._finals: list[AsrResult] = []
        self._state = "streaming"
        self._ticks = 0
        self._ending: str | None = None
        self._sessions = 0  # whose end has not been sent

    def connected(self) -> list[Out]:
        """The first status; no audio is to come before the answer to ``start``."""
        return [self._status("connected")]

    def received(self, frame: str | bytes) -> list[Action]:
        """``start``, then audio, then ``stop``; what comes after that is late, and dropped."""
        if self._ended:
            return []
        try:
            if isinstance(frame, bytes) and not is_json(frame):
                return self._on_audio(*split_frame(frame))
            return self._command(*parse_message(frame))
        except ValueError as error:
            return [Refuse("bad_message", str(error))]

    def _command(self, kind: str, message: Json) -> list[Action]:
        match kind:
            case "start":
                return [Reply(self._start(message))]
            case "audio":
                source = message.get("source", SOURCES[0])
                if source not in SOURCES:
                    raise ValueError(f'"source" must be one of {", ".join(SOURCES)}')
                data = decode_base64(message, "data")
                return self._on_audio(str(source), data[: len(data) // 2 * 2])
            case "stop":
                self._ended = True
                return (
                    [StopSession()]
                    if self._sources
                    else [OpenSession(self._options), StopSession()]
                )
            case _:
                raise ValueError(f"{quoted(kind)} is not served: use start, audio and stop")

    def _start(self, message: Json) -> str:
        if self._started:
            raise ValueError("the session has started; connect again for another one")
        try:
            _check_format(message)
            names = ("session_id", "attempt_id", "connection_id")
            ids = {name: string(message, name, _MAX_ID_CHARS) for name in names}
            stream = StreamOptions(language(message))
        except ValueError as error:
            raise ProtocolError("bad_start", str(error)) from error
        self._started = True
        self._options = SessionOptions(_AUDIO, stream=stream)
        connection = ids.pop("connection_id") or secrets.token_hex(8)
        self._ids = {name: value for name, value in ids.items() if value is not None}
        features = message.get("client_features")
        return self._status(
            "streaming",
            connection_id=connection,
            client_features=features if isinstance(features, dict) else {},
        )

    def _on_audio(self, name: str, audio: bytes) -> list[Action]:
        if not self._started:
            raise ValueError("audio may come after start only")
        opening: list[Action] = []
        if name not in self._sources:
            opening = [OpenSession(self._options, name)]
            # A source that begins later stands beside the others where they are by now.
            begin = max((source.received for source in self._sources.values()), default=0)
            self._sources[name] = EchoPanelSource(name, begin)
        self._sources[name].on_audio(audio)
        return [*opening, AudioFrame(audio, name)]

    def opened(self, _session: str, _options: SessionOptions) -> list[Out]:
        """Nothing: ``start`` has been answered."""
        self._sessions += 1
        return []

    def on_event(self, event: Event) -> list[Out]:
        """An event of the session of a client that has sent no audio."""
        return self.on_source_event("", event)

    def on_source_event(self, name: str, event: Event) -> list[Out]:
        """Finals as their words are complete; partials and metrics by the next tick."""
        source = self._sources.get(name) or EchoPanelSource(name, 0)
        match event:
            case Words(_, words):
                return self._encode_finals(source.on_words(words))
            case Draft(_, text):
                source.on_draft(text)
            case SegmentClosed():
                return self._encode_finals(source.close())
            case Lag(behind_s):
                source.behind_s = behind_s
                return self._lag_status()
            case SessionError(code, message, fatal):
                self._ending = self._ending or code
                return self.failed(code, message) if fatal else self.refused(code, message)
            case SessionWarning(code, message):
                return self.refused(code, message)
            case SessionClosed():
                self._sessions -= 1
                return [] if self._sessions else self._summary_and_close()
        return []

    def _encode_finals(self, finals: Sequence[AsrResult]) -> list[Out]:
        self._finals += finals
        return [self._encode("asr_final", **final) for final in finals]

    def _lag_status(self) -> list[Out]:
        """A status with how far the sources are behind, if that has changed."""
        behind_s = max((source.behind_s for source in self._sources.values()), default=0.0)
        busy = "overloaded" if behind_s >= _OVERLOADED_S else "buffering"
        state = busy if behind_s >= _BUFFERING_S else "streaming"
        if state == self._state:
            return []
        self._state = state
        return [self._status(state)]

    def _summary_and_close(self) -> list[Out]:
        finals = sorted(self._finals, key=_begin)
        summary = self._encode(
            "final_summary", markdown=_markdown(finals), json={"transcript": finals}
        )
        code = close_code(self._ending) if self._ending and not self._ended else 1000
        return [summary, CloseSocket(code)]

    def tick(self) -> list[Out]:
        """Partials that have changed, and once a second the metrics of each source."""
        self._ticks += 1
        partials = [source.partial() for source in self._sources.values()]
        outs: list[Out] = [self._encode("asr_partial", **result) for result in partials if result]
        if self._ticks % _TICKS_TO_METRICS == 0:
            outs += [self._metrics(source) for source in self._sources.values()]
        return outs

    def _metrics(self, source: EchoPanelSource) -> str:
        """The queue in frames of 20 ms. Nothing is ever dropped; the rest is not known."""
        queue_max = MAX_BACKLOG * _FRAMES_A_SECOND // SAMPLE_RATE
        depth = round(source.behind_s * _FRAMES_A_SECOND)
        return self._encode(
            "metrics",
            source=source.name,
            queue_depth=depth,
            queue_max=queue_max,
            queue_fill_ratio=min(1.0, round(depth / queue_max, 3)),
            dropped_total=0,
            dropped_recent=0,
            avg_infer_ms=None,
            realtime_factor=None,
            timestamp=time.time(),
        )

    def refused(self, _code: str, message: str) -> list[Out]:
        """A warning; the session goes on."""
        return [self._status("warning", message=message[:MAX_ERROR_CHARS])]

    def failed(self, code: str, message: str) -> list[Out]:
        """An error and the close."""
        text = message[:MAX_ERROR_CHARS]
        status = self._status("error", message=text, code=code)
        error = self._encode("error", message=text, code=code) if code == "bad_start" else status
        return [error, CloseSocket(_CLOSE_CODES.get(code, close_code(code)))]

    def _status(self, state: str, **values: object) -> str:
        return self._encode("status", state=state, **values)

    def _encode(self, kind: str, **values: object) -> str:
        message = {"type": kind, **values, **self._ids}
        return encode_json(message)


def _check_format(message: Json) -> None:
    form = message.get("format", "pcm_s16le")
    if form != "pcm_s16le":
        raise ValueError(f'"format" must be "pcm_s16le", not {quoted(form)}')
    integer(message, "sample_rate", SAMPLE_RATE, SAMPLE_RATE, SAMPLE_RATE)
    integer(message, "channels", 1, 1, 1)


def _markdown(finals: Sequence[AsrResult]) -> str:
    lines = ["# Transcript", ""]
    for final in finals:
        minutes, s = divmod(int(_begin(final)), 60)
        lines.append(f"- {minutes}:{s:02} {final['source']}: {final['text']}")
    return "\n".join(lines)


def _begin(final: AsrResult) -> float:
    t0 = final["t0"]
    assert isinstance(t0, float)
    return t0


def _text(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)
