"""WhisperLiveKit's protocol, ``WS /asr``: its clients work here unchanged.

A line is one closed segment, and stays as it is. In full mode the open segment's committed words
are the last, growing line. In diff mode they stand at the head of ``buffer_transcription`` until
the segment closes, so ``new_lines`` only ever appends and no client has to guess what to drop.

With speakers a segment is a line for each stretch of one speaker, and words of whom nothing is said
yet stand in ``buffer_diarization``. A line may get another speaker until that stands, some seconds
later; a diff has it only then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

from voxlive.checkpoints.languages import UnknownLanguage, language_of
from voxlive.engines.contract import EngineInfo, StreamOptions
from voxlive.errors import ProtocolError, close_code
from voxlive.speakers.labels import SpeakersFound, WordLabels, by_speaker
from voxlive.speakers.tracker import SETTLED, SpeakerOptions
from voxlive.streaming.events import (
    Draft,
    Event,
    Lag,
    LanguageDetected,
    SegmentClosed,
    SessionClosed,
    SessionError,
    Words,
)
from voxlive.streaming.ingest.formats import CONTAINER, AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.values import SAMPLE_RATE, Word
from voxlive.web.protocols.contract import (
    ENDING_CODES,
    MAX_ERROR_CHARS,
    Action,
    AudioFrame,
    CloseSocket,
    OpenSession,
    Out,
    Protocol,
    Refuse,
    StopSession,
)
from voxlive.web.protocols.fields import encode_json, is_container

_LONG_PAUSE = 5 * SAMPLE_RATE
_SILENCE = -2
_SPEAKER = 1
_TICK_S = 0.05
_SETTLED_TICKS = round(SETTLED / SAMPLE_RATE / _TICK_S)
# The protocol leaves the last close to the client; one that does not close is closed after this.
_CLOSE_WAIT_S = 30.0


class _ClosedSegment(NamedTuple):
    """A segment whose speakers may change until tick ``settles``."""

    start: int
    end: int
    words: tuple[Word, ...]
    settles: int

    @property
    def text(self) -> str:
        return "".join(word.text for word in self.words)


class AsrProtocol(Protocol):
    """One client of ``/asr``."""

    name = "asr"
    tick_s: ClassVar[float | None] = _TICK_S
    key_params: ClassVar[tuple[str, ...]] = ("token",)

    def __init__(self, params: Mapping[str, str], _info: EngineInfo) -> None:
        self._params = params
        self._mode = params.get("mode", "full")
        self._language: str | None = None
        self._detected: str | None = None
        self._head = b""
        self._started = self._ended = False
        self._diarizes = False
        self._labels: WordLabels | None = None
        self._ticks = 0
        self._closed: deque[_ClosedSegment] = deque()  # those that may change
        self._lines: list[str] = []  # of segments that do not
        self._sent = 0
        self._seq = 0
        self._lines_end = 0
        self._open_words: list[Word] = []
        self._draft = ""
        self._behind_s = 0.0
        self._error: str | None = None
        self._ending: str | None = None
        self._changed = False

    def tell_speakers(self) -> None:
        """They are told apart unless the query says otherwise."""
        self._diarizes = True

    def connected(self) -> list[Out]:
        """``config``: this server takes PCM, and a container if that is what comes."""
        if (asked := self._params.get("diarize")) is not None:
            if asked not in ("true", "false"):
                raise ProtocolError("bad_parameter", "diarize must be true or false")
            self._diarizes = asked == "true"
        if self._mode not in ("full", "diff"):
            raise ProtocolError("bad_parameter", 'mode must be "full" or "diff"')
        if self._params.get("target_language"):
            raise ProtocolError("bad_parameter", "this server does not translate")
        try:
            self._language = language_of(self._params.get("language"))
        except UnknownLanguage as error:
            raise ProtocolError("bad_parameter", str(error)) from error
        return [encode_json({"type": "config", "useAudioWorklet": True, "mode": self._mode})]

    def received(self, frame: str | bytes) -> list[Action]:
        """Audio; an empty frame ends it. What comes after the end is late, and dropped."""
        if isinstance(frame, str):
            return [Refuse("bad_message", "only binary frames of audio are taken here")]
        if self._ended:
            return []
        self._ended = not frame
        if self._started:
            return [StopSession() if self._ended else AudioFrame(frame)]
        self._head += frame
        container = is_container(self._head)
        if container is None and not self._ended:
            return []
        return self._start(bool(container))

    def _start(self, container: bool) -> list[Action]:
        self._started = True
        audio = AudioFormat(CONTAINER) if container else AudioFormat("s16le", SAMPLE_RATE, 1)
        stream = StreamOptions(self._language)
        head, self._head = self._head, b""
        speakers = SpeakerOptions() if self._diarizes else None
        self._labels = WordLabels() if self._diarizes else None
        return [
            OpenSession(SessionOptions(audio, stream=stream, speakers=speakers)),
            *([AudioFrame(head)] if head else []),
            *([StopSession()] if self._ended else []),
        ]

    def opened(self, _session: str, _options: SessionOptions) -> list[Out]:
        """The first update, without any text."""
        self._changed = True
        return self.tick()

    def on_event(self, event: Event) -> list[Out]:
        """Keep the state that updates are made of; the end and errors are sent at once."""
        match event:
            case Words(segment, words):
                self._open_words.extend(words)
                if self._labels:
                    self._labels.add(segment, len(words))
            case Draft(_, text):
                self._draft = text
            case SegmentClosed(_, start, end):
                settles = self._ticks + (_SETTLED_TICKS if self._labels else 0)
                self._closed.append(_ClosedSegment(start, end, tuple(self._open_words), settles))
                self._open_words.clear()
                self._settle()
            case SpeakersFound(ranges) if self._labels:
                self._labels.on_found(ranges)
            case LanguageDetected(language):
                self._detected = language
            case Lag(behind_s):
                self._behind_s = behind_s
            case SessionError(code, message, fatal):
                self._ending = code if code in ENDING_CODES else self._ending
                return self.failed(code, message) if fatal else self.refused(code, message)
            case SessionClosed():
                self._changed |= self._behind_s > 0 or bool(self._closed)
                self._behind_s = 0.0
                self._settle(whole=True)
                ready = encode_json({"type": "ready_to_stop"})
                return [*self._updates(), ready, self._close_socket()]
            case _:
                return []
        self._changed = True
        return []

    def _close_socket(self) -> CloseSocket:
        if self._ending and not self._ended:
            return CloseSocket(close_code(self._ending))
        return CloseSocket(1000, _CLOSE_WAIT_S)

    def tick(self) -> list[Out]:
        """An update, if anything has changed since the last."""
        self._ticks += 1
        self._settle()
        return self._updates()

    def _updates(self) -> list[Out]:
        if not self._changed:
            return []
        self._changed = False
        return [self._full() if self._mode == "full" else self._diff()]

    def _settle(self, *, whole: bool = False) -> None:
        """Closed segments whose speakers do not change any more become lines; ``whole``: all."""
        while self._closed and (whole or self._closed[0].settles <= self._ticks):
            segment = self._closed.popleft()
            speakers = self._speakers(0, segment)
            self._lines.extend(self._lines_of(self._lines_end, segment, speakers))
            self._lines_end = segment.end
            if self._labels:
                self._labels.forget(len(segment.words))
            self._changed |= self._mode == "diff"

    def _speakers(self, at: int, segment: _ClosedSegment) -> list[int | None]:
        """Those of a segment's words, which begin with word ``at`` of those that may change."""
        return self._labels.speakers[at : at + len(segment.words)] if self._labels else []

    def _full(self) -> str:
        lines, before, at = self._lines, self._lines_end, 0
        for segment in self._closed:
            lines = [*lines, *self._lines_of(before, segment, self._speakers(at, segment))]
            before, at = segment.end, at + len(segment.words)
        words, waiting = tuple(self._open_words), ""
        if self._labels and lines:
            words = words[: max(0, self._labels.told - at)]
            waiting = "".join(word.text for word in self._open_words[len(words) :])
        if words:
            opened = _ClosedSegment(words[0].start, words[-1].end, words, 0)
            lines = [*lines, *self._lines_of(before, opened, self._speakers(at, opened))]
        return self._update({}, self._draft, lines, waiting)

    def _diff(self) -> str:
        self._seq += 1
        new, self._lines = self._lines, []  # in diff mode each is sent once
        self._sent += len(new)
        closed = "".join(segment.text for segment in self._closed)
        tail = closed + "".join(word.text for word in self._open_words) + self._draft
        if self._seq == 1:
            return self._update({"type": "snapshot", "seq": 1}, tail, new)
        numbers = {"type": "diff", "seq": self._seq, "n_lines": self._sent}
        return self._update(numbers, tail, new, name="new_lines")

    def _update(
        self,
        head: dict[str, object],
        tail: str,
        lines: list[str],
        waiting: str = "",
        name: str = "lines",
    ) -> str:
        has_text = bool(self._sent or lines or self._open_words or tail)
        status = "active_transcription" if has_text else "no_audio_detected"
        fields = encode_json(
            {
                **head,
                "status": "error" if self._error else status,
                "buffer_transcription": tail,
                "buffer_diarization": waiting,
                "buffer_translation": "",
                "remaining_time_transcription": self._behind_s,
                "remaining_time_transcription_processing": self._behind_s,
                "remaining_time_diarization": 0,
                **({"error": self._error} if self._error else {}),
            }
        )
        # Lines were encoded when they closed: hours of them are not encoded anew 20 times a second.
        listed = f',"{name}":[{",".join(lines)}]' if lines or name == "lines" else ""
        return f"{fields[:-1]}{listed}}}"

    def _lines_of(
        self, before: int, segment: _ClosedSegment, speakers: Sequence[int | None]
    ) -> Iterator[str]:
        """A line for each speaker, after one for a long pause since sample ``before``."""
        if segment.start - before > _LONG_PAUSE:
            yield _line(_SILENCE, before, segment.start, "")
        for part in by_speaker(segment.words, speakers):
            speaker = _SPEAKER if part.speaker is None else part.speaker + 1
            yield _line(speaker, part.start, part.end, part.text.strip(), self._detected)

    def refused(self, code: str, message: str) -> list[Out]:
        """A typed error; the session goes on."""
        return [_error(code, message)]

    def failed(self, code: str, message: str) -> list[Out]:
        """A last update that holds the error, the typed error, the close."""
        self._error = message[:MAX_ERROR_CHARS]
        self._changed = self._started
        return [*self.tick(), _error(code, message), CloseSocket(close_code(code))]


def _line(speaker: int, start: int, end: int, text: str, language: str | None = None) -> str:
    times = {"start": _clock(start), "end": _clock(end)}
    detected = {"detected_language": language} if language else {}
    return encode_json({"speaker": speaker, "text": text, **times, **detected})


def _clock(samples: int) -> str:
    """H:MM:SS.cc"""
    hundredths = samples * 100 // SAMPLE_RATE
    minutes, hundredths = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{hundredths // 100:02}.{hundredths % 100:02}"


def _error(code: str, message: str) -> str:
    return encode_json({"type": "error", "error": message[:MAX_ERROR_CHARS], "code": code})
