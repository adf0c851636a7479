"""What a server shares between its sessions: one engine and one voice detector."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from ..vad.gate import Gate, OpenGate
from ..vad.silero import VadError
from .about import about
from .engine import EngineError
from .hearing import AlwaysSpeech, Ear, Hearing
from .ingest import open_ingest
from .session import Session

if TYPE_CHECKING:
    from ..vad.detector import VoiceDetector
    from .engine import Engine
    from .options import SessionOptions

_TOLD = "the server is shutting down; what was heard so far is being finished"


class Service:
    """Opens sessions on one loaded engine, and ends them all."""

    def __init__(self, engine: Engine, detector: VoiceDetector) -> None:
        self.engine = engine
        self._detector = detector
        self._sessions: set[Session] = set()
        self._closing = False

    def open(self, options: SessionOptions) -> Session:
        """A session in a free slot, at once.

        Raises EngineFull, UnsupportedOption, BadAudio or, in shutdown, EngineError.
        """
        if self._closing:
            raise EngineError("shutting_down", "the server is shutting down")
        with ExitStack() as undo:
            ingest = open_ingest(options.audio)
            undo.callback(ingest.close)
            ear = self._ear(options)
            undo.callback(ear.close)
            session = Session(ingest, ear, options.stall_s, self._sessions.discard)
            stream = self.engine.open(options.stream, session.sink)
            undo.pop_all()
        gate = Gate(options.gate, stream.trail) if options.gate else OpenGate()
        with about(session=session.id):
            session.start(stream, gate)
        self._sessions.add(session)
        return session

    async def renew(self, session: Session, options: SessionOptions, marker: str) -> None:
        """Hear what follows with these options for audio and gate; see ``Session.renew``.

        The stream stays, and with it what ``options.stream`` was when the session was opened.
        """
        await session.renew(partial(self._listen, options), marker)

    def _listen(self, options: SessionOptions, trail: int, at: int) -> Hearing:
        ingest, ear = open_ingest(options.audio), self._ear(options)
        return Hearing(ingest, ear, Gate(options.gate, trail, at) if options.gate else OpenGate(at))

    def _ear(self, options: SessionOptions) -> Ear:
        if options.gate is None:
            return AlwaysSpeech()
        try:
            return self._detector.lane()
        except VadError as error:
            raise EngineError("vad_failed", str(error)) from error

    @property
    def closing(self) -> bool:
        """Whether the service takes no more sessions."""
        return self._closing

    async def aclose(self, drain_s: float = 10.0) -> None:
        """Tell every session, let it finish for up to ``drain_s``, then free everything."""
        self._closing = True
        sessions = tuple(self._sessions)
        for session in sessions:
            session.warn("shutting_down", _TOLD)
        ends = [asyncio.ensure_future(session.drain()) for session in sessions]
        if ends:
            await asyncio.wait(ends, timeout=drain_s)
        await asyncio.gather(*(session.close() for session in sessions))
        await asyncio.to_thread(self.engine.shutdown)
        self._detector.close()
