"""Deepgram's live transcription, ``WS /v1/listen``.

The session opens with the handshake, whose query holds every option, so that what is not supported
is refused by HTTP. Words become final once: at a pause, at a Finalize, at the end, or when they
have become five seconds of speech. An utterance has one ``speech_final``, with its last words. With
``multichannel`` each channel has results of its own, all of them on one connection.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from voxlive.engines.contract import EngineInfo
from voxlive.errors import close_code, status_of
from voxlive.speakers.labels import SpeakersFound, WordLabels
from voxlive.streaming.events import (
    Draft,
    Event,
    Flushed,
    LanguageDetected,
    SessionCheckpoint,
    SessionClosed,
    SessionError,
    SessionWarning,
    SpeechStarted,
    UtteranceEnded,
    Words,
)
from voxlive.streaming.intake import SessionOptions
from voxlive.values import SAMPLE_RATE, Word, seconds
from voxlive.web.protocols.contract import (
    ENDING_CODES,
    MAX_ERROR_CHARS,
    Action,
    AudioFrame,
    CloseSocket,
    Denial,
    FlushSession,
    HandshakeResponse,
    Out,
    Protocol,
    Refuse,
    Reply,
    StopSession,
    close_session,
)
from voxlive.web.protocols.deepgram import wire
from voxlive.web.protocols.deepgram.wire import DeepgramQuery, read_query
from voxlive.web.protocols.fields import (
    Json,
    encode_message,
    is_json,
    parse_message,
    quoted,
)

_RECEIVE_TIMEOUT_S = 10.0
_MAX_FINAL = 5 * SAMPLE_RATE
_TICK_S = 0.1
_MAX_REASON = 123
_MAX_ONSETS = 100
# The close codes, and what the reason begins with, that its clients know.
_CLOSE_REASONS = {"bad_audio": (1008, "DATA-0000"), "idle": (1011, "NET-0001")}


class UtteranceGap:
    """When to send ``UtteranceEnd``: once ``ms`` have passed without speech after a final word.

    The sample clock decides wherever speech or the end of the audio is known; while no speech is
    found, the time that passes does.
    """

    def __init__(self, ms: int | None) -> None:
        self._enabled = ms
        self._samples = (ms or 0) * SAMPLE_RATE // 1000
        self._last_word: int | None = None
        self._remaining_s: float | None = None  # None: the speech of the last word goes on
        # Speech whose end is not known. Only a stream without any pause could fill this up.
        self._onsets: deque[int] = deque(maxlen=_MAX_ONSETS)

    def on_final_word(self, end: int) -> None:
        """A final word ends at this sample."""
        self._last_word = end if self._enabled else None
        self._remaining_s = None

    def on_speech(self, at: int) -> None:
        """Speech begins, or all audio ends, at this sample."""
        self._onsets.append(at)

    def on_pause(self, upto: int) -> None:
        """A pause, the beginning of which lies before ``upto``."""
        while self._onsets and self._onsets[0] < upto:
            self._onsets.popleft()
        if self._last_word is not None:
            self._remaining_s = (self._samples - (upto - self._last_word)) / SAMPLE_RATE

    def expired(self, passed_s: float) -> int | None:
        """The end of the last word if the gap is over, ``passed_s`` after the last call."""
        last = self._last_word
        if last is None:
            return None
        if self._onsets:
            due = self._onsets[0] - last >= self._samples
        elif self._remaining_s is None:
            due = False
        else:
            self._remaining_s -= passed_s
            due = self._remaining_s <= 0
        if not due:
            return None
        self._last_word = self._remaining_s = None
        return last


class DeepgramChannel:
    """The results of one channel: ``index`` of ``count``, in ``channel_index``.

    ``metadata`` is what every result says of the model.
    """

    def __init__(
        self, index: int, count: int, query: DeepgramQuery, metadata: Mapping[str, object]
    ) -> None:
        self._index = [index, count]
        self._query = query
        self._metadata = metadata
        self._gap = UtteranceGap(query.utterance_end_ms)
        self._words: list[Word] = []  # committed and not yet in a final result
        self._labels = WordLabels() if query.diarize else None
        self._draft = ""
        self._language: str | None = None
        self._changed = False
        self._final_end = 0  # end of the last final result
        # What no speech_final has followed yet: words, and speech that may have none.
        self._has_words = False
        self._onsets: deque[int] = deque(maxlen=_MAX_ONSETS)

    def on_event(self, event: Event) -> list[Out]:
        """Final results, and the events that were requested; interim results wait for a tick."""
        match event:
            case Words(segment, words):
                self._words.extend(words)
                if self._labels:
                    self._labels.add(segment, len(words))
                self._changed = self._has_words = True
            case Draft(_, text):
                self._draft = text
                self._changed = True
            case SpeakersFound(ranges) if self._labels:
                self._labels.on_found(ranges)
                self._changed = True
            case LanguageDetected(language):
                self._language = language
            case SpeechStarted(at):
                self._gap.on_speech(at)
                self._onsets.append(at)
                channel = self._index if self._index[1] > 1 else [0]
                started = encode_message("SpeechStarted", channel=channel, timestamp=seconds(at))
                return [*([started] if self._query.vad_events else []), *self._utterance_end()]
            case UtteranceEnded(upto):
                outs = self.final(speech_final=self._ends_utterance(upto))
                self._gap.on_pause(upto)
                return [*outs, *self._utterance_end()]
            case Flushed():
                return self.final(speech_final=self._ends_utterance(), from_finalize=True)
        return []

    def _ends_utterance(self, upto: int | None = None) -> bool:
        """Whether an utterance ends here that has not ended: with words or, at a pause, without."""
        ended, self._has_words = self._has_words, False
        while self._onsets and (ended if upto is None else self._onsets[0] < upto):
            self._onsets.popleft()
            ended = True
        return ended and self._query.endpointing

    def tick(self) -> list[Out]:
        """An interim result if anything has changed, a final one if it has become long."""
        outs = self._utterance_end(passed_s=_TICK_S)
        words, changed = self._words, self._changed
        self._changed = False
        if words and words[-1].end - words[0].start >= _MAX_FINAL:
            return [*self.final(), *outs]
        text = _text(words) + self._draft
        if changed and self._query.interim_results and text.strip():
            outs.append(self._results(text, words))
        return outs

    def final(self, *, speech_final: bool = False, from_finalize: bool = False) -> list[Out]:
        """The words so far as a final result, which is empty where only its flags matter."""
        words, self._words = self._words, []
        self._changed = bool(self._draft)
        if not (words or speech_final or from_finalize):
            return []
        results = self._results(
            _text(words),
            words,
            is_final=True,
            speech_final=speech_final,
            from_finalize=from_finalize,
        )
        if self._labels:
            self._labels.forget()
        if words:
            self._final_end = max(self._final_end, words[-1].end)
            self._gap.on_final_word(words[-1].end)
        return [results]

    def finish(self, samples: int) -> list[Out]:
        """All audio has ended, after so many samples."""
        outs = self.final()
        self._gap.on_speech(samples)
        return [*outs, *self._utterance_end()]

    def _utterance_end(self, *, passed_s: float = 0.0) -> list[Out]:
        last = self._gap.expired(passed_s)
        if last is None:
            return []
        return [encode_message("UtteranceEnd", channel=self._index, last_word_end=seconds(last))]

    def _results(self, text: str, words: Sequence[Word], **flags: bool) -> str:
        """A result for the audio after the last final one, up to the end of the last word."""
        end = max(self._final_end, words[-1].end) if words else self._final_end
        speakers = self._labels.speakers if self._labels else ()
        return encode_message(
            "Results",
            channel_index=self._index,
            start=seconds(self._final_end),
            duration=seconds(end - self._final_end),
            **{"is_final": False, "speech_final": False, "from_finalize": False, **flags},
            channel={"alternatives": [wire.alternative(text, words, self._language, speakers)]},
            metadata=self._metadata,
        )


class DeepgramProtocol(Protocol):
    """One client of Deepgram's protocol."""

    name = "deepgram"
    tick_s: ClassVar[float | None] = _TICK_S

    def __init__(self, params: Mapping[str, str], info: EngineInfo) -> None:
        self._params = params
        self._info = info
        self._model = wire.model(info.model, info.engine)
        self._request_id = str(uuid.uuid4())
        self._created = wire.now()
        self._digest = hashlib.sha256()
        self._ended = False
        self._ending: SessionError | None = None
        self._channels: dict[str, DeepgramChannel] = {}  # by source

    def handshake_response(self, offered: Sequence[str]) -> HandshakeResponse:
        """Browsers offer ``token`` or ``bearer`` and their key: the first is selected."""
        return HandshakeResponse(
            offered[0] if offered else None, {"dg-request-id": self._request_id}
        )

    def options_from_handshake(self) -> SessionOptions:
        """The session that the query asks for."""
        query = self._query = read_query(self._params)
        ident, description = self._model
        metadata = {
            "request_id": self._request_id,
            "model_info": description,
            "model_uuid": ident,
        }
        sources = query.sources or ("",)
        self._channels = {
            source: DeepgramChannel(index, len(sources), query, metadata)
            for index, source in enumerate(sources)
        }
        return query.options(self._info)

    def denied(self, code: str, message: str) -> Denial:
        """An HTTP error."""
        return wire.refusal(status_of(code), message, self._request_id)

    @property
    def receive_timeout_s(self) -> float | None:
        """Ten seconds, until the client has ended its audio."""
        return None if self._ended else _RECEIVE_TIMEOUT_S

    def received(self, frame: str | bytes) -> list[Action]:
        """Audio and commands. An empty frame ends the audio; what is late is dropped."""
        if self._ended:
            return []
        if isinstance(frame, bytes) and not is_json(frame):
            self._digest.update(frame)
            return [AudioFrame(frame)] if frame else self._end_audio()
        try:
            return self._command(*parse_message(frame))
        except ValueError as error:
            return [Refuse("bad_message", str(error))]

    def _command(self, kind: str, message: Json) -> list[Action]:
        match kind:
            case "KeepAlive":
                return []
            case "Finalize":
                return [FlushSession("Finalize")]
            case "CloseStream":
                return self._end_audio()
            case "Configure":
                return [Reply(self._configure(message))]
            case _:
                known = "KeepAlive, Finalize, CloseStream, Configure"
                raise ValueError(f"{quoted(kind)} is not a message type: use {known}")

    def _end_audio(self) -> list[Action]:
        self._ended = True
        return [StopSession()]

    def _configure(self, message: Json) -> str:
        for name in ("keyterms", "features"):
            if message.get(name):
                return encode_message(
                    "ConfigureFailure",
                    request_id=self._request_id,
                    code=f"CONFIGURE_{name.upper()}_NOT_SUPPORTED",
                    description=f"this server has no {name} to set",
                )
        return encode_message("ConfigureSuccess", request_id=self._request_id)

    def on_event(self, event: Event) -> list[Out]:
        """Results of the channel that an event is of, or of all of them."""
        match event:
            case Flushed():
                return self._of_all(lambda channel: channel.on_event(event))
            case SessionError(code, _, fatal=False) if code in ENDING_CODES:
                self._ending = event  # reported after the last words
            case SessionError(code, message, fatal):
                return self.failed(code, message) if fatal else self.refused(code, message)
            case SessionClosed(samples):
                return self._last_messages(samples)
            case SessionWarning() | SessionCheckpoint():
                pass
            case _:
                return self._channels[event.source].on_event(event)
        return []

    def _of_all(self, of_one: Callable[[DeepgramChannel], list[Out]]) -> list[Out]:
        return [out for channel in self._channels.values() for out in of_one(channel)]

    def tick(self) -> list[Out]:
        """What has been held back since the last tick."""
        return self._of_all(DeepgramChannel.tick)

    def _last_messages(self, samples: int) -> list[Out]:
        metadata = wire.metadata(
            self._request_id,
            self._created,
            self._digest.hexdigest(),
            seconds(samples),
            self._query.audio.channels,
            self._model,
        )
        return [
            *self._of_all(lambda channel: channel.finish(samples)),
            encode_message("Metadata", **metadata),
            *close_session(None if self._ended else self._ending, self._error_and_close),
        ]

    def refused(self, code: str, message: str) -> list[Out]:
        """An ``Error``; the session goes on."""
        variant = "SchemaError" if code == "bad_message" else code
        return [encode_message("Error", variant=variant, description=message[:MAX_ERROR_CHARS])]

    def failed(self, code: str, message: str) -> list[Out]:
        """The words so far, an ``Error``, and the close with its reason."""
        return [*self._of_all(DeepgramChannel.final), *self._error_and_close(code, message)]

    def _error_and_close(self, code: str, message: str) -> list[Out]:
        close, name = _CLOSE_REASONS.get(code, (close_code(code), code))
        reason = f"{name}: {message}".encode("ascii", "replace")[:_MAX_REASON].decode()
        return [*self.refused(code, message), CloseSocket(close, reason=reason)]


def _text(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)
