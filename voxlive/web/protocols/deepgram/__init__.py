"""The silence after a word that Deepgram's ``UtteranceEnd`` tells.

Deepgram's live transcription, ``WS /v1/listen``.

The session opens with the handshake, whose query says all there is to say, so that what cannot be
done is refused by HTTP. Words are final once: at a pause, at a Finalize, at the end, or when they
have become five seconds of speech. An utterance has one ``speech_final``, with its last words.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from typing import ClassVar

from voxlive.engines.contract import EngineInfo
from voxlive.errors import close_code, status_of
from voxlive.streaming.events import (
    Draft,
    Event,
    Flushed,
    SessionClosed,
    SessionError,
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
from voxlive.web.protocols.deepgram import messages as shapes
from voxlive.web.protocols.deepgram.query import read_query
from voxlive.web.protocols.fields import (
    Json,
    encode_message,
    is_json,
    parse_message,
    quoted,
)

_MAX_GAP_ONSETS = 100


class UtteranceGap:
    """When to say ``UtteranceEnd``: the first time that ``ms`` pass after a final word in silence.

    The sample clock decides wherever speech or the end of the audio tells it, and the time that
    passes while nothing is heard.
    """

    def __init__(self, ms: int | None) -> None:
        self._wanted = ms
        self._samples = (ms or 0) * SAMPLE_RATE // 1000
        self._last: int | None = None
        self._left_s: float | None = None  # None: the speech of the last word goes on
        # Speech whose end has not been told. Only a stream without any pause could fill this up.
        self._onsets: deque[int] = deque(maxlen=_MAX_GAP_ONSETS)

    def said(self, end: int) -> None:
        """A final word ends at this sample."""
        self._last = end if self._wanted else None
        self._left_s = None

    def started(self, at: int) -> None:
        """Speech, or the end of all audio."""
        self._onsets.append(at)

    def ended(self, upto: int) -> None:
        """A pause, the beginning of which lies before ``upto``."""
        while self._onsets and self._onsets[0] < upto:
            self._onsets.popleft()
        if self._last is not None:
            self._left_s = (self._samples - (upto - self._last)) / SAMPLE_RATE

    def over(self, passed_s: float) -> int | None:
        """The end of the last word if it is time to say so, ``passed_s`` after the last call."""
        last = self._last
        if last is None:
            return None
        if self._onsets:
            due = self._onsets[0] - last >= self._samples
        elif self._left_s is None:
            due = False
        else:
            self._left_s -= passed_s
            due = self._left_s <= 0
        if not due:
            return None
        self._last = self._left_s = None
        return last


_PATIENCE_S = 10.0
_LONGEST_FINAL = 5 * SAMPLE_RATE
_TICK_S = 0.1
_LONGEST_REASON = 123
_MOST_ONSETS = 100
# The close codes and payloads that its clients know.
_CLOSES = {"bad_audio": (1008, "DATA-0000"), "idle": (1011, "NET-0001")}


class DeepgramProtocol(Protocol):
    """One client of Deepgram's protocol."""

    name = "deepgram"
    tick_s: ClassVar[float | None] = _TICK_S

    def __init__(self, params: Mapping[str, str], info: EngineInfo) -> None:
        self._params = params
        self._model = shapes.model(info.model, info.engine)
        self._request = str(uuid.uuid4())
        self._created = shapes.now()
        self._digest = hashlib.sha256()
        self._ended = False
        self._ending: SessionError | None = None
        self._words: list[Word] = []  # committed and not yet in a final result
        self._draft = ""
        self._changed = False
        self._upto = 0  # end of the last final result
        # What no speech_final has followed yet: words, and speech that may have none.
        self._spoken = False
        self._onsets: deque[int] = deque(maxlen=_MOST_ONSETS)

    def handshake_response(self, offered: Sequence[str]) -> HandshakeResponse:
        """Browsers offer ``token`` or ``bearer`` and their key: the first is selected."""
        return HandshakeResponse(offered[0] if offered else None, {"dg-request-id": self._request})

    def options_from_handshake(self) -> SessionOptions:
        """The session that the query asks for."""
        self._query = read_query(self._params)
        self._gap = UtteranceGap(self._query.utterance_end_ms)
        return self._query.options

    def denied(self, code: str, message: str) -> Denial:
        """An HTTP error."""
        return shapes.refusal(status_of(code), message, self._request)

    @property
    def receive_timeout_s(self) -> float | None:
        """Ten seconds, until the client has said that it is done."""
        return None if self._ended else _PATIENCE_S

    def received(self, frame: str | bytes) -> list[Action]:
        """Audio and commands. An empty frame ends the audio; what is late is dropped."""
        if self._ended:
            return []
        if isinstance(frame, bytes) and not is_json(frame):
            self._digest.update(frame)
            return [AudioFrame(frame)] if frame else self._end()
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
                return self._end()
            case "Configure":
                return [Reply(self._configure(message))]
            case _:
                known = "KeepAlive, Finalize, CloseStream, Configure"
                raise ValueError(f"{quoted(kind)} is not a message type: use {known}")

    def _end(self) -> list[Action]:
        self._ended = True
        return [StopSession()]

    def _configure(self, message: Json) -> str:
        for name in ("keyterms", "features"):
            if message.get(name):
                return encode_message(
                    "ConfigureFailure",
                    request_id=self._request,
                    code=f"CONFIGURE_{name.upper()}_NOT_SUPPORTED",
                    description=f"this server has no {name} to set",
                )
        return encode_message("ConfigureSuccess", request_id=self._request)

    def on_event(self, event: Event) -> list[Out]:
        """Final results, and what was asked for besides; interim results wait for a tick."""
        match event:
            case Words(_, words):
                self._words.extend(words)
                self._changed = self._spoken = True
            case Draft(_, text):
                self._draft = text
                self._changed = True
            case SpeechStarted(at):
                self._gap.started(at)
                self._onsets.append(at)
                started = encode_message("SpeechStarted", channel=[0], timestamp=seconds(at))
                return [*([started] if self._query.vad_events else []), *self._utterance_end()]
            case UtteranceEnded(upto):
                outs = self._finish(speech_final=self._ends(upto))
                self._gap.ended(upto)
                return [*outs, *self._utterance_end()]
            case Flushed():
                return self._finish(speech_final=self._ends(), from_finalize=True)
            case SessionError(code, _, fatal=False) if code in ENDING_CODES:
                self._ending = event  # told after the tail
            case SessionError(code, message, fatal):
                return self.failed(code, message) if fatal else self.refused(code, message)
            case SessionClosed(samples):
                return self._goodbye(samples)
        return []

    def _ends(self, upto: int | None = None) -> bool:
        """Whether an utterance ends here that has not: one with words or, at a pause, without."""
        ended, self._spoken = self._spoken, False
        while self._onsets and (ended if upto is None else self._onsets[0] < upto):
            self._onsets.popleft()
            ended = True
        return ended and self._query.endpointing

    def tick(self) -> list[Out]:
        """An interim result if anything has changed, a final one if it has become long."""
        outs = self._utterance_end(passed_s=_TICK_S)
        words, changed = self._words, self._changed
        self._changed = False
        if words and words[-1].end - words[0].start >= _LONGEST_FINAL:
            return [*self._finish(), *outs]
        text = _text(words) + self._draft
        if changed and self._query.interim_results and text.strip():
            outs.append(self._results(text, words))
        return outs

    def _finish(self, *, speech_final: bool = False, from_finalize: bool = False) -> list[Out]:
        """The words so far as a final result; an empty one where the marks are what counts."""
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
        if words:
            self._upto = max(self._upto, words[-1].end)
            self._gap.said(words[-1].end)
        return [results]

    def _utterance_end(self, *, passed_s: float = 0.0) -> list[Out]:
        last = self._gap.over(passed_s)
        if last is None:
            return []
        return [encode_message("UtteranceEnd", channel=[0, 1], last_word_end=seconds(last))]

    def _goodbye(self, samples: int) -> list[Out]:
        outs = self._finish()
        self._gap.started(samples)
        facts = shapes.metadata(
            self._request,
            self._created,
            self._digest.hexdigest(),
            seconds(samples),
            self._query.audio.channels,
            self._model,
        )
        return [
            *outs,
            *self._utterance_end(),
            encode_message("Metadata", **facts),
            *close_session(None if self._ended else self._ending, self._failure),
        ]

    def _results(self, text: str, words: Sequence[Word], **marks: bool) -> str:
        """A result for the audio after the last final one, up to the last word's known end."""
        end = max(self._upto, words[-1].end) if words else self._upto
        ident, description = self._model
        return encode_message(
            "Results",
            channel_index=[0, 1],
            start=seconds(self._upto),
            duration=seconds(end - self._upto),
            **{"is_final": False, "speech_final": False, "from_finalize": False, **marks},
            channel={"alternatives": [shapes.alternative(text, words)]},
            metadata={
                "request_id": self._request,
                "model_info": description,
                "model_uuid": ident,
            },
        )

    def refused(self, code: str, message: str) -> list[Out]:
        """An ``Error``; the session goes on."""
        variant = "SchemaError" if code == "bad_message" else code
        return [encode_message("Error", variant=variant, description=message[:MAX_ERROR_CHARS])]

    def failed(self, code: str, message: str) -> list[Out]:
        """What was said, an ``Error``, and the close with its payload."""
        return [*self._finish(), *self._failure(code, message)]

    def _failure(self, code: str, message: str) -> list[Out]:
        number, payload = _CLOSES.get(code, (close_code(code), code))
        reason = f"{payload}: {message}".encode("ascii", "replace")[:_LONGEST_REASON].decode()
        return [*self.refused(code, message), CloseSocket(number, reason=reason)]


def _text(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)
