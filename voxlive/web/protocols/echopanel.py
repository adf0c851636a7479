"""EchoPanel's binary frames: "EP", a version, a source, in version 2 a mode, then s16le at 16 kHz.

A frame without a known header is raw audio of the system, header-like bytes and all.

What is heard of one of a client's sources: what still may change, and what is final.

EchoPanel's protocol, ``WS /ws/live-listener``.

A connection carries one or two sources, the system's sound and the microphone; each is a session of
its own, opened by its first audio.
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
from voxlive.streaming.session import MAX_BACKLOG
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
_SAMPLE = 2


def split(frame: bytes) -> tuple[str, bytes]:
    """A frame as (source, whole samples): half a sample would shift all that follow."""
    size = _header(frame)
    source = SOURCES[frame[3]] if size else SOURCES[0]
    return source, frame[size : len(frame) - (len(frame) - size) % _SAMPLE]


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


Said = dict[str, object]

# A final that a speaker does not end by a pause.
_LONGEST = 10 * SAMPLE_RATE
_SOURCE_SAMPLE = 2


class EchoPanelSource:
    """One source, whose first sample is sample ``begin`` of the connection."""

    def __init__(self, name: str, begin: int) -> None:
        self.name = name
        self._begin = begin
        self.behind_s = 0.0
        self._bytes = 0
        self._open: list[Word] = []
        self._draft = ""
        self._upto = 0
        self._changed = False

    @property
    def received(self) -> int:
        """Where its audio ends on the connection's clock."""
        return self._begin + self._bytes // _SOURCE_SAMPLE

    def hear(self, audio: bytes) -> None:
        """Count audio that was received."""
        self._bytes += len(audio)

    def draft(self, text: str) -> None:
        """What may still change after the words."""
        self._changed |= text != self._draft
        self._draft = text

    def commit(self, words: Sequence[Word]) -> list[Said]:
        """Add words; the finals that have become long enough."""
        finals: list[Said] = []
        for word in words:
            if self._open and word.end - self._open[0].start > _LONGEST:
                finals += self.close()
            self._open.append(word)
        self._changed = True
        return finals

    def close(self) -> list[Said]:
        """The open words as a final, if there are any."""
        if not self._open:
            return []
        words, self._open = self._open, []
        self._upto = words[-1].end
        known = [word.probability for word in words if word.probability is not None]
        sure = round(sum(known) / len(known), 4) if len(known) == len(words) else None
        start, end = self._begin + words[0].start, self._begin + words[-1].end
        return [self._said(_text(words), start, end, sure)]

    def partial(self) -> Said | None:
        """What is not final, if it has changed. It ends with the audio: a draft has no times."""
        if not self._changed:
            return None
        self._changed = False
        start = self._begin + (self._open[0].start if self._open else self._upto)
        return self._said(_text(self._open) + self._draft, start, max(start, self.received), None)

    def _said(self, text: str, start: int, end: int, confidence: float | None) -> Said:
        return {
            "text": text.strip(),
            "t0": seconds(start),
            "t1": seconds(end),
            "confidence": confidence,
            "source": self.name,
        }


def _text(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)


