"""vLLM's dialect of ``WS /v1/realtime``: 16 kHz PCM in, ``transcription.delta`` out.

Words are told as they are committed; the ``commit`` that begins a transcription changes nothing.
A final one brings out the rest and is answered by ``transcription.done``, whose text is exactly the
deltas since the one before. Then more may come.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import ClassVar

from ...checkpoints.languages import UnknownLanguage, language_of
from ...streaming.clock import SAMPLE_RATE, seconds
from ...streaming.engine import EngineInfo, StreamOptions
from ...streaming.events import Event, Flushed, SessionClosed, SessionError, Words
from ...streaming.ingest import AudioFormat
from ...streaming.options import SessionOptions
from .appended import MAX_APPEND, appended
from .compact import compact
from .contract import (
    ENDINGS,
    LONGEST_ERROR,
    MAX_BINARY,
    Action,
    Close,
    Flush,
    Open,
    Out,
    Protocol,
    ProtocolError,
    Refuse,
    Reply,
    close_code,
)
from .fields import Json, flag, language, parse, show

_AUDIO = AudioFormat("s16le", SAMPLE_RATE)
_SAMPLE = 2  # bytes


class VllmProtocol(Protocol):
    """One client of vLLM's dialect. Any model's name is taken for the one that is served."""

    name = "vllm_realtime"
    max_text: ClassVar[int] = MAX_APPEND
    max_binary: ClassVar[int] = MAX_BINARY
    tick_s: ClassVar[float | None] = None

    def __init__(self, params: Mapping[str, str], _info: EngineInfo) -> None:
        self._asked = params.get("language")
        self._language: str | None = None
        self._updated = self._opened = False
        self._bytes = 0
        self._told = 0  # of those, in the usage of earlier dones
        self._text = ""
        self._ending = SessionError("shutting_down", "the server is shutting down", fatal=False)

    def connected(self) -> list[Out]:
        """``session.created``. A language may stand in the URL already."""
        try:
            self._language = language_of(self._asked)
        except UnknownLanguage as error:
            raise ProtocolError("bad_parameter", str(error)) from error
        ident = f"sess-{secrets.token_hex(12)}"
        return [_message("session.created", id=ident, created=int(time.time()))]

    def received(self, frame: str | bytes) -> list[Action]:
        """A client's event; one that is wrong is refused, and the session goes on."""
        if isinstance(frame, bytes) and not frame.lstrip().startswith(b"{"):
            return [Refuse("invalid_event", "audio comes as base64 in input_audio_buffer.append")]
        try:
            kind, message = parse(frame)
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
                return [Refuse("unknown_event", f"{show(kind)} is not a message type")]

    def _update(self, message: Json) -> list[Action]:
        """The model's name is any. The language counts until the first audio."""
        try:
            if "language" in message:
                self._language = language(message)
        except ValueError as error:
            return [Refuse("invalid_event", str(error))]
        self._updated = True
        return []

    def _append(self, message: Json) -> list[Action]:
        try:
            pieces = appended(message)
        except ValueError as error:
            return [Refuse("invalid_audio", str(error))]
        if not pieces:
            return [Refuse("invalid_audio", "there is no audio in this append")]
        self._bytes += sum(len(piece.data) for piece in pieces)
        stream = StreamOptions(self._language, drafts=False)
        opening = [] if self._opened else [Open(SessionOptions(_AUDIO, stream=stream))]
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
        return [Flush(str(self._bytes))] if self._opened else [Reply(self._done(0))]

    def opened(self, _session: str, _options: SessionOptions) -> list[Out]:
        """Nothing: the client was told at the start."""
        return []

    def told(self, event: Event) -> list[Out]:
        """Words as they are committed, and what a final commit is answered by."""
        match event:
            case Words():
                delta = event.text if self._text else event.text.lstrip()
                self._text += delta
                return [_message("transcription.delta", delta=delta)] if delta else []
            case Flushed(marker):
                return [self._done(int(marker))]
            case SessionError(code, message, True):
                return self.failed(code, message)
            case SessionError(code) if code in ENDINGS:
                self._ending = event
                return []
            case SessionClosed():
                # Only the server or a limit closes a session: clients just go.
                return [self._done(self._bytes), *self._close()]
            case _:
                return []

    def _close(self) -> list[Out]:
        if self._ending.code == "shutting_down":
            return [Close(close_code("shutting_down"))]
        return self.failed(self._ending.code, self._ending.message)

    def _done(self, received: int) -> str:
        """Engines do not count tokens, so the usage is the audio's length."""
        length = seconds((received - self._told) // _SAMPLE)
        text, self._text, self._told = self._text, "", received
        usage = {"type": "duration", "seconds": length}
        return _message("transcription.done", text=text, usage=usage)

    def tick(self) -> list[Out]:
        """Nothing is ever held back."""
        return []

    def refused(self, code: str, message: str) -> list[Out]:
        """An ``error``, whose message is a plain string; the session goes on."""
        return [_message("error", error=message[:LONGEST_ERROR], code=code)]

    def failed(self, code: str, message: str) -> list[Out]:
        """An ``error`` and the close."""
        return [*self.refused(code, message), Close(close_code(code))]


def _message(kind: str, **fields: object) -> str:
    return compact({"type": kind, **fields})
