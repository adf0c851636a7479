"""What the socket loop and a wire format exchange: frames and actions, events and output.

``Protocol`` is what every wire format implements. Beside it stand the limits that several of them
have, and the helpers for what they do alike: audio as base64 in JSON, the close of a session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar
from typing import Protocol as _Protocol

from voxlive.engines.contract import EngineInfo
from voxlive.errors import close_code
from voxlive.store.contract import AddSent
from voxlive.streaming.events import (
    Event,
    SessionError,
)
from voxlive.streaming.intake import SessionOptions
from voxlive.turns.tracker import TurnOptions
from voxlive.web.protocols.fields import Json, decode_base64

MAX_BINARY = 8_000_000
MAX_TEXT = 64_000
# An append may carry 15 MiB of audio, which is a third more in base64.
MAX_APPEND = 21 * 1024 * 1024
MAX_ERROR_CHARS = 500
_MAX_AUDIO_FRAME = 1 << 20

ENDING_CODES = ("shutting_down", "session_expired", "idle")
"""Errors that are reported before a session ends in good order, with its last words still out."""

DENIAL_CODES = ("invalid_api_key", "forbidden", "rate_limit_exceeded", "too_many_sessions")
"""Why a client may not connect, where a protocol reports everything else on the socket."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Open the session; audio may follow.

    A connection that carries several audio sources has a session for each ``source``. A
    ``resumable`` one, which has PCM, outlives the connection for a while: see ``ResumeSession``.
    ``store``: whether its transcript may be kept, where the server keeps any; ``keep_audio``:
    whether its audio is to be kept too, None where the client does not say. ``start``: the frame,
    for another server that goes on with the session.
    """

    options: SessionOptions
    source: str = ""
    resumable: bool = False
    store: bool = True
    keep_audio: bool | None = None
    start: str = ""


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message with this number as a client has it, and the event that it was sent for.

    None where that is nothing that a store keeps.
    """

    number: int
    text: str
    event: Event | None


