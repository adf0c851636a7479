"""What a server's sessions share, one engine and one voice detector, and how sessions are opened.

``Service`` opens sessions and ends them all in shutdown. ``file_session`` passes a file through a
session, as fast as the engine takes it. How many sessions there may be is the engine's bound.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from voxlive.engines.contract import MOVE_S
from voxlive.errors import EngineError, EngineFull, UnsupportedOption
from voxlive.speakers.encoder import SpeakerDetector
from voxlive.speakers.sortformer import SortformerProcess
from voxlive.speakers.tracker import SpeakerLane
from voxlive.streaming.ingest.formats import AudioFormat, Report
from voxlive.streaming.ingest.live import open_ingest
from voxlive.streaming.ingest.media import read_file
from voxlive.streaming.intake import (
    Intake,
    NoVad,
    SessionOptions,
    SourceState,
    SpeechProbabilities,
)
from voxlive.streaming.replacements import Replacements
from voxlive.streaming.session import Session
from voxlive.streaming.sources import MultiSourceSession
from voxlive.turns.detector import TurnDetector
from voxlive.turns.tracker import TurnLane
from voxlive.vad.gate import Gate, OpenGate
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from voxlive.engines.contract import Engine, Sink, Stream, StreamOptions
    from voxlive.engines.recording import RecordingFolder, RecordingWriter
    from voxlive.streaming.intake import Command, LiveSession
    from voxlive.streaming.queues import Inbox, Outbox
    from voxlive.vad.detector import VoiceDetector
    from voxlive.vad.gate import GateOptions

_SHUTDOWN_MESSAGE = "the server is shutting down; what was heard so far is being finished"
_FILE_FORMAT = _SOURCE_FORMAT = AudioFormat("f32le", SAMPLE_RATE, 1)
_READ_BYTES = 1 << 16
_LOOK_S = 0.2


class Service:
    """Opens sessions on one loaded engine, and ends them all.

    It owns the engine and the detector: ``aclose`` shuts both down. ``replacements`` apply to every
    session, unless it has others for the same phrases. Every session is recorded in ``recordings``.
    ``turns``: what sessions find out by when somebody has finished; by default Smart Turn.
    ``speakers``: by what they tell voices apart; by default Resemblyzer's encoder.
    """

    def __init__(
        self,
        engine: Engine,
        detector: VoiceDetector,
        replacements: Replacements | None = None,
        recordings: RecordingFolder | None = None,
        turns: TurnDetector | None = None,
        speakers: SpeakerDetector | SortformerProcess | None = None,
    ) -> None:
        self.engine = engine
        self._speakers = speakers or SpeakerDetector()
        self._turns = turns or TurnDetector()
        self._recordings = recordings
        self._replacements = replacements or Replacements()
        self._detector = detector
        self._sessions: dict[Session, StreamOptions] = {}
        self._groups: set[MultiSourceSession] = set()
        self._retiring: list[Engine] = []
        self._retirements: set[asyncio.Task[None]] = set()
        self._closing = False

    def open(
        self,
        options: SessionOptions,
        inbox: Inbox[Command] | None = None,
        outbox: Outbox[Any] | None = None,
        source: str = "",
        resumed: SourceState | None = None,
    ) -> Session:
        """Open a session in a free slot; its queues are its own unless they are given.

        ``resumed``: as another server left it, to go on with; no recording is made of it. Never
        waits. Raises EngineFull, UnsupportedOption, BadAudio, VadError or, in shutdown,
        EngineError.
        """
        self._check_open()
        ident = resumed.id if resumed else secrets.token_hex(8)
        return self._open_one(options, ident, inbox, outbox, source, resumed=resumed)

    def open_sources(
        self,
        options: SessionOptions,
        inbox: Inbox[Command] | None = None,
        outbox: Outbox[Any] | None = None,
        source: str = "",
        resumed: Sequence[SourceState] = (),
        first: int = 0,
    ) -> MultiSourceSession:
        """As ``open``, for ``options.sources``: a slot for each of them, or none.

        ``resumed``: each source, ``first``: the sample from which on audio comes again.
        """
        self._check_open()
        ident = resumed[0].id if resumed else secrets.token_hex(8)
        # The channels have been decoded by then, and each is one of its own.
        of_source = replace(options, audio=_SOURCE_FORMAT, sources=())
        numbers = count(1)

        def open_source(
            outbox: Outbox[Any], segment_ids: Iterator[int], state: SourceState | None
        ) -> Session:
            part = f"{ident}-{next(numbers)}"
            return self._open_one(
                of_source, part, outbox=outbox, segment_ids=segment_ids, resumed=state
            )

        session = MultiSourceSession(
            options,
            open_source,
            self._groups.discard,
            ident,
            inbox,
            outbox,
            source,
            resumed,
            first,
        )
        self._groups.add(session)
        return session

    def _check_open(self) -> None:
        if self._closing:
            raise EngineError("shutting_down", "the server is shutting down")
        if self._waiting and self.full:  # for them first, whatever the options
            raise EngineFull(self.engine.info.capacity)

    def _open_one(
        self,
        options: SessionOptions,
        ident: str,
        inbox: Inbox[Command] | None = None,
        outbox: Outbox[Any] | None = None,
        source: str = "",
        segment_ids: Iterator[int] | None = None,
        resumed: SourceState | None = None,
    ) -> Session:
        stream = replace(options.stream, session=ident, name=options.model)
        options = self._with_pause(options)
        with ExitStack() as undo:
            ingest = open_ingest(options.audio)
            undo.callback(ingest.close)
            vad = self._resumed_vad(options, resumed) if resumed else self._open_vad(options)
            undo.callback(vad.close)
            session = Session(
                ingest,
                vad,
                partial(_open_gate, options),
                partial(self._open_stream, stream),
                options.stall_s,
                self._forget,
                ident,
                inbox,
                outbox,
                source,
                self._replacements | options.replacements,
                partial(self._record, ident, options) if self._recordings and not resumed else None,
                segment_ids,
                resumed,
                self._open_turns(options, resumed.first if resumed else 0),
                self._open_speakers(options, resumed.first if resumed else 0),
            )
            undo.pop_all()
        self._sessions[session] = stream
        return session

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session, None)

    async def reconfigure(self, session: LiveSession, options: SessionOptions, marker: str) -> None:
        """Take what follows with these options for audio and gate: ``Session.reconfigure``.

        The stream stays, with the ``options.stream`` of when the session was opened.
        """
        await session.reconfigure(partial(self._open_intake, options), marker)

    def _open_intake(self, options: SessionOptions, trail: int, at: int) -> Intake:
        options = self._with_pause(options)
        ingest, vad = open_ingest(options.audio), self._open_vad(options, at)
        return Intake(ingest, vad, _open_gate(options, trail, at), self._open_turns(options, at))

    def _open_stream(self, options: StreamOptions, sink: Sink, language: str | None) -> Stream:
        """``language``: what was found in the session before, if an engine failed meanwhile."""
        if language and not options.language and self.engine.info.takes_language:
            options = replace(options, language=language)
        return self.engine.open(options, sink)

    def _record(self, ident: str, options: SessionOptions, trail: int) -> RecordingWriter:
        assert self._recordings
        asked = {
            "audio": asdict(options.audio),
            "vad": asdict(options.gate) if options.gate else False,
            "stream": asdict(options.stream),
            "model": options.model,
        }
        return self._recordings.open(ident, self.engine.info, trail, asked)

    def change_vocabulary(self, session: LiveSession, terms: tuple[str, ...]) -> None:
        """Expect these names and terms in a session of one source, from its next pause on.

        Within ``MOVE_S``. An engine that takes none ignores them.
        """
        if isinstance(session, Session) and session in self._sessions:
            options = replace(self._sessions[session], vocabulary=terms)
            self._sessions[session] = options
            session.reopen(partial(self._open_stream, options))

    async def replace_engine(self, engine: Engine) -> int:
        """Go on with another engine, which this service owns from now on.

        Sessions pass to it at their next pause, within ``MOVE_S``, and are fed again what was not
        closed by then. Those whose options it refuses, or for which it has no slot, stay with the
        one before, which is shut down when it has none any more. Returns how many stay.
        """
        if self._closing:
            await asyncio.to_thread(engine.shutdown)
            raise EngineError("shutting_down", "the server is shutting down")
        before, self.engine = self.engine, engine
        movable = [one for one, options in self._sessions.items() if _fits(engine, one, options)]
        moving = movable[: engine.info.capacity]
        for session in moving:
            session.move(MOVE_S)
        self._retiring.append(before)
        self._retirements.add(asyncio.create_task(self._retire(before)))
        return len(self._sessions) - len(moving)

    async def _retire(self, engine: Engine) -> None:
        """Shut an engine down once nobody uses it; in shutdown ``aclose`` does."""
        while engine.in_use and not self._closing:  # noqa: ASYNC110 - it has no event for that
            await asyncio.sleep(_LOOK_S)
        if not self._closing:
            self._retiring.remove(engine)
            await asyncio.to_thread(engine.shutdown)

    def _with_pause(self, options: SessionOptions) -> SessionOptions:
        """The pause that suits the engine, where the client has chosen none."""
        gate = options.gate and options.gate.with_pause(self.engine.info.pause_ms)
        return replace(options, gate=gate)

    def _open_vad(self, options: SessionOptions, at: int = 0) -> SpeechProbabilities:
        return NoVad(at) if options.gate is None else self._detector.lane(at)

    def _open_turns(self, options: SessionOptions, at: int) -> TurnLane | None:
        if options.turns is None or options.gate is None:
            return None
        return TurnLane(self._turns, options.turns, options.gate, at)

    def _open_speakers(self, options: SessionOptions, at: int) -> SpeakerLane | None:
        if options.speakers is None or options.gate is None:
            return None
        return SpeakerLane(self._speakers.speakers(options.speakers, options.gate, at), at)

    def _resumed_vad(self, options: SessionOptions, state: SourceState) -> SpeechProbabilities:
        network, window = state.checkpoint.network, state.checkpoint.gate.end
        if options.gate is None:
            return NoVad(state.first, window)
        return self._detector.lane(state.first, None if network is None else (window, network))

    @property
    def full(self) -> bool:
        """Whether every slot is taken, or kept for a session that had one."""
        return self.free <= 0

    @property
    def free(self) -> int:
        """Slots that nobody has and none is kept for."""
        return self.engine.info.capacity - self.engine.in_use - self._waiting

    @property
    def _waiting(self) -> int:
        """Sessions that have lost their slot and need one."""
        return sum(session.waits_for_slot for session in self._sessions)

    @property
    def closing(self) -> bool:
        """Whether the service takes no more sessions."""
        return self._closing

    async def drain(self, drain_s: float = 10.0) -> None:
        """Take no more sessions, and end those there are, with an event, within ``drain_s``.

        All but those that another server may go on with.
        """
        self._closing = True
        sources = {one for group in self._groups for one in group.sessions}
        whole: set[LiveSession] = {*self._groups, *self._sessions.keys() - sources}
        sessions = [session for session in whole if not session.outlives_server]
        for session in sessions:
            session.emit_error("shutting_down", _SHUTDOWN_MESSAGE)
        ends = [asyncio.ensure_future(session.drain()) for session in sessions]
        if ends:
            await asyncio.wait(ends, timeout=drain_s)

    async def aclose(self, drain_s: float = 10.0) -> None:
        """``drain``, if that was not done; then free everything."""
        if not self._closing:
            await self.drain(drain_s)
        await asyncio.gather(*(session.close() for session in tuple(self._sessions)))
        await asyncio.gather(*self._retirements)
        for engine in (self.engine, *self._retiring):
            await asyncio.to_thread(engine.shutdown)
        self._detector.close()
        self._turns.close()
        self._speakers.close()


def _fits(engine: Engine, session: Session, options: StreamOptions) -> bool:
    """Whether a session can go on with this engine; its gate feeds a trail of one length."""
    try:
        engine.info.validate(options)
    except UnsupportedOption:
        return False
    return engine.info.trail(options) == session.trail


def _open_gate(options: SessionOptions, trail: int, at: int = 0) -> Gate | OpenGate:
    return Gate(options.gate, trail, at) if options.gate else OpenGate(at)


@asynccontextmanager
async def file_session(
    service: Service,
    path: Path,
    gate: GateOptions | None,
    stream: StreamOptions,
    raw: AudioFormat | None = None,
) -> AsyncIterator[Session]:
    """A session whose audio is a file; with ``raw`` the file is PCM in that format.

    What of the file was lost comes as SessionWarning. Closing the session ends it early. Raises
    EngineFull and UnsupportedOption at once, BadAudio or EngineError when they happen.
    """
    session = service.open(SessionOptions(raw or _FILE_FORMAT, gate, replace(stream, drafts=False)))
    report = Report()
    pieces = _read_raw(path) if raw else (block.tobytes() for block in read_file(path, report))
    feeder = asyncio.create_task(_feed(session, pieces, report))
    try:
        yield session
        await feeder
    finally:
        feeder.cancel()
        await session.close()
        await asyncio.gather(feeder, return_exceptions=True)


def _read_raw(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            yield piece


async def _feed(session: Session, pieces: Iterator[bytes], report: Report) -> None:
    try:
        while not session.stopped:
            piece = await asyncio.to_thread(next, pieces, None)
            if piece is None:
                for warning in report.warnings:
                    session.emit_warning(warning.code, warning.message)
                return
            await session.push(piece)
    finally:
        await session.stop()