_AUDIO = AudioFormat("s16le", SAMPLE_RATE)
_MAX_TEXT = 11_000_000  # 8 MB of audio in base64
_LONGEST_ID = 200
_TICK_S = 0.1
_TICKS_TO_METRICS = 10
_FRAMES_A_SECOND = 50  # its clients send 20 ms at a time
_CODES = {"invalid_api_key": 1008, "forbidden": 1008}
# From how many seconds behind a client is told so.
_BUFFERING_S, _OVERLOADED_S = 3.0, 15.0


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
        self._finals: list[Said] = []
        self._state = "streaming"
        self._ticks = 0
        self._ending: str | None = None
        self._sessions = 0  # that are still to be told their end

    def connected(self) -> list[Out]:
        """The first status; no audio is to come before the answer to ``start``."""
        return [self._status("connected")]

    def received(self, frame: str | bytes) -> list[Action]:
        """``start``, then audio, then ``stop``; what comes after that is late, and dropped."""
        if self._ended:
            return []
        try:
            if isinstance(frame, bytes) and not is_json(frame):
                return self._hear(*split(frame))
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
                return self._hear(str(source), data[: len(data) // 2 * 2])
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
            ids = {name: string(message, name, _LONGEST_ID) for name in names}
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

    def _hear(self, name: str, audio: bytes) -> list[Action]:
        if not self._started:
            raise ValueError("audio may come after start only")
        opening: list[Action] = []
        if name not in self._sources:
            opening = [OpenSession(self._options, name)]
            # A source that begins later stands beside the others where they are by now.
            begin = max((source.received for source in self._sources.values()), default=0)
            self._sources[name] = EchoPanelSource(name, begin)
        self._sources[name].hear(audio)
        return [*opening, AudioFrame(audio, name)]

    def opened(self, _session: str, _options: SessionOptions) -> list[Out]:
        """Nothing: ``start`` has been answered."""
        self._sessions += 1
        return []

    def on_event(self, event: Event) -> list[Out]:
        """Of the session of a client that has sent nothing."""
        return self.on_source_event("", event)

    def on_source_event(self, name: str, event: Event) -> list[Out]:
        """Finals as their words are complete; partials and metrics by the next tick."""
        source = self._sources.get(name) or EchoPanelSource(name, 0)
        match event:
            case Words(_, words):
                return self._final(source.commit(words))
            case Draft(_, text):
                source.draft(text)
            case SegmentClosed():
                return self._final(source.close())
            case Lag(behind_s):
                source.behind_s = behind_s
                return self._keep_up()
            case SessionError(code, message, fatal):
                self._ending = self._ending or code
                return self.failed(code, message) if fatal else self.refused(code, message)
            case SessionWarning(code, message):
                return self.refused(code, message)
            case SessionClosed():
                self._sessions -= 1
                return [] if self._sessions else self._finish()
        return []

    def _final(self, finals: Sequence[Said]) -> list[Out]:
        self._finals += finals
        return [self._message("asr_final", **final) for final in finals]

    def _keep_up(self) -> list[Out]:
        """How it goes, if that has changed."""
        behind_s = max((source.behind_s for source in self._sources.values()), default=0.0)
        busy = "overloaded" if behind_s >= _OVERLOADED_S else "buffering"
        state = busy if behind_s >= _BUFFERING_S else "streaming"
        if state == self._state:
            return []
        self._state = state
        return [self._status(state)]

    def _finish(self) -> list[Out]:
        finals = sorted(self._finals, key=_begin)
        summary = self._message(
            "final_summary", markdown=_markdown(finals), json={"transcript": finals}
        )
        code = close_code(self._ending) if self._ending and not self._ended else 1000
        return [summary, CloseSocket(code)]

    def tick(self) -> list[Out]:
        """Partials that have changed, and once a second how each source is kept up with."""
        self._ticks += 1
        partials = [source.partial() for source in self._sources.values()]
        outs: list[Out] = [self._message("asr_partial", **said) for said in partials if said]
        if self._ticks % _TICKS_TO_METRICS == 0:
            outs += [self._metrics(source) for source in self._sources.values()]
        return outs

    def _metrics(self, source: EchoPanelSource) -> str:
        """The queue in frames of 20 ms. Nothing is ever dropped; engines do not tell the rest."""
        most = MAX_BACKLOG * _FRAMES_A_SECOND // SAMPLE_RATE
        depth = round(source.behind_s * _FRAMES_A_SECOND)
        return self._message(
            "metrics",
            source=source.name,
            queue_depth=depth,
            queue_max=most,
            queue_fill_ratio=min(1.0, round(depth / most, 3)),
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
        told = message[:MAX_ERROR_CHARS]
        status = self._status("error", message=told, code=code)
        said = self._message("error", message=told, code=code) if code == "bad_start" else status
        return [said, CloseSocket(_CODES.get(code, close_code(code)))]

    def _status(self, state: str, **values: object) -> str:
        return self._message("status", state=state, **values)

    def _message(self, kind: str, **values: object) -> str:
        message = {"type": kind, **values, **self._ids}
        return encode_json(message)


def _check_format(message: Json) -> None:
    form = message.get("format", "pcm_s16le")
    if form != "pcm_s16le":
        raise ValueError(f'"format" must be "pcm_s16le", not {quoted(form)}')
    integer(message, "sample_rate", SAMPLE_RATE, SAMPLE_RATE, SAMPLE_RATE)
    integer(message, "channels", 1, 1, 1)


def _markdown(finals: Sequence[Said]) -> str:
    lines = ["# Transcript", ""]
    for final in finals:
        minutes, s = divmod(int(_begin(final)), 60)
        lines.append(f"- {minutes}:{s:02} {final['source']}: {final['text']}")
    return "\n".join(lines)


def _begin(final: Said) -> float:
    t0 = final["t0"]
    assert isinstance(t0, float)
    return t0
