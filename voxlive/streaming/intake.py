"""A session's way in: its options, what a client does with it, and what its audio goes through.

``SessionOptions`` are parsed once, at the edge. A ``LiveSession`` takes a client's commands, in
order. An ``Intake`` is the ingest, the voice detector and the gate that audio goes through until
the session is reconfigured. Positions are samples at 16 kHz on the session's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from voxlive.engines.contract import StreamOptions
from voxlive.errors import BadAudio, EngineError, UnsupportedOption, VadError
from voxlive.speakers.tracker import HeardWord, SpeakerOptions
from voxlive.streaming.crosstalk import MAX_SOURCES
from voxlive.streaming.events import SessionClosed, SessionError, SessionWarning
from voxlive.streaming.ingest.formats import CONTAINER, AudioFormat
from voxlive.streaming.queues import MAX_AUDIO_BYTES, Inbox, Outbox
from voxlive.streaming.replacements import Replacements
from voxlive.turns.told import TurnsTold
from voxlive.turns.tracker import TurnLane, TurnOptions
from voxlive.vad.gate import WINDOW, Gate, GateOptions, OpenGate, UndecidedAudio
from voxlive.values import Samples, Word

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from voxlive.speakers.labels import SpeakerNames
    from voxlive.speakers.profiles import VoiceProfile
    from voxlive.store.audio import SessionAudio
    from voxlive.streaming.events import Event, SourceCheckpoint
    from voxlive.streaming.ingest.live import Ingest
    from voxlive.streaming.traces import PipelineTrace

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session's audio arrives, where speech begins and ends, what the engine does.

    ``gate`` None means that everything is speech. ``stall_s``: when no audio arrives for so many
    seconds in the middle of speech, the utterance ends as if the speaker had paused.
    ``replacements``: the client's dictionary, beside the server's. ``model``: the live model that
    the client names, where a server has several; None: that of its connection. ``sources``: names
    of the channels, where each is a source of its own; none: they are mixed. ``suppress_leaks``:
    what one of the sources has of another's speech is taken out of it. ``turns``: when somebody
    has finished speaking is found out too; None: it is not. ``speakers``: voices are told apart;
    None: they are not.
    """

    audio: AudioFormat
    gate: GateOptions | None = field(default_factory=GateOptions)
    stream: StreamOptions = field(default_factory=StreamOptions)
    stall_s: float = 2.0
    replacements: Replacements = field(default_factory=Replacements)
    model: str | None = None
    sources: tuple[str, ...] = ()
    suppress_leaks: bool = True
    turns: TurnOptions | None = None
    speakers: SpeakerOptions | None = None

    def __post_init__(self) -> None:
        for what, options in (("turns", self.turns), ("diarize", self.speakers)):
            if options and not self.gate:
                raise UnsupportedOption(f"{what} needs the voice detector: leave out vad", what)
        if not self.sources:
            return
        if self.audio.encoding == CONTAINER:
            raise BadAudio("several sources need PCM: a container's channels are mixed")
        if len(self.sources) != self.audio.channels or len({*self.sources}) < 2:
            raise BadAudio(
                f"{self.audio.channels} channels need as many different sources, 2 at least"
            )
        if self.suppress_leaks and len(self.sources) > MAX_SOURCES:
            raise BadAudio(f"leaks are suppressed among {MAX_SOURCES} sources at most")


@dataclass(frozen=True, slots=True)
class SourceState:
    """A source of the session ``id`` as another server left it, for this one to go on with.

    Its audio comes again from sample ``first`` on. ``text``: of its closed segments; ``words``: of
    the open one, which is number ``segment``, ``committed``: the end of the last word of all.
    ``speech_events``: how many its client has. ``language``: that was found. ``heard``: the words,
    and whose they were said to be as of sample ``heard_upto``. ``told``: what its client was told
    of turns, ``turn_words``: the words since the last of them that is closed.
    """

    id: str
    checkpoint: SourceCheckpoint
    first: int
    text: str = ""
    segment: int = 0
    words: tuple[Word, ...] = ()
    committed: int | None = None
    speech_events: int = 0
    language: str | None = None
    heard: tuple[HeardWord, ...] = ()
    heard_upto: int = 0
    told: TurnsTold = field(default_factory=TurnsTold)
    turn_words: tuple[str, ...] = ()


class SpeechProbabilities(Protocol):
    """One stream's audio and its speech probabilities: a voice detector's lane, or ``NoVad``."""

    @property
    def audio(self) -> UndecidedAudio:
        """What was pushed, until it is taken or dropped as the gate decides."""
        ...

    async def push(self, samples: Samples) -> Iterable[float]:
        """Add float32 samples [n] at 16 kHz to ``audio``, which must not be changed any more.

        Returns a probability for each 512-sample window completed. Raises VadError.
        """
        ...

    keeps_states: bool
    """Whether what ``state_at`` answers is kept."""

    def state_at(self, end: int) -> Samples | None:
        """What the network remembered at the end of a window that the last push completed."""
        ...

    def close(self) -> None:
        """Free what it holds. May be called twice."""
        ...


