"""OpenAI's Realtime API for transcription, today's and the beta's dialect of it.

The session opens with the first audio, with the configuration that is in force then. A later one
takes effect from that point of the audio on; what came before is brought out first. Clients take
every ``error`` for the end, so there is one only for what cannot be carried out.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from voxlive.engines.contract import EngineInfo
from voxlive.errors import ProtocolError, RequestRefused, close_code, status_of
from voxlive.streaming.events import (
    Event,
    Flushed,
    LanguageDetected,
    SessionClosed,
    SessionError,
    SpeechStarted,
    SpeechStopped,
    TurnClosed,
    UtteranceEnded,
    Words,
)
from voxlive.streaming.ingest.formats import ENCODINGS
from voxlive.streaming.intake import SessionOptions
from voxlive.turns.tracker import TurnEnded, TurnStarted
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
    FindEngine,
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
from voxlive.web.protocols.openai.items import CommittedTurns, Conversation, Message, VadTurns

SUBPROTOCOL = "realtime"
_MIN_COMMIT = SAMPLE_RATE // 10
_MAX_ID_CHARS = 512
_SERVER_CLOSE_CODES = (1011, 1012, 1013)


class OpenAIRealtimeProtocol(Protocol):
    """One client of OpenAI's protocol.

    ``_intake`` has the turns of the audio that comes in, ``_turns`` those of the events that come
    out: they are the same, but for the time that an update needs to come through the session.
    """

    name = "openai_realtime"
    max_text: ClassVar[int] = MAX_APPEND

    def __init__(self, params: Mapping[str, str], info: EngineInfo) -> None:
        self._language = params.get("language")
        self._find: FindEngine = lambda _name: info
        self._session = f"sess_{secrets.token_hex(12)}"
        self._config = Config()
        self._options: SessionOptions | None = None
        self._conversation = Conversation()
        self._pending: deque[Callable[[], Iterable[Message]]] = deque()
        self._earlier_samples = 0  # samples received in earlier formats
        self._bytes = 0  # received in this one
        self._buffer_start = 0  # the sample after the client's last commit or clear
        self._messages = 0
        self._ending = SessionError("shutting_down", "the server is shutting down", fatal=False)
        self._intake = self._turns = self._new_turns(self._config)

    @property
    def _info(self) -> EngineInfo:
        return self._find(self._config.model)

    def offer_engines(self, find: FindEngine) -> None:
        """A session's transcription may name one."""
        self._find = find

    def handshake_response(self, offered: Sequence[str]) -> HandshakeResponse:
        """Browsers offer the protocol's name and a key; the name is selected."""
        return HandshakeResponse(SUBPROTOCOL if SUBPROTOCOL in offered else None)

    def apply_settings(self, settings: Json | None) -> None:
        """The session that a client secret was made for is in force from the start.

        Raises RequestRefused where this server, unlike the one that made it, does not have it.
        """
        if settings is not None:
            try:
                self._config = Config().updated(settings, self._find)
            except BadField as error:
                raise RequestRefused("invalid_value", error.message, error.param) from error
            self._intake = self._turns = self._new_turns(self._config)

    def denied(self, code: str, message: str) -> Denial | None:
        """An HTTP error for those who may not connect; all else is reported on the socket."""
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
                self._config = self._config.updated(asked, self._find)
            except BadField as error:
                raise ProtocolError("bad_parameter", str(error)) from error
        session = self._config.nested(self._session, self._info)
        return [self._encode("session.created", {"session": session})]

    def received(self, frame: str | bytes) -> list[Action]:
        """A client's event. One that cannot be carried out is refused, and the session goes on."""
        event_id: str | None = None
        try:
            if not may_be_json(frame):
                raise ValueError("audio comes as base64 in input_audio_buffer.append")
            kind, message = parse_message(frame)
            event_id = _event_id(message)
            return self._command(kind, message, event_id)
        except (BadField, RequestRefused) as error:
            return [self._refusal(error.code, error.message, event_id, error.param)]
        except ValueError as error:
            return [self._refusal("invalid_event", str(error), event_id)]

    def _command(self, kind: str, message: Json, event_id: str | None) -> list[Action]:
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
    def _audio_end(self) -> int:
        audio = self._config.audio
        frames = self._bytes // ENCODINGS[audio.encoding].dtype.itemsize
        return self._earlier_samples + frames * SAMPLE_RATE // audio.rate

    def _commit(self, event_id: str | None) -> list[Action]:
        start, self._buffer_start = self._buffer_start, self._audio_end
        buffered = self._audio_end - start
        if isinstance(self._intake, VadTurns):
            # The detector may have committed all there was: another commit is no mistake.
            if not buffered:
                return []
            self._intake.split()
            return [self._reconfigure(partial(self._intake.on_commit, start, self._audio_end))]
        if buffered < _MIN_COMMIT:
            self._buffer_start = start
            return [
                self._refusal(
                    "input_audio_buffer_commit_empty",
                    "the buffer has less than the 100 ms of audio that a commit needs: "
                    f"{1000 * buffered / SAMPLE_RATE:.0f} ms",
                    event_id,
                )
            ]
        self._intake.commit(self._audio_end)
        # While an update is on its way, earlier items may be to come: this one waits for them.
        commits = self._intake.report_commits() if self._intake is self._turns else ()
        return [*self._reply(*commits), self._flush(self._intake.on_flushed)]

    def _clear(self) -> list[Action]:
        buffered, self._buffer_start = self._audio_end > self._buffer_start, self._audio_end
        cleared = self._reply(("input_audio_buffer.cleared", {}))
        if not buffered:
            return cleared
        if isinstance(self._intake, VadTurns):
            self._intake.split(drop=True)
            return [*cleared, self._reconfigure(partial(self._intake.on_split, self._audio_end))]
        self._intake.clear(self._audio_end)
        return [*cleared, self._flush(self._intake.on_flushed)]

    def _update(self, kind: str, session: object) -> list[Action]:
        if not isinstance(session, Mapping):
            raise BadField("session", f'"{kind}" needs a session, which is an object')
        before, config = self._config, self._config.updated(session, self._find)
        if self._options:
            # What the stream was opened with stays.
            config = replace(
                config,
                language=before.language,
                delay=before.delay,
                prompt=before.prompt,
                keywords=before.keywords,
                model=before.model,
            )
        audio_end = self._audio_end
        if config.audio != before.audio:
            self._earlier_samples, self._bytes = audio_end, 0
        self._config = config
        self._conversation.beta = is_flat(session) or kind != "session.update"
        shape = config.flat if self._conversation.beta else config.nested
        fields = {"session": shape(self._session, self._info)}
        return [*self._reply((f"{kind}d", fields)), *self._apply_change(before, config, audio_end)]

    def _apply_change(self, before: Config, config: Config, audio_end: int) -> list[Action]:
        """Take what follows as it is configured now, if that makes a difference."""
        turns, turns_before = (config.turns, config.semantic), (before.turns, before.semantic)
        if (config.audio, turns) == (before.audio, turns_before):
            return []
        old = self._intake
        if turns != turns_before:
            self._intake, self._buffer_start = self._new_turns(config), audio_end
        if self._options is None:
            self._turns = self._intake
            return []
        if isinstance(old, VadTurns):
            old.split()
        return [self._reconfigure(partial(self._switch_turns, old, self._intake, audio_end))]

    def _new_turns(self, config: Config) -> VadTurns | CommittedTurns:
        if config.turns:
            return VadTurns(self._conversation, config.turns, semantic=config.semantic is not None)
        return CommittedTurns(self._conversation, self._audio_end)

    def _switch_turns(
        self, old: VadTurns | CommittedTurns, new: VadTurns | CommittedTurns, audio_end: int
    ) -> Iterator[Message]:
        if isinstance(old, VadTurns):
            yield from old.on_split(audio_end)
        elif new is not old:
            yield from old.close(audio_end)
        self._turns = new
        if isinstance(new, CommittedTurns):
            yield from new.report_commits()

    def _flush(self, on_flushed: Callable[[], Iterable[Message]]) -> FlushSession:
        """Bring out all words so far; ``on_flushed`` makes the messages that follow them."""
        self._pending.append(on_flushed)
        return FlushSession(self._session)

    def _reconfigure(self, on_flushed: Callable[[], Iterable[Message]]) -> ReconfigureSession:
        self._pending.append(on_flushed)
        return ReconfigureSession(self._config.options(self._info), self._session)

    def on_event(self, event: Event) -> list[Out]:
        """An event as messages about the items."""
        turns = self._turns
        match event:
            case TurnStarted(_, at) if turns.semantic:
                return self._encode_all(turns.on_speech_started(at))
            case TurnEnded(_, at, upto) if turns.semantic:
                return self._encode_all(turns.on_speech_stopped(at, upto))
            case TurnClosed(_, _, end) if turns.semantic:
                return self._encode_all(turns.on_utterance_ended(end))
            case SpeechStarted(at) if not turns.semantic:
                return self._encode_all(turns.on_speech_started(at))
            case SpeechStopped(at) if not turns.semantic:
                return self._encode_all(turns.on_speech_stopped(at, self._audio_end))
            case Words(_, words):
                return self._encode_all(turns.on_words(words))
            case LanguageDetected(language):
                self._conversation.language = language
                return []
            case UtteranceEnded(upto):
                return self._encode_all(turns.on_utterance_ended(upto))
            case Flushed():
                return self._encode_all(self._pending.popleft()())
            case SessionError(code, message, True):
                return self.failed(code, message)
            case SessionError(code) if code in ENDING_CODES:
                self._ending = event
                return []
            case SessionClosed():
                return self._close_session()
            case _:
                return []

    def _close_session(self) -> list[Out]:
        """Only the server or a limit closes a session: clients just go."""
        code, message = self._ending.code, self._ending.message
        if isinstance(self._turns, VadTurns):
            last = self._turns.close(self._audio_end)
        else:
            last = self._turns.fail(code, message)
        errors = [] if code == "shutting_down" else [self._fatal_error(code, message)]
        return [*self._encode_all(last), *errors, CloseSocket(close_code(code))]

    def refused(self, code: str, message: str) -> list[Out]:
        """An ``error``; the session goes on."""
        return [self._error("invalid_request_error", code, message)]

    def failed(self, code: str, message: str) -> list[Out]:
        """The items whose words will not come, an ``error``, the close."""
        failed = self._encode_all(self._turns.fail(code, message[:MAX_ERROR_CHARS]))
        return [*failed, self._fatal_error(code, message), CloseSocket(close_code(code))]

    def _fatal_error(self, code: str, message: str) -> str:
        kind = (
            "server_error" if close_code(code) in _SERVER_CLOSE_CODES else "invalid_request_error"
        )
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
        text = message[:MAX_ERROR_CHARS]
        error = {"type": kind, "code": code, "message": text, "param": param, "event_id": event_id}
        return self._encode("error", {"error": error})

    def _encode_all(self, messages: Iterable[Message]) -> list[Out]:
        return [self._encode(*message) for message in messages]

    def _reply(self, *messages: Message) -> list[Action]:
        return [Reply(self._encode(*message)) for message in messages]

    def _encode(self, kind: str, fields: Mapping[str, object]) -> str:
        self._messages += 1
        message = {"type": kind, "event_id": f"event_{self._messages}", **fields}
        return encode_json(message)


def _event_id(message: Json) -> str | None:
    """The client's name for its event, if it has one that can be returned."""
    try:
        return string(message, "event_id", _MAX_ID_CHARS)
    except ValueError:
        return None
