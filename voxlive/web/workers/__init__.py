"""Several server processes on one port (``--workers``): more sessions than one core has time for.

Each **worker** accepts connections of its own and has the live sessions that come with them: their
audio, voice detection, transcripts and frames. All else is the first process's, the **host**: it
starts the engines and the workers, admits clients, and answers every other HTTP request, which a
worker passes on to it as ASGI messages (``forwarding.py``). So there is one of each thing that the
whole server has: keys and what is in use of them, captions and their readers, files, models.

Here are the messages between a worker and the host. They pass over the socket pair of a child
process, or beside it with a descriptor that is handed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from voxlive.engines.contract import EngineInfo
from voxlive.errors import VoxliveError
from voxlive.speakers.labels import SpeakerNamed, SpeakersFound
from voxlive.store.contract import Operation, StoredTranscript, StoreError
from voxlive.streaming.events import Draft, SegmentClosed, Words
from voxlive.web.config import ServeConfig

RESUMABLE = -1
"""Instead of an engine's number: the table that counts resumable sessions."""


@dataclass(frozen=True, slots=True)
class SharedModel:
    """A live model of a worker: its given name (None: the default) and its engine.

    ``engine`` numbers it; with this number come its slots, and sockets to its process. Of a pool
    there is one of these for each device in service.
    """

    name: str | None
    engine: int
    info: EngineInfo
    device: str | None


@dataclass(frozen=True, slots=True)
class StartWorker:
    """The first message to a worker, the ``member``-th. ``listening``: sockets that it gets.

    ``keyed``: clients need a key. ``stored``: there is a store; ``transient``: for resuming alone.
    ``refine``: by which model sessions with audio are refined when they are over.
    """

    member: int
    config: ServeConfig
    models: tuple[SharedModel, ...]
    listening: int
    keyed: bool
    stored: bool
    transient: bool
    refine: str | None


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """It accepts connections."""


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """It cannot start; its process ends."""

    error: VoxliveError


@dataclass(frozen=True, slots=True)
class Drain:
    """End the sessions, then the process."""


@dataclass(frozen=True, slots=True)
class EngineLost:
    """The ``number``-th process of an engine has ended."""

    engine: int
    number: int
    fault: str


@dataclass(frozen=True, slots=True)
class EngineHangs:
    """To the host: the ``number``-th process of an engine hangs, and is to be ended."""

    engine: int
    number: int
    fault: str


@dataclass(frozen=True, slots=True)
class EngineWithdrawn:
    """The device of this engine goes out of service."""

    engine: int


class Question(NamedTuple):
    """Something that is answered, by its number."""

    number: int
    asked: object


class Answer(NamedTuple):
    """To the question of this number: a result, or an error to raise."""

    number: int
    result: object
    error: VoxliveError | None = None


class Ping(NamedTuple):
    """A question that an event loop answers as soon as it runs."""


class ReadFigures(NamedTuple):
    """A question for a worker's ``LiveFigures``."""


class PrepareEngine(NamedTuple):
    """A question that is answered once the worker knows another engine of a live model."""

    model: SharedModel


class ReplaceEngine(NamedTuple):
    """A question for how many sessions stay with the engine before, when these are the model's."""

    name: str | None
    engines: tuple[SharedModel, ...]


class JoinEngine(NamedTuple):
    """A question that is answered once the device of this engine is in service."""

    model: SharedModel


class AdmitClient(NamedTuple):
    """A question for the ``Grant`` of a live client, which is counted until ``ClientGone``."""

    client: int
    secret: str | None
    address: str
    captions: str | None


class ClientGone(NamedTuple):
    """The client of this number has left."""

    client: int


class RequestBegun(NamedTuple):
    """An HTTP request for the host; ``scope`` is ASGI's, in plain values."""

    request: int
    scope: dict[str, Any]


class RequestEvent(NamedTuple):
    """An ASGI message of a request: from its client, one that was asked for; else for it."""

    request: int
    message: Any


class RequestNext(NamedTuple):
    """The next message from a request's client is asked for, or the last for it was sent."""

    request: int


class RequestOver(NamedTuple):
    """A request is answered, or its client has gone; ``failed``: its answer broke off."""

    request: int
    failed: bool = False


class LeaveSession(NamedTuple):
    """A question whether this end had the session of a resume token, and leaves it to be resumed.

    Each worker asks the host, which asks the others.
    """

    token: str
    owner: str


class StoreWrite(NamedTuple):
    """Something for the store; ``StoreWritten`` has this number."""

    number: int
    operation: Operation


class StoreWritten(NamedTuple):
    """It is written; else why it has to wait, or never will be."""

    number: int
    result: StoreError | None


class StoreCall(NamedTuple):
    """A question that a method of the host's store answers."""

    name: str
    args: tuple[object, ...]


class AudioOpened(NamedTuple):
    """The audio of a session is kept; what is about it has this number."""

    number: int
    session: str


class AudioGiven(NamedTuple):
    """16-bit samples to keep, each piece with its place on the session's clock."""

    number: int
    pieces: tuple[tuple[int, bytes], ...]


class AudioClosed(NamedTuple):
    """No more audio comes: see ``SessionAudio.close``."""

    number: int
    end: int | None


class AudioTaken(NamedTuple):
    """The host has taken so many bytes of audio."""

    size: int


class AudioReported(NamedTuple):
    """Audio of this number is not kept, at the moment or at all."""

    number: int
    code: str
    message: str


class FeedOpened(NamedTuple):
    """A session has begun whose captions may be read."""

    session: str
    name: str | None
    path: str
    owner: str


class FeedGoesOn(NamedTuple):
    """A session comes from another worker or server, with what was said there."""

    transcript: StoredTranscript


class FeedEvent(NamedTuple):
    """Words, a draft, a closed segment or speakers of a session."""

    session: str
    event: Words | Draft | SegmentClosed | SpeakersFound | SpeakerNamed


class FeedAmended(NamedTuple):
    """The session's client has corrected a segment: see ``CaptionFeed.amend``."""

    session: str
    segment: int
    words: int
    text: str


class FeedClosed(NamedTuple):
    """A session is over, or left to another server."""

    session: str
    over: bool
