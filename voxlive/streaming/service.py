"""What a server shares between its sessions: one engine and one voice detector.

A file through a live session, as fast as the engine takes it.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from voxlive.errors import EngineError
from voxlive.processes.logs import log_context
from voxlive.streaming.ingest.formats import AudioFormat, Report
from voxlive.streaming.ingest.live import open_ingest
from voxlive.streaming.ingest.media import read_file
from voxlive.streaming.intake import Intake, NoVad, SessionOptions, SpeechProbabilities
from voxlive.streaming.replacements import Replacements
from voxlive.streaming.session import Session
from voxlive.vad.gate import Gate, OpenGate
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from voxlive.engines.contract import Engine, StreamOptions
    from voxlive.streaming.intake import Command
    from voxlive.streaming.queues import Inbox, Outbox
    from voxlive.vad.detector import VoiceDetector
    from voxlive.vad.gate import GateOptions

_TOLD = "the server is shutting down; what was heard so far is being finished"


class Service:
    """Opens sessions on one loaded engine, and ends them all.

    ``replacements`` are every session's, unless it has others for the same phrases.
    """

    def __init__(
        self,
        engine: Engine,
        detector: VoiceDetector,
        replacements: Replacements | None = None,
    ) -> None:
        self.engine = engine
        self._replacements = replacements or Replacements()
        self._detector = detector
        self._sessions: set[Session] = set()
        self._closing = False

    def open(
        self,
        options: SessionOptions,
        inbox: Inbox[Command] | None = None,
        outbox: Outbox[Any] | None = None,
        source: str = "",
    ) -> Session:
        """A session in a free slot, at once; its queues are its own unless they are given.

        Raises EngineFull, UnsupportedOption, BadAudio, VadError or, in shutdown, EngineError.
        """
        if self._closing:
            raise EngineError("shutting_down", "the server is shutting down")
        with ExitStack() as undo:
            ingest = open_ingest(options.audio)
            undo.callback(ingest.close)
            ear = self._ear(options)
            undo.callback(ear.close)
            session = Session(
                ingest,
                ear,
                options.stall_s,
                self._sessions.discard,
                inbox,
                outbox,
                source,
                self._replacements | options.replacements,
            )
            stream = self.engine.open(options.stream, session.sink)
            undo.pop_all()
        gate = Gate(options.gate, stream.trail) if options.gate else OpenGate()
        with log_context(session=session.id):
            session.start(stream, gate)
        self._sessions.add(session)
        return session

    async def reconfigure(self, session: Session, options: SessionOptions, marker: str) -> None:
        """Hear what follows with these options for audio and gate; see ``Session.renew``.

        The stream stays, and with it what ``options.stream`` was when the session was opened.
        """
        await session.reconfigure(partial(self._listen, options), marker)

    def _listen(self, options: SessionOptions, trail: int, at: int) -> Intake:
        ingest, ear = open_ingest(options.audio), self._ear(options)
        return Intake(ingest, ear, Gate(options.gate, trail, at) if options.gate else OpenGate(at))

    def _ear(self, options: SessionOptions) -> SpeechProbabilities:
        return NoVad() if options.gate is None else self._detector.lane()

    @property
    def closing(self) -> bool:
        """Whether the service takes no more sessions."""
        return self._closing

    async def aclose(self, drain_s: float = 10.0) -> None:
        """Tell every session, let it finish for up to ``drain_s``, then free everything."""
        self._closing = True
        sessions = tuple(self._sessions)
        for session in sessions:
            session.emit_error("shutting_down", _TOLD)
        ends = [asyncio.ensure_future(session.drain()) for session in sessions]
        if ends:
            await asyncio.wait(ends, timeout=drain_s)
        await asyncio.gather(*(session.close() for session in sessions))
        await asyncio.to_thread(self.engine.shutdown)
        self._detector.close()


_PCM = AudioFormat("f32le", SAMPLE_RATE, 1)
_PIECE = 1 << 16


@asynccontextmanager
async def file_session(
    service: Service,
    path: Path,
    gate: GateOptions | None,
    stream: StreamOptions,
    raw: AudioFormat | None = None,
) -> AsyncIterator[Session]:
    """A session that hears a file, which is nothing but PCM in the format ``raw``, if one is given.

    What of the file was lost is told as SessionWarning. Close it to hear no more. Raises EngineFull
    and UnsupportedOption at once, BadAudio or EngineError when they happen.
    """
    session = service.open(SessionOptions(raw or _PCM, gate, replace(stream, drafts=False)))
    report = Report()
    pieces = _bytes(path) if raw else (block.tobytes() for block in read_file(path, report))
    feeder = asyncio.create_task(_feed(session, pieces, report))
    try:
        yield session
        await feeder
    finally:
        feeder.cancel()
        await session.close()
        await asyncio.gather(feeder, return_exceptions=True)


def _bytes(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
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
