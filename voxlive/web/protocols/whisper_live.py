"""WhisperLive's protocol, which has a port of its own: any path there.

The first message holds the options; audio follows. A segment is sent first as the last, incomplete
one and then as complete, with the same words: clients keep the last incomplete segment that they
saw until another one takes its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from voxlive.engines.contract import EngineInfo, StreamOptions
from voxlive.errors import ProtocolError, close_code, status_of
from voxlive.recognisers.vocabulary import vocabulary_in
from voxlive.speakers.labels import MAX_SPEAKERS, SpeakersFound, WordLabels, by_speaker
from voxlive.speakers.tracker import SpeakerOptions
from voxlive.streaming.events import (
    Draft,
    Event,
    LanguageDetected,
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
    FindEngine,
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

END_OF_AUDIO = "END_OF_AUDIO"
# The options may hold recordings of speakers.
MAX_OPTIONS = 8_000_000
_OPTIONS_TIMEOUT_S = 30.0
_TICK_S = 0.1
# A segment that a speaker does not end by a pause; it is sent again with every change.
_MAX_SEGMENT = 10 * SAMPLE_RATE
# The protocol requires minutes, and nobody knows how long the other clients will speak.
_WAIT_MIN = 1
_CLOSE_WAIT_S = 2.0
_MAX_REPEATED = 1000
_MAX_UID_CHARS = _MAX_NAME_CHARS = 200
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
_UNSUPPORTED = {
    "enable_translation": "this server does not translate: there will be no translated segments",
    "known_speakers": "nobody is known here by their voice: speakers have numbers",
}
_Segment = dict[str, object]


@dataclass(frozen=True, slots=True)
class WhisperLiveOptions:
    """What a client's first message asks for.

    ``last``: how many complete segments each update repeats; ``words``: with their words.
    """

    uid: str | None
    options: SessionOptions
    last: int
    words: bool
    warnings: tuple[str, ...]


def parse_options(
    frame: str | bytes, info: EngineInfo, find: FindEngine | None = None
) -> WhisperLiveOptions:
    """The first frame; raises ValueError in words, and what ``find`` raises.

    Without ``find`` any model's name is taken for the one that is served.
    """
    try:
        message = parse_object(frame)
    except ValueError as error:
        raise ValueError("the first message must be the options as JSON, then audio") from error
    model = string(message, "model", _MAX_NAME_CHARS) if find else None
    info = find(model) if find else info
    audio, gate, stream = _audio(message), _gate(message), _stream(message, info)
    speakers = _speakers(message)
    return WhisperLiveOptions(
        uid=string(message, "uid", _MAX_UID_CHARS),
        options=SessionOptions(audio, gate, stream, model=model, speakers=speakers),
        last=integer(message, "send_last_n_segments", 1, _MAX_REPEATED, 10),
        words=flag(message, "word_timestamps", False),
        warnings=tuple(reason for name, reason in _UNSUPPORTED.items() if message.get(name)),
    )


def _stream(message: Json, info: EngineInfo) -> StreamOptions:
    """Hot words are a hint, without effect on an engine that takes none."""
    translates = message.get("task") == "translate"
    if translates and info.no_translation:
        raise ValueError(f'{info.model} does not translate: "task" must be "transcribe"')
    terms = message.get("hotwords")
    known = vocabulary_in(terms) if isinstance(terms, str) and info.vocabulary is not None else ()
    return StreamOptions(
        language(message), task="translate" if translates else "transcribe", vocabulary=known
    )


def _audio(message: Json) -> AudioFormat:
    asked = message.get("audio_format", "float32")
    if not isinstance(asked, str) or asked not in _AUDIO:
        raise ValueError(f'"audio_format" must be one of {", ".join(_AUDIO)}, not {quoted(asked)}')
    return AudioFormat(_AUDIO[asked])


def _speakers(message: Json) -> SpeakerOptions | None:
    if not flag(message, "enable_diarization", False):
        return None
    return SpeakerOptions(integer(message, "max_speakers", 1, MAX_SPEAKERS, 10))


def _gate(message: Json) -> GateOptions | None:
    if not flag(message, "use_vad", True):
        return None
    asked = message.get("vad_parameters")
    if asked is None:
        return GateOptions()
    if not isinstance(asked, dict):
        raise ValueError(f'"vad_parameters" must be an object, not {quoted(asked)}')
    values = {option: asked[name] for name, option in _GATE.items() if asked.get(name) is not None}
    threshold = values.get("threshold")
    if isinstance(threshold, int | float):
        values.setdefault("exit_threshold", max(0.01, threshold - _HYSTERESIS))
    try:
        return GateOptions(**values)
    except GateOptionError as error:
        raise ValueError(f"vad_parameters: {error}") from error


class WhisperLiveProtocol(Protocol):
    """One client of WhisperLive's protocol."""

    name = "whisper_live"
    max_text: ClassVar[int] = MAX_OPTIONS
    tick_s: ClassVar[float | None] = _TICK_S
    default_models: ClassVar[tuple[str, ...]] = ("small",)
    full_after_options: ClassVar[bool] = True
    key_params: ClassVar[tuple[str, ...]] = ("token",)

    def __init__(self, _params: Mapping[str, str], info: EngineInfo) -> None:
        self._info = info
        self._find: FindEngine | None = None
        self._settings: WhisperLiveOptions | None = None
        self._uid: str | None = None
        self._ended = self._changed = False
        self._ending: str | None = None
        self._bytes = 0
        self._speech: int | None = None  # where the open segment's speech began
        self._closed_end = 0
        self._open_words: list[Word] = []
        self._labels: WordLabels | None = None
        self._draft = ""
        self._complete: deque[_Segment] = deque()

    def handshake_response(self, offered: Sequence[str]) -> HandshakeResponse:
        """A browser offers ``bearer`` and its key: the first is selected."""
        return HandshakeResponse("bearer" if "bearer" in offered else None)

    def offer_engines(self, find: FindEngine) -> None:
        """The options may name one."""
        self._find = find

    def denied(self, code: str, message: str) -> Denial | None:
        """An HTTP error for who may not connect: there is no ``uid`` to answer to yet."""
        if code not in DENIAL_CODES:
            return None
        return Denial(status_of(code), {"error": {"code": code, "message": message}})

    @property
    def receive_timeout_s(self) -> float | None:
        """The options must come soon; audio may pause."""
        return None if self._settings else _OPTIONS_TIMEOUT_S

    def received(self, frame: str | bytes) -> list[Action]:
        """Options, then audio, then END_OF_AUDIO. What comes after that is late, and dropped."""
        if self._settings is None:
            return [self._start(frame)]
        if self._ended:
            return []
        if frame in (END_OF_AUDIO, END_OF_AUDIO.encode()):
            self._ended = True
            return [StopSession()]
        if isinstance(frame, str):
            return [Refuse("bad_message", "after the options only audio in binary frames is taken")]
        self._bytes += len(frame)
        return [AudioFrame(frame)]

    def _start(self, frame: str | bytes) -> OpenSession:
        try:
            self._settings = parse_options(frame, self._info, self._find)
        except ValueError as error:
            raise ProtocolError("bad_start", str(error)) from error
        self._uid = self._settings.uid
        self._complete = deque(maxlen=self._settings.last)
        self._labels = WordLabels() if self._settings.options.speakers else None
        return OpenSession(self._settings.options)

    def opened(self, _session: str, _options: SessionOptions) -> list[Out]:
        """SERVER_READY, then warnings of options that are not supported.

        Clients keep complete segments of the backend "faster_whisper" alone.
        """
        assert self._settings
        outs: list[Out] = [self._encode(message="SERVER_READY", backend="faster_whisper")]
        outs += [
            self._encode(status="WARNING", message=reason) for reason in self._settings.warnings
        ]
        return outs

    def on_event(self, event: Event) -> list[Out]:
        """Complete segments are sent at once, what may still change by the next tick."""
        match event:
            case SpeechStarted(at):
                self._speech = at if self._speech is None else self._speech
            case LanguageDetected(language, probability):
                return [self._encode(language=language, language_prob=probability)]
            case Words(segment, words):
                return self._on_words(segment, words)
            case SpeakersFound(ranges) if self._labels:
                self._labels.on_found(ranges)
                self._changed = bool(self._open_words)
            case Draft(_, text):
                self._changed |= text != self._draft
                self._draft = text
            case SegmentClosed():
                self._speech = None
                self._draft = ""
                return self._close_segment() if self._open_words else []
            case SessionError(code, message, fatal):
                return self._on_error(code, message, fatal)
            case SessionWarning(code, message):
                return self.refused(code, message)
            case SessionClosed():
                return self._finish()
        return []

    def _on_words(self, segment: int, words: Sequence[Word]) -> list[Out]:
        outs: list[Out] = []
        for word in words:
            if self._open_words and word.end - self._open_words[0].start > _MAX_SEGMENT:
                outs += self._close_segment()
            self._open_words.append(word)
            if self._labels:
                self._labels.add(segment, 1)
        self._changed = True
        return outs

    def _close_segment(self) -> list[Out]:
        """The open words are complete: a segment, or one for each speaker."""
        outs: list[Out] = []
        for speaker, words in by_speaker(self._open_words, self._speakers):
            segment = self._segment(words, "", speaker)
            outs.append(self._update(segment))
            self._complete.append({**segment, "completed": True})
            self._closed_end = words[-1].end
            outs.append(self._update())
        self._open_words = []
        if self._labels:
            self._labels.forget()
        self._changed = bool(self._draft)
        return outs

    @property
    def _speakers(self) -> list[int | None]:
        return self._labels.speakers if self._labels else []

    def tick(self) -> list[Out]:
        """What may still change, if it has. A draft that has become empty is replaced."""
        if not self._changed:
            return []
        self._changed = False
        if self._open_words or self._draft:
            speaker = next(reversed(self._speakers), None)
            return [self._update(self._segment(self._open_words, self._draft, speaker))]
        if not self._complete:
            return [self._update(self._segment((), ""))]
        last = self._complete.pop()
        update = self._update({**last, "completed": False})
        self._complete.append(last)
        return [update]

    def _segment(self, words: Sequence[Word], draft: str, speaker: int | None = None) -> _Segment:
        """An incomplete one. A draft has no times: it ends with the audio."""
        start = max(self._closed_end, words[0].start if words else self._speech or 0)
        end = max(start, self._received_samples if draft or not words else words[-1].end)
        segment: _Segment = {
            "start": _clock(start),
            "end": _clock(end),
            "text": "".join(word.text for word in words) + draft,
            "completed": False,
        }
        if self._settings and self._settings.words and words:
            segment["words"] = [_word(word) for word in words]
        if speaker is not None:
            segment["speaker"] = f"SPEAKER_{speaker:02}"
        return segment

    @property
    def _received_samples(self) -> int:
        assert self._settings
        width = ENCODINGS[self._settings.options.audio.encoding].dtype.itemsize
        return self._bytes // width

    def _update(self, last: _Segment | None = None) -> str:
        return self._encode(segments=[*self._complete, *([last] if last else [])])

    def _on_error(self, code: str, message: str, fatal: bool) -> list[Out]:
        if fatal:
            return self.failed(code, message)
        if code in ENDING_CODES:
            # A client that gets an error stops reading, and the last words are still to come.
            self._ending = code
            return []
        return self.refused(code, message)

    def _finish(self) -> list[Out]:
        rest = self._close_segment() if self._open_words else self.tick()
        if self._ending and not self._ended:
            disconnect = self._encode(message="DISCONNECT")
            return [*rest, disconnect, CloseSocket(close_code(self._ending))]
        return [*rest, CloseSocket(1000)]

    def refused(self, _code: str, message: str) -> list[Out]:
        """A warning; the session goes on."""
        return [self._encode(status="WARNING", message=message[:MAX_ERROR_CHARS])]

    def failed(self, code: str, message: str) -> list[Out]:
        """WAIT with minutes if the server is full, else an error; and the close."""
        if code == "server_full":
            # Its clients check at intervals whether to wait, and forget it with the close.
            wait = self._encode(status="WAIT", message=_WAIT_MIN)
            return [wait, CloseSocket(close_code(code), _CLOSE_WAIT_S)]
        error = self._encode(status="ERROR", message=message[:MAX_ERROR_CHARS])
        return [error, CloseSocket(close_code(code))]

    def _encode(self, **values: object) -> str:
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
