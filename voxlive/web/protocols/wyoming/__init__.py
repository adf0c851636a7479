"""Wyoming's protocol: events over TCP, one utterance after another on a connection.

For an utterance the client gets ``transcript-start``, a ``transcript-chunk`` for every delta, the
``transcript``, which is the chunks joined, and ``transcript-stop``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from wyoming.asr import Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.error import Error
from wyoming.event import Event, Eventable
from wyoming.info import AsrModel, AsrProgram, Attribution, Info
from wyoming.ping import Pong
from wyoming.vad import VoiceStarted, VoiceStopped

from voxlive.engines.contract import EngineInfo, StreamOptions
from voxlive.errors import ProtocolError
from voxlive.recognisers.vocabulary import usable_terms
from voxlive.streaming.events import Event as SessionEvent
from voxlive.streaming.events import (
    LanguageDetected,
    SessionClosed,
    SessionError,
    SpeechStarted,
    SpeechStopped,
    Words,
)
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.vad.gate import GateOptions
from voxlive.values import SAMPLE_RATE
from voxlive.web.protocols.contract import (
    MAX_ERROR_CHARS,
    AudioFrame,
    FindEngine,
    OpenSession,
    StopSession,
)
from voxlive.web.protocols.fields import flag, integer, language, quoted, string

_ENCODINGS = {1: "u8", 2: "s16le", 4: "s32le"}
_MAX_PING_CHARS = 1000
_MAX_NAME_CHARS = 200
# The pause that ends speech, by what the client calls the detector's sensitivity.
_PAUSES_MS = {"relaxed": 1250, "default": 500, "aggressive": 250}


@dataclass(frozen=True, slots=True)
class SendEvent:
    """Answer with an event."""

    event: Event


Action = OpenSession | AudioFrame | StopSession | SendEvent


class WyomingProtocol:
    """One client. Pure: events in and actions out, a session's events in and events out.

    ``received`` may be one utterance ahead of ``on_event``.
    """

    name = "wyoming"

    def __init__(self, info: EngineInfo) -> None:
        self._info = info
        self._engines = {info.model: info}
        self._find: FindEngine | None = None
        self._model: str | None = None
        self._language: str | None = None
        self._detected: str | None = None
        self._terms: tuple[str, ...] = ()
        self._gate = GateOptions()
        self._store = True
        self._keep_audio: bool | None = None
        self._audio: AudioFormat | None = None
        self._text: list[str] = []

    def offer_engines(self, engines: Mapping[str, EngineInfo], find: FindEngine) -> None:
        """The client may choose among several: they are described, and ``name`` says which one."""
        self._engines, self._find = dict(engines), find

    @property
    def in_utterance(self) -> bool:
        """Whether audio has begun and not ended."""
        return self._audio is not None

    def received(self, event: Event) -> list[Action]:
        """What an event asks for; unknown ones are nothing. Raises ProtocolError."""
        try:
            return self._command(event)
        except ValueError as error:
            raise ProtocolError("bad_message", f"{event.type[:40]}: {error}") from error

    def _command(self, event: Event) -> list[Action]:
        match event.type:
            case "describe":
                return [SendEvent(self._describe().event())]
            case "ping":
                return [SendEvent(Pong(string(event.data, "text", _MAX_PING_CHARS)).event())]
            case "transcribe":
                self._transcribe(event)
                return []
            case "audio-start":
                if self._audio:
                    raise ValueError("the utterance before must end with audio-stop")
                return [self._open(event)]
            case "audio-chunk":
                return self._chunk(event)
            case "audio-stop":
                if not self._audio:
                    raise ValueError("there was no audio-start")
                self._audio = None
                return [StopSession()]
            case _:
                return []

    def _transcribe(self, event: Event) -> None:
        pause = string(event.data, "vad_sensitivity", 40) or "default"
        if pause not in _PAUSES_MS:
            raise ValueError(f'"vad_sensitivity" must be one of {", ".join(_PAUSES_MS)}')
        self._language = language(event.data)
        info = self._info
        if self._find:
            self._model = string(event.data, "name", _MAX_NAME_CHARS)
            info = self._find(self._model)
        if info.vocabulary is not None:
            self._terms = _terms(event)
        self._gate = GateOptions(min_silence_ms=_PAUSES_MS[pause])
        self._store = flag(event.data, "store", True)
        asked = event.data.get("keep_audio") is not None
        self._keep_audio = flag(event.data, "keep_audio", False) if asked else None

    def _open(self, event: Event) -> OpenSession:
        self._audio = _format(event)
        stream = StreamOptions(self._language, drafts=False, vocabulary=self._terms)
        options = SessionOptions(self._audio, self._gate, stream, model=self._model)
        opening = OpenSession(options, store=self._store, keep_audio=self._keep_audio)
        self._language, self._terms, self._gate = None, (), GateOptions()
        self._model, self._store, self._keep_audio = None, True, None
        return opening

    def _chunk(self, event: Event) -> list[Action]:
        """A chunk repeats its format, so that it may open an utterance by itself."""
        actions: list[Action] = [] if self._audio else [self._open(event)]
        if _format(event) != self._audio:
            raise ValueError("an utterance has one rate, width and number of channels")
        return [*actions, AudioFrame(event.payload or b"")]

    def _describe(self) -> Info:
        """The program with a model for each engine, the default first."""
        program = AsrProgram(
            name="voxlive",
            attribution=Attribution("voxlive", ""),
            installed=True,
            description=f"{self._info.model} on {self._info.device}",
            version=version("voxlive"),
            models=[_model(label, info) for label, info in self._engines.items()],
            supports_transcript_streaming=True,
        )
        return Info(asr=[program])

    def opened(self, _options: SessionOptions) -> list[Event]:
        """``transcript-start``, without a language: the model finds it out later, if at all."""
        self._text, self._detected = [], None
        return _events(TranscriptStart())

    def on_event(self, event: SessionEvent) -> list[Event]:
        """Words as they are committed, where speech begins and ends, and the transcript.

        Raises ProtocolError when the session has failed.
        """
        match event:
            case SpeechStarted(at):
                return _events(VoiceStarted(_ms(at)))
            case SpeechStopped(at):
                return _events(VoiceStopped(_ms(at)))
            case LanguageDetected(found):
                self._detected = found
                return []
            case Words():
                self._text.append(event.text)
                return _events(TranscriptChunk(event.text))
            case SessionError(code, message, fatal=True):
                raise ProtocolError(code, message)
            case SessionClosed():
                text = "".join(self._text)
                return _events(Transcript(text, language=self._detected), TranscriptStop())
            case _:
                return []


def _terms(event: Event) -> tuple[str, ...]:
    """The names and terms to expect: a hint."""
    listed = (event.data.get(name) for name in ("transcript_names", "transcript_terms"))
    return usable_terms(term for terms in listed if isinstance(terms, list) for term in terms)


def error_event(code: str, message: str) -> Event:
    """The last event of a connection that cannot go on."""
    return Error(message[:MAX_ERROR_CHARS], code).event()


def _events(*events: Eventable) -> list[Event]:
    return [event.event() for event in events]


def _ms(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE


def _format(event: Event) -> AudioFormat:
    names = ("rate", "width", "channels")
    rate, width, channels = (integer(event.data, name, 1, 1_000_000, None) for name in names)
    if rate is None or width is None or channels is None:
        raise ValueError('"rate", "width" and "channels" are needed')
    if width not in _ENCODINGS:
        raise ValueError(f'"width" must be 1, 2 or 4 bytes, not {quoted(width)}')
    return AudioFormat(_ENCODINGS[width], rate, channels)


def _model(name: str, info: EngineInfo) -> AsrModel:
    return AsrModel(
        name=name,
        attribution=Attribution(info.engine, ""),
        installed=True,
        description=info.note,
        version=None,
        languages=list(info.languages),
    )
