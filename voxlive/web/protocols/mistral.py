"""Mistral's realtime transcription, ``WS /v1/audio/transcriptions/realtime?model=``.

The session opens with the first audio, because until then it may be configured. ``flush`` is
answered by a ``transcription.done`` and the session stays open; a done holds the text since the one
before it, which is exactly its deltas joined.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from voxlive.engines.contract import EngineInfo, StreamOptions
from voxlive.errors import ProtocolError, close_code, status_of
from voxlive.recognisers.vocabulary import usable_terms, vocabulary_in
from voxlive.speakers.labels import SpeakersFound, SpokenWords, WordLabels, by_speaker
from voxlive.speakers.tracker import SpeakerOptions
from voxlive.streaming.events import (
    Event,
    Flushed,
    LanguageDetected,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SpeechStarted,
    SpeechStopped,
    Words,
)
from voxlive.streaming.ingest.formats import ENCODINGS, AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.turns.detector import find_model
from voxlive.turns.tracker import (
    EAGERNESS,
    TurnEnded,
    TurnLikelyEnded,
    TurnOptionError,
    TurnOptions,
    TurnResumed,
    TurnStarted,
)
from voxlive.vad.gate import GateOptionError, GateOptions
from voxlive.values import PAUSE_MS, Word, seconds
from voxlive.web.protocols.contract import (
    DENIAL_CODES,
    ENDING_CODES,
    MAX_APPEND,
    MAX_ERROR_CHARS,
    Action,
    CloseSocket,
    Denial,
    FlushSession,
    OpenSession,
    Out,
    Protocol,
    Refuse,
    Reply,
    StopSession,
    audio_frames,
    close_session,
)
from voxlive.web.protocols.fields import (
    Json,
    encode_message,
    flag,
    integer,
    language,
    may_be_json,
    parse_message,
    quoted,
)

_ENCODINGS = {f"pcm_{name}": name for name in ENCODINGS}
_NAMES = {name: wire_name for wire_name, name in _ENCODINGS.items()}
_DEFAULT_AUDIO = AudioFormat("s16le", 16_000)
# The protocol requires a number: the HTTP status, by which its clients decide on a retry.
_ERROR_NUMBERS = {"name_in_use": 500}


@dataclass(frozen=True, slots=True)
class _Config:
    """What ``session.update`` sets. ``turns`` None: the client gets no turn events.

    ``semantic``: a turn ends when its speaker has finished, not in any pause.
    """

    audio: AudioFormat = _DEFAULT_AUDIO
    delay_ms: int | None = None
    language: str | None = None
    turns: GateOptions | None = None
    semantic: TurnOptions | None = None
    vocabulary: tuple[str, ...] = ()
    speakers: SpeakerOptions | None = None

    @property
    def options(self) -> SessionOptions:
        stream = StreamOptions(
            self.language, self.delay_ms, drafts=False, vocabulary=self.vocabulary
        )
        gate = self.turns or GateOptions()
        return SessionOptions(self.audio, gate, stream, turns=self.semantic, speakers=self.speakers)


class MistralProtocol(Protocol):
    """One client of Mistral's protocol."""

    name = "mistral"
    max_text: ClassVar[int] = MAX_APPEND

    def __init__(self, params: Mapping[str, str], info: EngineInfo) -> None:
        self._model = params.get("model")
        self._info = info
        self._request_id = secrets.token_hex(16)
        self._config = _Config()
        self._opened = self._ended = False
        self._ending: SessionError | None = None
        self._received_bytes = 0  # bytes
        self._reported_s = 0  # seconds of audio in the usage of earlier dones
        self._language: str | None = None
        self._text: list[str] = []
        self._segments: list[dict[str, object]] = []
        self._words: list[Word] = []  # of the open segment
        self._labels = WordLabels()

    def denied(self, code: str, message: str) -> Denial | None:
        """An HTTP error for those who may not connect; all else is reported on the socket."""
        if code not in DENIAL_CODES:
            return None
        body = {"object": "error", "type": "invalid_request_error", "param": None}
        return Denial(status_of(code), {**body, "message": message, "code": code})

    def connected(self) -> list[Out]:
        """``session.created``, with the defaults in force."""
        if not self._model:
            raise ProtocolError("bad_parameter", "add the model's name to the URL: ?model=voxtral")
        return [self._session_message("session.created")]

    def received(self, frame: str | bytes) -> list[Action]:
        """Commands; one that is wrong is refused. What comes after the end is late, and dropped."""
        if self._ended:
            return []
        try:
            if not may_be_json(frame):
                raise ValueError("audio comes as base64 in input_audio.append")
            return self._command(*parse_message(frame))
        except ValueError as error:
            return [Refuse("bad_message", str(error))]

    def _command(self, kind: str, message: Json) -> list[Action]:
        match kind:
            case "session.update":
                return [self._update(message.get("session"))]
            case "input_audio.append":
                pieces = audio_frames(message)
                self._received_bytes += sum(len(piece.data) for piece in pieces)
                return [*self._opening(), *pieces]
            case "input_audio.flush":
                # The marker says how much audio its done accounts for.
                return [*self._opening(), FlushSession(str(self._received_bytes))]
            case "input_audio.end":
                self._ended = True
                return [*self._opening(), StopSession()]
            case _:
                known = "session.update, input_audio.append, input_audio.flush, input_audio.end"
                raise ValueError(f"{quoted(kind)} is not a message type: use {known}")

    def _opening(self) -> list[Action]:
        opened_before, self._opened = self._opened, True
        return [] if opened_before else [OpenSession(self._config.options)]

    def _update(self, session: object) -> Action:
        if self._opened:
            return Refuse("too_late", "a session can be configured before its first audio only")
        if not isinstance(session, dict):
            raise ValueError('session.update needs a "session", which is an object')
        self._config = self._configured(session)
        return Reply(self._session_message("session.updated"))

    def _configured(self, session: Json) -> _Config:
        """The configuration with these fields set; null is the default, and hints are ignored."""
        if session.get("speaker_references"):
            raise ValueError("nobody is known here by their voice: leave out speaker_references")
        changes: dict[str, Any] = {}
        if "diarize" in session:
            changes["speakers"] = SpeakerOptions() if flag(session, "diarize", False) else None
        if "audio_format" in session:
            changes["audio"] = _audio(session["audio_format"])
        if "target_streaming_delay_ms" in session:
            changes["delay_ms"] = self._nearest_delay(session)
        if "language" in session:
            changes["language"] = language(session)
        if "context_bias" in session and self._info.vocabulary is not None:
            changes["vocabulary"] = _terms(session["context_bias"])
        if "turn_detection" in session:
            changes["turns"], changes["semantic"] = _turns(session["turn_detection"])
        return replace(self._config, **changes)

    def _nearest_delay(self, session: Json) -> int | None:
        asked = integer(session, "target_streaming_delay_ms", 0, 60_000, None)
        if asked is None or not self._info.delays_ms:
            return None
        return min(self._info.delays_ms, key=lambda delay: abs(delay - asked))

    def _session_message(self, kind: str) -> str:
        """A message with the session as it is in force."""
        config, turns = self._config, self._config.turns
        timeout = {"end_timeout_ms": config.semantic.max_wait_ms} if config.semantic else {}
        session = {
            "request_id": self._request_id,
            "model": self._info.model,
            "audio_format": {
                "encoding": _NAMES[config.audio.encoding],
                "sample_rate": config.audio.rate,
            },
            "target_streaming_delay_ms": config.delay_ms or self._info.default_delay_ms,
            "language": config.language,
            "diarize": config.speakers is not None,
            "turn_detection": turns
            and {
                "start_threshold": turns.threshold,
                "end_threshold": turns.exit_threshold,
                "min_silence_ms": turns.pause_ms,
                **timeout,
            },
        }
        return encode_message(kind, session=session)

    def on_event(self, event: Event) -> list[Out]:
        """Words as they are committed, segments, turns if requested, and dones."""
        match event:
            case LanguageDetected(language):
                self._language = language
                return [encode_message("transcription.language", audio_language=language)]
            case Words(segment, words):
                self._text.append(event.text)
                self._words.extend(words)
                self._labels.add(segment, len(words))
                return [encode_message("transcription.text.delta", text=event.text)]
            case SpeakersFound(ranges):
                self._labels.on_found(ranges)
                return []
            case SegmentClosed():
                return self._closed()
            case SpeechStarted() | SpeechStopped() if self._config.semantic:
                return []
            case SpeechStarted(at) | TurnStarted(_, at) if self._config.turns:
                return [encode_message("turn.start", time_s=seconds(at))]
            case SpeechStopped(at) if self._config.turns:
                return [encode_message("turn.end", time_s=seconds(at), end_reason="threshold")]
            case TurnLikelyEnded(_, at):
                return [encode_message("turn.eager_end", time_s=seconds(at))]
            case TurnResumed(_, at):
                return [encode_message("turn.resume", time_s=seconds(at))]
            case TurnEnded(_, at, by=by):
                reason = "threshold" if by == "confidence" else "timeout"
                return [encode_message("turn.end", time_s=seconds(at), end_reason=reason)]
            case Flushed(marker):
                return [self._done(int(marker))]
            case SessionError(code, _, fatal=False) if code in ENDING_CODES:
                # Clients take any error for the end, and here the last words are still to come.
                self._ending = event
                return []
            case SessionError(code, message, fatal):
                return self.failed(code, message) if fatal else self.refused(code, message)
            case SessionClosed():
                ending = None if self._ended else self._ending
                return [self._done(self._received_bytes), *close_session(ending, self.failed)]
            case _:
                return []

    def _closed(self) -> list[Out]:
        """The segment that has closed, or what each speaker says in it."""
        parts = by_speaker(self._words, self._labels.speakers)
        self._words = []
        self._labels.forget()
        return [self._segment(part) for part in parts]

    def _segment(self, part: SpokenWords) -> str:
        segment = {"text": part.text, "start": seconds(part.start), "end": seconds(part.end)}
        if part.speaker is not None:
            segment["speaker_id"] = f"speaker_{part.speaker + 1}"
        self._segments.append({**segment, "type": "transcription_segment"})
        return encode_message("transcription.segment", **segment)

    def _done(self, received: int) -> str:
        """Everything since the last one. Whole seconds of audio add up over a session's dones."""
        audio = self._config.audio
        total = math.ceil(received / ENCODINGS[audio.encoding].dtype.itemsize / audio.rate)
        done = encode_message(
            "transcription.done",
            model=self._info.model,
            text="".join(self._text),
            language=self._language,
            segments=self._segments,
            usage={"prompt_audio_seconds": total - self._reported_s},
        )
        self._reported_s = total
        self._text, self._segments = [], []
        return done

    def refused(self, code: str, message: str) -> list[Out]:
        """An ``error``; the session goes on."""
        error = {
            "message": message[:MAX_ERROR_CHARS],
            "code": _ERROR_NUMBERS.get(code, status_of(code)),
        }
        return [encode_message("error", error=error)]

    def failed(self, code: str, message: str) -> list[Out]:
        """An ``error`` and the close."""
        return [*self.refused(code, message), CloseSocket(close_code(code))]


