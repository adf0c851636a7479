"""``WS /v1/realtime``: the path that OpenAI's and vLLM's protocols share, and vLLM's dialect.

The server's first message is valid in both; the client's first message shows which of them it uses.
In vLLM's, 16 kHz PCM comes in and words go out as ``transcription.delta`` when they are committed.
The ``commit`` that begins a transcription changes nothing; a final one brings out the rest and is
answered by ``transcription.done``, whose text is exactly the deltas since the one before.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from voxlive.checkpoints.languages import UnknownLanguage, language_of
from voxlive.engines.contract import EngineInfo, StreamOptions
from voxlive.errors import ProtocolError, RequestRefused, close_code
from voxlive.streaming.events import Event, Flushed, SessionClosed, SessionError, Words
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.values import SAMPLE_RATE, seconds
from voxlive.web.protocols.contract import (
    ENDING_CODES,
    MAX_APPEND,
    MAX_ERROR_CHARS,
    Action,
    CloseSocket,
    Denial,
    FindEngine,
    FlushSession,
    HandshakeResponse,
    OpenSession,
    Out,
    Protocol,
    Refuse,
    Reply,
    audio_frames,
    close_session,
)
from voxlive.web.protocols.fields import (
    Json,
    encode_json,
    encode_message,
    flag,
    language,
    may_be_json,
    parse_message,
    quoted,
    string,
)
from voxlive.web.protocols.openai import OpenAIRealtimeProtocol

_AUDIO = AudioFormat("s16le", SAMPLE_RATE)
_SAMPLE_BYTES = 2  # bytes
_MAX_NAME_CHARS = 200


class VllmProtocol(Protocol):
    """One client of vLLM's dialect. One engine is meant by any model's name."""

    name = "vllm_realtime"
    max_text: ClassVar[int] = MAX_APPEND

    def __init__(self, params: Mapping[str, str], _info: EngineInfo) -> None:
        self._language_param = params.get("language")
        self._language: str | None = None
        self._find: FindEngine | None = None
        self._model: str | None = None
        self._updated = self._opened = False
        self._bytes = 0
        self._reported_bytes = 0  # of those, in the usage of earlier dones
        self._text = ""
        self._ending = SessionError("shutting_down", "the server is shutting down", fatal=False)

    def offer_engines(self, find: FindEngine) -> None:
        """``session.update`` may name one."""
        self._find = find

    def connected(self) -> list[Out]:
        """``session.created``. The URL may have a language."""
        try:
            self._language = language_of(self._language_param)
        except UnknownLanguage as error:
            raise ProtocolError("bad_parameter", str(error)) from error
        ident = f"sess-{secrets.token_hex(12)}"
        return [encode_message("session.created", id=ident, created=int(time.time()))]

    def received(self, frame: str | bytes) -> list[Action]:
        """A client's event; one that is wrong is refused, and the session goes on."""
        if not may_be_json(frame):
            return [Refuse("invalid_event", "audio comes as base64 in input_audio_buffer.append")]
        try:
            kind, message = parse_message(frame)
        except ValueError as error:
            return [Refuse("invalid_json", str(error))]
        match kind:
            case "session.update":
                return self._update(message)
            case "input_audio_buffer.append":
                return self._append(message)
            case "input_audio_buffer.commit":
                return self._commit(message)
            case _:
                return [Refuse("unknown_event", f"{quoted(kind)} is not a message type")]

    def _update(self, message: Json) -> list[Action]:
        """What it says counts until the first audio."""
        try:
            if "language" in message:
                self._language = language(message)
            if self._find and "model" in message:
                model = string(message, "model", _MAX_NAME_CHARS)
                self._find(model)
                self._model = model
        except ValueError as error:
            return [Refuse("invalid_event", str(error))]
        except RequestRefused as error:
            return [Refuse(error.code, error.message)]
        self._updated = True
        return []

    def _append(self, message: Json) -> list[Action]:
        try:
            pieces = audio_frames(message)
        except ValueError as error:
            return [Refuse("invalid_audio", str(error))]
        if not pieces:
            return [Refuse("invalid_audio", "there is no audio in this append")]
        self._bytes += sum(len(piece.data) for piece in pieces)
        stream = StreamOptions(self._language, drafts=False)
        options = SessionOptions(_AUDIO, stream=stream, model=self._model)
        opening = [] if self._opened else [OpenSession(options)]
        self._opened = True
        return [*opening, *pieces]

    def _commit(self, message: Json) -> list[Action]:
        if not self._updated:
            return [Refuse("model_not_validated", "send session.update with a model first")]
        try:
            final = flag(message, "final", False)
        except ValueError as error:
            return [Refuse("invalid_event", str(error))]
        if not final:
            return []
        # The marker says how much audio its done accounts for.
        return [FlushSession(str(self._bytes))] if self._opened else [Reply(self._done(0))]

    def on_event(self, event: Event) -> list[Out]:
        """Words as they are committed, and what a final commit is answered by."""
        match event:
            case Words():
                delta = event.text if self._text else event.text.lstrip()
                self._text += delta
                return [encode_message("transcription.delta", delta=delta)] if delta else []
            case Flushed(marker):
                return [self._done(int(marker))]
            case SessionError(code, message, True):
                return self.failed(code, message)
            case SessionError(code) if code in ENDING_CODES:
                self._ending = event
                return []
            case SessionClosed():
                # Only the server or a limit closes a session: clients just go.
                return [self._done(self._bytes), *close_session(self._ending, self.failed)]
            case _:
                return []

    def _done(self, received: int) -> str:
        """Engines do not count tokens, so the usage is the audio's length."""
        length = seconds((received - self._reported_bytes) // _SAMPLE_BYTES)
        text, self._text, self._reported_bytes = self._text, "", received
        usage = {"type": "duration", "seconds": length}
        return encode_message("transcription.done", text=text, usage=usage)

    def refused(self, code: str, message: str) -> list[Out]:
        """An ``error``, whose message is a plain string; the session goes on."""
        return [encode_message("error", error=message[:MAX_ERROR_CHARS], code=code)]

    def failed(self, code: str, message: str) -> list[Out]:
        """An ``error`` and the close."""
        return [*self.refused(code, message), CloseSocket(close_code(code))]


class RealtimeProtocol(Protocol):
    """One client of either. Until it has sent a valid message, it is taken for OpenAI's."""

    name = OpenAIRealtimeProtocol.name
    names: ClassVar[tuple[str, ...]] = (OpenAIRealtimeProtocol.name, VllmProtocol.name)

    # Where clients of Speaches put it.
    key_params: ClassVar[tuple[str, ...]] = ("api_key",)

    # That of vLLM's own examples.
    default_models: ClassVar[tuple[str, ...]] = ("mistralai/Voxtral-Mini-4B-Realtime-2602",)

    max_text: ClassVar[int] = MAX_APPEND

    def __init__(self, params: Mapping[str, str], info: EngineInfo) -> None:
        self._vllm = VllmProtocol(params, info)
        self._active: Protocol = OpenAIRealtimeProtocol(params, info)
        self._decided = False

    def handshake_response(self, offered: Sequence[str]) -> HandshakeResponse:
        """As OpenAI's: vLLM has no sub-protocol."""
        return self._active.handshake_response(offered)

    def offer_engines(self, find: FindEngine) -> None:
        """To either."""
        for protocol in (self._vllm, self._active):
            protocol.offer_engines(find)

    def apply_settings(self, settings: Json | None) -> None:
        """As OpenAI's: it has client secrets."""
        self._active.apply_settings(settings)

    def denied(self, code: str, message: str) -> Denial | None:
        """As OpenAI's."""
        return self._active.denied(code, message)

    def connected(self) -> list[Out]:
        """One ``session.created`` with the fields of both."""
        fields: dict[str, object] = {}
        for protocol in (self._vllm, self._active):
            [created] = protocol.connected()
            fields |= json.loads(str(created))
        return [encode_json(fields)]

    def received(self, frame: str | bytes) -> list[Action]:
        """The first message decides who answers this and all others."""
        if not self._decided:
            with contextlib.suppress(ValueError):
                self._decide(*parse_message(frame))
        return self._active.received(frame)

    def _decide(self, kind: str, message: Json) -> None:
        self._decided = True
        names_a_model = "model" in message and "session" not in message
        if (kind == "session.update" and names_a_model) or (
            kind == "input_audio_buffer.commit" and "final" in message
        ):
            self._active = self._vllm
            self.name = self._vllm.name

    def opened(self, session: str, options: SessionOptions) -> list[Out]:
        """As the client's protocol has it, like everything below."""
        return self._active.opened(session, options)

    def on_event(self, event: Event) -> list[Out]:
        """An event."""
        return self._active.on_event(event)

    def tick(self) -> list[Out]:
        """What was held back."""
        return self._active.tick()

    def refused(self, code: str, message: str) -> list[Out]:
        """A refusal."""
        return self._active.refused(code, message)

    def failed(self, code: str, message: str) -> list[Out]:
        """The end."""
        return self._active.failed(code, message)