class NoVad:
    """The probabilities of a session without voice detection: every window is speech."""

    def __init__(self, at: int = 0, window: int | None = None) -> None:
        """``at`` is the stream's first sample, ``window`` that of its first window."""
        self.audio = UndecidedAudio(at)
        self._window = at if window is None else window
        self.keeps_states = False

    async def push(self, samples: Samples) -> Iterable[float]:
        """A probability of 1.0 for each 512-sample window completed."""
        self.audio.append(samples)
        windows = max(0, (self.audio.end - self._window) // WINDOW)
        self._window += windows * WINDOW
        return [1.0] * windows

    def state_at(self, _end: int) -> None:
        """It remembers nothing."""

    def close(self) -> None:
        """Nothing is shared that had to be freed."""


class Intake(NamedTuple):
    """What a session's audio goes through from one sample on."""

    ingest: Ingest
    vad: SpeechProbabilities
    gate: Gate | OpenGate
    turns: TurnLane | None = None


OpenIntake = Callable[[int, int], Intake]
"""Opens an intake for a stream with this trail, from this sample on. Raises BadAudio, VadError."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Commit all words so far, then emit ``Flushed(marker)``; ``ends_turn``: and end the turn."""

    marker: str
    ends_turn: bool = False


@dataclass(frozen=True, slots=True)
class ChangeTurns:
    """End turns by these options from here on."""

    options: TurnOptions


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """End the speech so far, emit ``Flushed(marker)``, and go on with a new intake."""

    open_intake: OpenIntake
    marker: str


@dataclass(frozen=True, slots=True)
class Stop:
    """There is no more audio; ``reason`` says why, where the client did not ask for the end."""

    reason: SessionError | None = None


Command = bytes | Flush | ChangeTurns | Reconfigure | Stop


class LiveSession(ABC):
    """What a client does with a session: of one source, or of several.

    A task takes commands in order. Bounds: when ``inbox`` is full ``push`` waits, which is the
    back-pressure on the client; when ``outbox`` is full the session ends with ``slow_client``. Its
    events carry ``source`` there. ``first`` is the first sample of its audio. Bound to the running
    loop.
    """

    def __init__(
        self,
        ident: str,
        first: int,
        inbox: Inbox[Command] | None,
        outbox: Outbox[Any] | None,
        source: str,
    ) -> None:
        self.id = ident
        self.first = first
        self.outlives_server = False
        """Whether another server may go on with it."""
        self.on_rest: Callable[[], object] = _ignore
        """Called where it may have come ``at_rest``."""
        self._inbox = inbox or Inbox()
        self._outbox: Outbox[Any] = outbox or Outbox()
        self._source = source
        self._stopped = False
        self._closed = asyncio.Event()
        self.trace: PipelineTrace | None = None
        """What it is followed by, where sessions are traced."""
        self._audio: SessionAudio | None = None
        self._task: asyncio.Task[None] | None = None

    def keep_audio(self, writer: SessionAudio) -> None:
        """Give everything that is received to this writer too, from now on, as one channel."""
        self._audio = writer

    def know_voices(self, profiles: Sequence[VoiceProfile], names: SpeakerNames) -> None:
        """Call speakers by name, from now on, whose voices these are; others have ``names``."""
        for source, part in self.parts.items():
            own = {("", speaker): name for (of, speaker), name in names.items() if of == source}
            part.know_voices(profiles, own)

    def voice_of(self, speaker: int, source: str) -> Samples | None:
        """The mean vector of a speaker's voice; None before enough of it was heard."""
        part = self.parts.get(source)
        return part.voice_of(speaker, "") if part else None

    @property
    def keeps_audio(self) -> bool:
        """Whether what is received is given to a writer."""
        return self._audio is not None

    async def push(self, data: bytes) -> None:
        """Take audio in the declared format. Waits while the session is behind."""
        if not self._stopped and data:
            await self._inbox.put(data)

    async def flush(self, marker: str, *, ends_turn: bool = False) -> None:
        """Commit all words so far; ``Flushed(marker)`` follows them. The session goes on.

        ``ends_turn``: what was said so far is a whole turn, where there are turns.
        """
        if not self._stopped:
            await self._inbox.put(Flush(marker, ends_turn))

    async def change_turns(self, options: TurnOptions) -> None:
        """End turns by these options from here on, where there are turns."""
        if not self._stopped:
            await self._inbox.put(ChangeTurns(options))

    async def reconfigure(self, open_intake: OpenIntake, marker: str) -> None:
        """End the speech so far as ``stop`` does, and take what follows through a new intake.

        ``Flushed(marker)`` comes between the events of the two; the stream and the clock go on.
        Raises UnsupportedOption where there are several sources.
        """
        if not self._stopped:
            await self._inbox.put(Reconfigure(open_intake, marker))

    async def stop(self, reason: SessionError | None = None) -> None:
        """Take no more audio: the last words come out, then ``SessionClosed``.

        ``reason`` is sent before them, where the client did not ask for the end. May be called
        twice.
        """
        if not self._stopped:
            self._stopped = True
            await self._inbox.put(Stop(reason))

    async def drain(self) -> None:
        """Stop, and wait until the last words are out.

        What a client has sent far ahead is dropped: nobody waits until half an hour is processed.
        """
        self._stopped = True
        self._inbox.trim(MAX_AUDIO_BYTES)
        # Even if one was there already: the client's own may be among what was dropped.
        await self._inbox.put(Stop())
        await self._closed.wait()

    def emit_error(self, code: str, message: str) -> None:
        """Send an error that does not end the session."""
        self._put(SessionError(code, message, fatal=False))

    def emit_warning(self, code: str, message: str) -> None:
        """Send a warning: something that the user should know and that ends nothing."""
        self._put(SessionWarning(code, message))

    def events(self) -> AsyncIterator[Event]:
        """All events for one reader, where the outbox is the session's own."""
        return self._outbox.read()

    async def close(self) -> None:
        """Free everything at once, in any state; the reader's events end."""
        self.abort()
        if self._task:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def abort(self) -> None:
        """As ``close``, without waiting for the session's task."""
        self._end()

    @property
    def parts(self) -> Mapping[str, LiveSession]:
        """Its sources by name, each with the audio and the clock of one; none where it has one."""
        return {}

    def leave(self) -> None:
        """Another server may go on with it, before it is closed here: its audio has no end."""
        for part in self.parts.values():
            part.leave()
        if self._audio:
            self._audio.close(None)
            self._audio = None

    @property
    def waiting(self) -> bool:
        """Whether commands wait to be processed."""
        return self._inbox.waiting

    @property
    def stopped(self) -> bool:
        """Whether it takes no more audio."""
        return self._stopped

    @property
    @abstractmethod
    def text(self) -> str:
        """The transcript so far; of several sources a line for each."""

    @property
    @abstractmethod
    def received(self) -> int:
        """Samples received, by every source."""

    @property
    @abstractmethod
    def handled(self) -> int:
        """Samples received that no engine has to process any more, about."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Samples received, by the source that has most."""

    @property
    @abstractmethod
    def at_rest(self) -> bool:
        """Whether it goes on, nobody speaks, and every word of what was received is out."""

    @abstractmethod
    def outlive_server(self) -> bool:
        """Another server may go on with it: emit checkpoints. To be called before any audio.

        False where it cannot: a stream that is paced begins with its session.
        """

    @abstractmethod
    def suspend(self) -> None:
        """The client is gone and may come back: until then it is no pause that no audio comes."""

    @abstractmethod
    def release(self) -> bool:
        """Give a suspended session's slots back, if nothing it was sent is waiting; whether it was.

        The audio of the open segment is kept, for the slot that ``resume`` takes.
        """

    @abstractmethod
    def resume(self) -> None:
        """The client is back. Where no slot is to be had, the session fails."""

    # What the session does with it.

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"session-{self.id}")

    async def _run(self) -> None:
        try:
            await self._take_commands()
        except (EngineError, VadError) as error:
            self._end(SessionError(error.code, error.message))
        except Exception:
            log.exception("session %s failed", self.id)
            self._end(SessionError("internal", "the server failed in this session; start again"))

    @abstractmethod
    async def _take_commands(self) -> None: ...

    def _put(self, event: Event, *, keep: bool = False) -> bool:
        """Send an event; False where the session ends, since nobody reads what it sends."""
        if self._closed.is_set() or self._outbox.put(event, self._source, keep=keep):
            return True
        self._end(SessionError("slow_client", "the client does not read what it is sent"))
        return False

    def _end(self, *errors: SessionError) -> None:
        """Once: free everything, with an error or without."""
        if self._closed.is_set():
            return
        self._stopped = True
        self._closed.set()
        self._outbox.close(*errors, SessionClosed(self.length), source=self._source)
        if self._audio:
            self._audio.close(self.length)
            self._audio = None
        self._inbox.clear()
        if self._task and self._task is not asyncio.current_task():
            self._task.cancel()
        self._free()

    @abstractmethod
    def _free(self) -> None: ...


def _ignore() -> None:
    pass