def _audio(value: object) -> AudioFormat:
    if value is None:
        return _DEFAULT_AUDIO
    if not isinstance(value, dict):
        raise ValueError('"audio_format" must be an object with "encoding" and "sample_rate"')
    encoding = value.get("encoding")
    if not isinstance(encoding, str) or encoding not in _ENCODINGS:
        raise ValueError(
            f'"encoding" must be one of {", ".join(_ENCODINGS)}, not {quoted(encoding)}'
        )
    return AudioFormat(_ENCODINGS[encoding], integer(value, "sample_rate", 1, 1_000_000, 16_000))


def _terms(value: object) -> tuple[str, ...]:
    """A list of terms, or a text with commas between them."""
    if isinstance(value, str):
        return vocabulary_in(value)
    return usable_terms(value) if isinstance(value, list) else ()


def _turns(value: object) -> tuple[GateOptions | None, TurnOptions | None]:
    """Turns begin and end where the voice detector says so.

    With a time after which any pause ends one they end when the speaker has finished, where this
    server has a network for that.
    """
    if value is None:
        return None, None
    if not isinstance(value, dict):
        raise ValueError('"turn_detection" must be an object')
    try:
        gate = GateOptions(
            threshold=value.get("start_threshold", 0.5),
            exit_threshold=value.get("end_threshold", 0.33),
            min_silence_ms=value.get("min_silence_ms", PAUSE_MS),
        )
        longest = value.get("end_timeout_ms")
        if longest is None or find_model() is None:
            return gate, None
        return gate, EAGERNESS["auto"].changed(max_wait_ms=longest)
    except (GateOptionError, TurnOptionError) as error:
        raise ValueError(f"turn_detection: {error}") from error
