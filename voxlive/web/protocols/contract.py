"""What the socket loop and a wire format say to each other.

Audio that comes as base64 in a JSON message, as on ``/v1/realtime``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar
from typing import Protocol as _Protocol

from voxlive.engines.contract import EngineInfo
from voxlive.streaming.events import Event
from voxlive.streaming.intake import SessionOptions
from voxlive.web.protocols.fields import Json, encoded

MAX_BINARY = 8_000_000
MAX_TEXT = 64_000
LONGEST_ERROR = 500

ENDINGS = ("shutting_down", "session_expired", "idle")
"""Errors that are told while the session goes on, for it to end when its last words are out."""

DENIALS = ("invalid_api_key", "forbidden", "rate_limit_exceeded", "too_many_sessions")
"""Why someone may not connect, where a protocol tells all else on the socket."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Open the session; audio may follow.

    A connection that carries several sounds has a session for each ``source``.
    """

    options: SessionOptions
    source: str = ""


@dataclass(frozen=True, slots=True)
class AudioFrame:
    """Bytes in the format that was declared."""

    data: bytes
    source: str = ""


@dataclass(frozen=True, slots=True)
class FlushSession:
    """Bring out every word so far."""

    marker: str


@dataclass(frozen=True, slots=True)
class ReconfigureSession:
    """End the speech so far, bring out its words, and hear what follows with these options.

    ``Flushed(marker)`` stands between what is told of either. ``options.stream`` cannot change.
    """

    options: SessionOptions
    marker: str


@dataclass(frozen=True, slots=True)
class StopSession:
    """The last audio has been sent."""


@dataclass(frozen=True, slots=True)
class EndConnection:
    """End the session in good order, once all that came before is heard, and tell the reason.

    It is one of ``ENDINGS``, and no wish of the client's.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the client that it was not obeyed; the session goes on."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the client at once with a text frame."""

    frame: str


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Close the socket; ``wait_s`` is how long the client may take to do so itself."""

    code: int
    wait_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Welcome:
    """How a handshake is answered: the sub-protocol selected, and headers."""

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
    | ReconfigureSession
    | StopSession
    | EndConnection
    | Refuse
    | Reply
)
Out = str | CloseSocket


class Protocol(_Protocol):
    """One client's wire format. Pure: frames in and actions out, events in and text frames out.

    Every method that returns ``Out`` is called in the order in which its result is sent. Those with
    a body here may be left out.
    """

    # The label of its metrics and the field of its log lines. Where clients of several wire formats
    # come in at one path, it is what this client turned out to speak, and one of ``names``.
    name: str
    names: ClassVar[tuple[str, ...]] = ()
    max_text: ClassVar[int]
    max_binary: ClassVar[int]
    tick_s: ClassVar[float | None]
    # Where its clients put a key besides the places that are the same for all.
    key_params: ClassVar[tuple[str, ...]] = ()
    key_headers: ClassVar[tuple[str, ...]] = ()
    # A full server is told with the Open, because the refusal repeats what the client said there.
    refused_by_name: ClassVar[bool] = False

    def __init__(self, params: Mapping[str, str], info: EngineInfo) -> None:
        """A client that connected with these query parameters to this engine."""
        ...

    def welcome(self, _offered: Sequence[str]) -> Welcome:
        """How to answer a handshake that offers these sub-protocols."""
        return Welcome()

    def preset(self, _settings: object) -> None:
        """Settings that came with the client's short-lived key; those of other formats are none."""
        return

    def options_from_handshake(self) -> SessionOptions | None:
        """The session to open with the handshake, which may be refused with it.

        Raises ProtocolError for bad parameters.
        """
        return None

    def denied(self, _code: str, _message: str) -> Denial | None:
        """What refuses the handshake; None: it is accepted, and the refusal told by ``failed``."""
        return None

    @property
    def receive_timeout_s(self) -> float | None:
        """How long the client may now say nothing; None: for ever."""
        return None

    def connected(self) -> list[Out]:
        """What is said first. Raises ProtocolError for bad parameters."""
        ...

    def received(self, frame: str | bytes) -> list[Action]:
        """What a frame asks for. Raises ProtocolError when the session cannot go on."""
        ...

    def opened(self, session: str, options: SessionOptions) -> list[Out]:
        """The session is open."""
        ...

    def on_event(self, event: Event) -> list[Out]:
        """What an event is on the wire, now. Nothing follows a ``Close``."""
        ...

    def on_source_event(self, _source: str, event: Event) -> list[Out]:
        """The same for a protocol with several sources, which closes when each of them is done."""
        return self.on_event(event)

    def tick(self) -> list[Out]:
        """What was held back; asked for every ``tick_s`` seconds unless that is None."""
        ...

    def refused(self, code: str, message: str) -> list[Out]:
        """Something was refused and the session goes on."""
        ...

    def failed(self, code: str, message: str) -> list[Out]:
        """The session is over: the typed error, then the close."""
        ...


# An append may carry 15 MiB of audio, which is a third more in base64.
MAX_APPEND = 21 * 1024 * 1024
_PIECE = 1 << 20


def appended(message: Json) -> list[AudioFrame]:
    """The field ``audio`` in pieces of at most 1 MiB; raises ValueError in words."""
    data = encoded(message, "audio")
    return [AudioFrame(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE)]
