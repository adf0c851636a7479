"""OpenAI's Realtime API for transcription, today's and the beta's dialect of it.

The session opens with the first audio, with the configuration that is in force then. A later one
takes effect from that point of the audio on; what came before is brought out first. Clients take
every ``error`` for the end, so there is one only for what cannot be done.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from voxlive.engines.contract import EngineInfo
from voxlive.errors import ProtocolError, close_code, status_of
from voxlive.streaming.events import (
    Event,
    Flushed,
    SessionClosed,
    SessionError,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
    Words,
)
from voxlive.streaming.ingest.formats import ENCODINGS
from voxlive.streaming.intake import SessionOptions
from voxlive.values import SAMPLE_RATE
from voxlive.web.protocols.contract import (
    DENIAL_CODES,
    ENDING_CODES,
    MAX_APPEND,
    MAX_ERROR_CHARS,
    Action,
    AudioFrame,
    CloseSocket,
    Denial,
    FlushSession,
    HandshakeResponse,
    OpenSession,
    Out,
    Protocol,
    ReconfigureSession,
    Reply,
    audio_frames,
)
from voxlive.web.protocols.fields import (
    Json,
    encode_json,
    may_be_json,
    parse_message,
    quoted,
    string,
)
from voxlive.web.protocols.openai.config import BadField, Config, is_flat
from voxlive.web.protocols.openai.items import CommittedTurns, Conversation, Message, SpokenTurns

SUBPROTOCOL = "realtime"
_LEAST = SAMPLE_RATE // 10
_LONGEST_ID = 512
_OURS = (1011, 1012, 1013)


class OpenAIRealtimeProtocol(Protocol):
    """One client of OpenAI's protocol.

    ``_intake`` takes the turns of the audio that comes in, ``_turns`` those of what is being told:
    they are the same, but for the time that an update needs to come through the session.
    """

    name = "openai_realtime"
    max_text: ClassVar[int] = MAX_APPEND

    def __init__(self, params: Mapping[str, str], info: EngineInfo) -> None:
        self._language = params.get("language")
        self._info = info
        self._session = f"sess_{secrets.token_hex(12)}"
        self._config = Config()
        self._options: SessionOptions | None = None
        self._conversation = Conversation()
        self._pending: deque[Callable[[], Iterable[Message]]] = deque()
        self._earlier = 0  # samples heard in earlier formats
        self._bytes = 0  # and in this one
        self._parted = 0  # heard up to the client's last commit or clear
        self._messages = 0
        self._ending = SessionError("shutting_down", "the server is shutting down", fatal=False)
        self._intake = self._turns = self._turns_of(self._config)

    def handshake_response(self, offered: Sequence[str]) -> HandshakeResponse:
        """Browsers offer the protocol's name and a key; they want the name back."""
        return HandshakeResponse(SUBPROTOCOL if SUBPROTOCOL in offered else None)

    def apply_settings(self, settings: object) -> None:
        """The session that a client secret was made for is in force from the start."""
        if isinstance(settings, Config):
            self._config = settings
            self._intake = self._turns = self._turns_of(settings)

    def denied(self, code: str, message: str) -> Denial | None:
        """An HTTP error for those who may not connect; the rest is told on the socket."""
        if code not in DENIAL_CODES:
            return None
        status = status_of(code)
        kind = "rate_limit_error" if status == 429 else "invalid_request_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        return Denial(status, {"error": error})

    def connected(self) -> list[Out]:
        """``session.created``, with the defaults in force.

        Clients of Speaches put the language into the URL.
        """
        if self._language:
            try:
                asked = {"audio": {"input": {"transcription": {"language": self._language}}}}
                self._config = self._config.updated(asked, self._info)
            except BadField as error:
                raise ProtocolError("bad_parameter", str(error)) from error
        session = self._config.nested(self._session, self._info)
        return [self._encode("session.created", {"session": session})]

    def received(self, frame: str | bytes) -> list[Action]:
        """A client's event. One that cannot be done is told so, and the session goes on."""
        event_id: str | None = None
        try:
            if not may_be_json(frame):
                raise ValueError("audio comes as base64 in input_audio_buffer.append")
            kind, message = parse_message(frame)
            event_id = _event_id(message)
            return self._obey(kind, message, event_id)
        except BadField as error:
            return [self._refusal("invalid_value", str(error), event_id, error.param)]
        except ValueError as error:
            return [self._refusal("invalid_event", str(error), event_id)]

    def _obey(self, kind: str, message: Json, event_id: str | None) -> list[Action]:
        match kind:
            case "input_audio_buffer.append":
                return self._append(audio_frames(message))
            case "input_audio_buffer.commit":
                return self._commit(event_id)
            case "input_audio_buffer.clear":
                return self._clear()
            case "session.update" | "transcription_session.update":
                return self._update(kind, message.get("session"))
            case _:
                raise ValueError(
                    f"{quoted(kind)} has no meaning here: this server transcribes, and takes "
                    "session.update and input_audio_buffer.append, commit and clear"
                )

    def _append(self, pieces: list[AudioFrame]) -> list[Action]:
        self._bytes += sum(len(piece.data) for piece in pieces)
        if self._options or not pieces:
            return [*pieces]
        self._options = self._config.options(self._info)
        return [OpenSession(self._options), *pieces]

    @property
    def _heard(self) -> int:
        audio = self._config.audio
        frames = self._bytes // ENCODINGS[audio.encoding].dtype.itemsize
        return self._earlier + frames * SAMPLE_RATE // audio.rate

    def _commit(self, event_id: str | None) -> list[Action]:
        start, self._parted = self._parted, self._heard
        fresh = self._heard - start
        if isinstance(self._intake, SpokenTurns):
            # The detector may have committed all there was: another commit is no mistake.
            if not fresh:
                return []
            self._intake.part()
            return [self._renew(partial(self._intake.committed, start, self._heard))]
        if fresh < _LEAST:
            self._parted = start
            return [
                self._refusal(
                    "input_audio_buffer_commit_empty",
                    "the buffer has less than the 100 ms of audio that a commit needs: "
                    f"{1000 * fresh / SAMPLE_RATE:.0f} ms",
                    event_id,
                )
            ]
        self._intake.commit(self._heard)
        # While an update is on its way, earlier items may be to come: this one waits for them.
        told = self._intake.announce() if self._intake is self._turns else ()
        return [*self._reply(*told), self._flush(self._intake.flushed)]

    def _clear(self) -> list[Action]:
        fresh, self._parted = self._heard > self._parted, self._heard
        cleared = self._reply(("input_audio_buffer.cleared", {}))
        if not fresh:
            return cleared
        if isinstance(self._intake, SpokenTurns):
            self._intake.part(drop=True)
            return [*cleared, self._renew(partial(self._intake.parted, self._heard))]
        self._intake.clear(self._heard)
        return [*cleared, self._flush(self._intake.flushed)]

    def _update(self, kind: str, session: object) -> list[Action]:
        if not isinstance(session, Mapping):
            raise BadField("session", f'"{kind}" needs a session, which is an object')
        before, config = self._config, self._config.updated(session, self._info)
        if self._options:
            # What the stream was opened with stays.
            config = replace(config, language=before.language, delay=before.delay)
        heard = self._heard
        if config.audio != before.audio:
            self._earlier, self._bytes = heard, 0
        self._config = config
        self._conversation.beta = is_flat(session) or kind != "session.update"
        shape = config.flat if self._conversation.beta else config.nested
        fields = {"session": shape(self._session, self._info)}
        return [*self._reply((f"{kind}d", fields)), *self._change(before, config, heard)]

    def _change(self, before: Config, config: Config, heard: int) -> list[Action]:
        """Hear what follows as it is configured now, if that makes a difference."""
        if (config.audio, config.turns) == (before.audio, before.turns):
            return []
        old = self._intake
        if config.turns != before.turns:
            self._intake, self._parted = self._turns_of(config), heard
        if self._options is None:
            self._turns = self._intake
            return []
        if isinstance(old, SpokenTurns):
            old.part()
        return [self._renew(partial(self._turn_over, old, self._intake, heard))]

    def _turns_of(self, config: Config) -> SpokenTurns | CommittedTurns:
        if config.turns:
            return SpokenTurns(self._conversation, config.turns)
        return CommittedTurns(self._conversation, self._heard)

    def _turn_over(
        self, old: SpokenTurns | CommittedTurns, new: SpokenTurns | CommittedTurns, heard: int
    ) -> Iterator[Message]:
        if isinstance(old, SpokenTurns):
            yield from old.parted(heard)
        elif new is not old:
            yield from old.close(heard)
        self._turns = new
        if isinstance(new, CommittedTurns):
            yield from new.announce()

    def _flush(self, then: Callable[[], Iterable[Message]]) -> FlushSession:
        """Bring out all words so far; what is to be said ``then``."""
        self._pending.append(then)
        return FlushSession(self._session)

    def _renew(self, then: Callable[[], Iterable[Message]]) -> ReconfigureSession:
        self._pending.append(then)
        return ReconfigureSession(self._config.options(self._info), self._session)

    def on_event(self, event: Event) -> list[Out]:
        """What an event means for the items."""
        turns = self._turns
        match event:
            case SpeechStarted(at):
                return self._say(turns.started(at))
            case SpeechStopped(at):
                return self._say(turns.stopped(at, self._heard))
            case Words(_, words):
                return self._say(turns.said(words))
            case UtteranceEnded(upto):
                return self._say(turns.ended(upto))
            case Flushed():
                return self._say(self._pending.popleft()())
            case SessionError(code, message, True):
                return self.failed(code, message)
            case SessionError(code) if code in ENDING_CODES:
                self._ending = event
                return []
            case SessionClosed():
                return self._shut_down()
            case _:
                return []

    def _shut_down(self) -> list[Out]:
        """Only the server or a limit closes a session: clients just go."""
        code, message = self._ending.code, self._ending.message
        if isinstance(self._turns, SpokenTurns):
            last = self._turns.close(self._heard)
        else:
            last = self._turns.fail(code, message)
        told = [] if code == "shutting_down" else [self._fatal(code, message)]
        return [*self._say(last), *told, CloseSocket(close_code(code))]

    def refused(self, code: str, message: str) -> list[Out]:
        """An ``error``; the session goes on."""
        return [self._error("invalid_request_error", code, message)]

    def failed(self, code: str, message: str) -> list[Out]:
        """The items whose words will not come, an ``error``, the close."""
        failed = self._say(self._turns.fail(code, message[:MAX_ERROR_CHARS]))
        return [*failed, self._fatal(code, message), CloseSocket(close_code(code))]

    def _fatal(self, code: str, message: str) -> str:
        kind = "server_error" if close_code(code) in _OURS else "invalid_request_error"
        return self._error(kind, code, message)

    def _refusal(
        self, code: str, message: str, event_id: str | None, param: str | None = None
    ) -> Reply:
        return Reply(self._error("invalid_request_error", code, message, event_id, param))

    def _error(
        self,
        kind: str,
        code: str,
        message: str,
        event_id: str | None = None,
        param: str | None = None,
    ) -> str:
        said = message[:MAX_ERROR_CHARS]
        error = {"type": kind, "code": code, "message": said, "param": param, "event_id": event_id}
        return self._encode("error", {"error": error})

    def _say(self, messages: Iterable[Message]) -> list[Out]:
        return [self._encode(*message) for message in messages]

    def _reply(self, *messages: Message) -> list[Action]:
        return [Reply(self._encode(*message)) for message in messages]

    def _encode(self, kind: str, fields: Mapping[str, object]) -> str:
        self._messages += 1
        message = {"type": kind, "event_id": f"event_{self._messages}", **fields}
        return encode_json(message)


def _event_id(message: Json) -> str | None:
    """The client's name for its event, if it has one that can be said back."""
    try:
        return string(message, "event_id", _LONGEST_ID)
    except ValueError:
        return None