@dataclass(frozen=True, slots=True)
class ResumeSession:
    """Go on with the session of another connection, which ``token`` names.

    ``have`` is the number of the last message that the client has seen, ``first`` the first sample
    that it can still send; ``resumed`` in the session's protocol answers. ``received``: the
    messages up to ``have`` of which the client does not know that the store has them.
    """

    token: str
    have: int
    first: int
    received: tuple[ReceivedMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class RestoredProtocol:
    """What the protocol of a session was at another server, as far as that is kept.

    ``sent`` are its messages from number ``first`` on, ``next`` is the next one's, ``text`` is that
    of all words, or of the closed segments of several sources, whose words are ``texts``.
    ``acknowledged`` is in the client's rate.
    """

    session: str
    token: str
    epoch: int
    sent: tuple[str, ...]
    first: int
    next: int
    text: str
    acknowledged: int
    ended: bool
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AudioFrame:
    """Bytes in the format that was declared."""

    data: bytes
    source: str = ""


@dataclass(frozen=True, slots=True)
class FlushSession:
    """Bring out every word so far; ``ends_turn``: it is a whole turn, where there are turns."""

    marker: str
    ends_turn: bool = False


@dataclass(frozen=True, slots=True)
class SetTurns:
    """End turns by these options from here on.

    ``vocabulary``: names and terms to expect from the next pause on; None: those of before.
    """

    options: TurnOptions
    vocabulary: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ReconfigureSession:
    """End the speech so far, bring out its words, and go on with these options.

    ``Flushed(marker)`` stands between the events of either. ``options.stream`` cannot change.
    """

    options: SessionOptions
    marker: str


@dataclass(frozen=True, slots=True)
class CorrectCaptions:
    """Tell readers of the captions what people have made of a segment.

    ``text`` stands for its first ``words`` words. The session's own events stay what they were.
    """

    segment: int
    words: int
    text: str


@dataclass(frozen=True, slots=True)
class NameSpeaker:
    """Tell readers of the captions what people call a speaker; ``name`` "" takes that back."""

    speaker: int
    name: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class RememberVoice:
    """Remember the voice of a speaker, who has agreed to that, by a name."""

    speaker: int
    name: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class StopSession:
    """The last audio has been sent."""


@dataclass(frozen=True, slots=True)
class EndConnection:
    """End the session in good order, once all audio before is recognised, and report the reason.

    ``code`` is one of ``ENDING_CODES``: the server or a limit ends the session, not the client.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Report an error to the client; the session goes on."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the client at once with a text frame; it may be made when its turn comes."""

    frame: str | Callable[[], str]


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Close the socket; ``wait_s`` is how long the client may take to do so itself."""

    code: int
    wait_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class HandshakeResponse:
    """How a handshake is accepted: the sub-protocol selected, and headers."""

    subprotocol: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Denial:
    """How a handshake is refused: an HTTP response with a JSON body."""

    status: int
    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)


Action = (
    OpenSession
    | AudioFrame
    | FlushSession
    | SetTurns
    | CorrectCaptions
    | NameSpeaker
    | RememberVoice
    | ReconfigureSession
    | ResumeSession
    | StopSession
    | EndConnection
    | Refuse
    | Reply
)
Out = str | CloseSocket
FindEngine = Callable[[str | None], EngineInfo]
"""The engine of a model's name, for none that of the connection; raises RequestRefused 404."""


class Protocol(_Protocol):
    """One client's wire format. Pure: frames in and actions out, events in and text frames out.

    Every method that returns ``Out`` is called in the order in which its result is sent. What has a
    value or a body here need not be overridden.
    """

    # The label of its metrics and the field of its log lines. Where clients of several wire formats
    # come in at one path, it is the one that this client turned out to use, and one of ``names``.
    name: str
    names: ClassVar[tuple[str, ...]] = ()
    # The most bytes of a frame.
    max_text: ClassVar[int] = MAX_TEXT
    max_binary: ClassVar[int] = MAX_BINARY
    # How often ``tick`` is called, in seconds; None: never.
    tick_s: ClassVar[float | None] = None
    # Where its clients put a key besides the places that are the same for all.
    key_params: ClassVar[tuple[str, ...]] = ()
    key_headers: ClassVar[tuple[str, ...]] = ()
    # Models that its clients name when nobody has chosen one: the default, unless a server has one
    # of that name.
    default_models: ClassVar[tuple[str, ...]] = ()
    # A full server is reported when the session opens, because that repeats what the client sent.
    full_after_options: ClassVar[bool] = False
    # A client may come to go on with a session, which needs no further slot.
    resumes: ClassVar[bool] = False

    def __init__(self, params: Mapping[str, str], info: EngineInfo) -> None:
        """A client that connected with these query parameters to this engine."""
        ...

    def handshake_response(self, _offered: Sequence[str]) -> HandshakeResponse:
        """How to accept a handshake that offers these sub-protocols."""
        return HandshakeResponse()

    def offer_engines(self, _find: FindEngine) -> None:
        """Clients may choose among several engines: called first, and only where there are any.

        The engine of a name in a message is then what ``find`` gives, and the session is opened
        with the name as ``SessionOptions.model``. The model in the URL has been applied already.
        """
        return

    def tell_speakers(self) -> None:
        """The server tells voices apart for clients that do not say: called before ``connected``.

        For formats whose clients cannot ask for it themselves.
        """
        return

    def apply_settings(self, _settings: Json | None) -> None:
        """Take the settings of the client's short-lived key; those of other formats are ignored."""
        return

    def options_from_handshake(self) -> SessionOptions | None:
        """The options of a session that opens with the handshake; None: it opens later.

        Raises ProtocolError for bad parameters, which refuses the handshake.
        """
        return None

    def denied(self, _code: str, _message: str) -> Denial | None:
        """What refuses the handshake; None: it is accepted, and ``failed`` reports the error."""
        return None

    @property
    def receive_timeout_s(self) -> float | None:
        """How long the client may now send nothing, in seconds; None: for ever."""
        return None

    def connected(self) -> list[Out]:
        """What is sent first. Raises ProtocolError for bad parameters."""
        return []

    def received(self, frame: str | bytes) -> list[Action]:
        """What a frame asks for. Raises ProtocolError when the session cannot go on."""
        ...

    def on_resumable(self, _token: str) -> None:
        """The session that is being opened can be resumed with this token."""
        return

    def on_stored(self, *, audio: bool) -> None:  # noqa: ARG002
        """The transcript of the session that is being opened is kept, with its audio if so."""
        return

    def keep_sent(self) -> None:
        """Another server may go on with the session: ``take_sent`` is called after every message.

        What is acknowledged is what that one would not need again: see ``SessionCheckpoint``.
        """
        return

    def take_sent(self) -> AddSent | None:
        """The messages since the last call that a client may miss, where they are to be kept."""
        return None

    def on_sent_kept(self, _before: int) -> None:
        """The store has the messages before this number."""
        return

    def restore(self, _restored: RestoredProtocol) -> None:
        """Go on with a session of another server, whose ``start`` was received here."""
        return

    def remembered(self, _voice: RememberVoice, _profile: str) -> list[Out]:
        """A voice is remembered, as the profile with this id."""
        return []

    def suspended(self, _resume_s: float) -> list[Out]:
        """The server ends; for so long another one may go on with the session. And the close."""
        return []

    def resumed(self, _resume: ResumeSession, _samples: int) -> list[Out]:
        """The answer to a client that goes on with this session, and what it has missed.

        ``samples``: how many the session has had. Raises ProtocolError ``resume_gap``.
        """
        return []

    def opened(self, _session: str, _options: SessionOptions) -> list[Out]:
        """What is sent when the session is open."""
        return []

    def on_event(self, event: Event) -> list[Out]:
        """An event of the session as the client gets it. Nothing follows a ``CloseSocket``."""
        ...

    def on_source_event(self, _source: str, event: Event) -> list[Out]:
        """The same for a protocol with several sources: the last one that ends closes it."""
        return self.on_event(event)

    def tick(self) -> list[Out]:
        """What has been held back since the last tick."""
        return []

    def refused(self, code: str, message: str) -> list[Out]:
        """An error after which the session goes on."""
        ...

    def failed(self, code: str, message: str) -> list[Out]:
        """An error that ends the session, and the close."""
        ...


def audio_frames(message: Json) -> list[AudioFrame]:
    """The audio in the field ``audio``, in frames of at most 1 MiB. Raises ValueError."""
    data = decode_base64(message, "audio")
    return [
        AudioFrame(data[at : at + _MAX_AUDIO_FRAME]) for at in range(0, len(data), _MAX_AUDIO_FRAME)
    ]


def close_session(
    ending: SessionError | None, failed: Callable[[str, str], list[Out]]
) -> list[Out]:
    """The close after a session's last words; ``failed`` reports why a limit ended it.

    ``ending`` None: the client ended it and gets no reason. A shutdown's is its close code alone.
    """
    if ending is None:
        return [CloseSocket(1000)]
    if ending.code == "shutting_down":
        return [CloseSocket(close_code("shutting_down"))]
    return failed(ending.code, ending.message)
