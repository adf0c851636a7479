"""One live session of several sources, such as a microphone and the computer's own sound.

The sources are the channels of one stream of PCM: they have one clock. Each goes through a
``Session`` with an engine stream of its own, so that a ``MultiSourceSession`` takes a slot for each
source. Their events come out as those of one session, in one order, each with its ``source``;
segment ids are unique among all sources. An error of one source ends the session. What one channel
has of another one's speech is taken out before (``crosstalk.py``).

Bounds: bytes wait in the session's own ``Inbox``, and 256 KiB of audio in that of each source; at
either ``push`` waits in the end, as in a session with one source.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from voxlive.errors import UnsupportedOption
from voxlive.streaming.crosstalk import LeakSuppressor
from voxlive.streaming.events import (
    Flushed,
    SegmentClosed,
    SessionCheckpoint,
    SessionClosed,
    SessionError,
    SessionWarning,
    SourceCheckpoint,
)
from voxlive.streaming.ingest.formats import ChannelDecoder
from voxlive.streaming.intake import ChangeTurns, Flush, LiveSession, Reconfigure, Stop
from voxlive.streaming.queues import Outbox
from voxlive.streaming.session import Session
from voxlive.vad.gate import GateState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from voxlive.streaming.events import Event
    from voxlive.streaming.intake import Command, OpenIntake, SessionOptions, SourceState
    from voxlive.streaming.queues import Inbox
    from voxlive.values import Samples

_PIECE_BYTES = 1 << 15

OpenSource = Callable[["Outbox[Any]", "Iterator[int]", "SourceState | None"], Session]
"""Opens the session of a source: with its outbox, ids for its segments, and where it goes on."""


class MultiSourceSession(LiveSession):
    """See the module. Used as a ``Session``, and bound to the running loop.

    ``open_source`` opens the session of a source with this outbox and these segment ids. Raises
    what it raises, after which nothing is open. ``resumed``: the sources as another server left
    them, from the same sample on or a later one each; audio comes again from sample ``first`` on.
    """

    def __init__(
        self,
        options: SessionOptions,
        open_source: OpenSource,
        on_closed: Callable[[MultiSourceSession], None],
        ident: str,
        inbox: Inbox[Command] | None = None,
        outbox: Outbox[Any] | None = None,
        source: str = "",
        resumed: Sequence[SourceState] = (),
        first: int = 0,
    ) -> None:
        super().__init__(ident, first, inbox, outbox, source)
        self._on_closed = on_closed
        self._decoder = ChannelDecoder(options.audio)
        self._leaks = LeakSuppressor(len(options.sources)) if options.suppress_leaks else None
        self._merger = EventMerger(options.sources, self._emit, self._end)
        self._passed = first
        self._sessions: dict[str, Session] = {}
        segment_ids = count(max((state.segment + 1 for state in resumed), default=0))
        states = resumed or (None,) * len(options.sources)
        try:
            for name, state in zip(options.sources, states, strict=True):
                outbox_of = SourceOutbox(name, self._merger)
                self._sessions[name] = session = open_source(outbox_of, segment_ids, state)
                if state:
                    self._merger.go_on(name, state.checkpoint)
                session.on_rest = lambda: self.on_rest()
        except BaseException:
            self._closed.set()
            for session in self._sessions.values():
                session.abort()
            raise
        self._start()

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Those of the sources."""
        return tuple(self._sessions.values())

    @property
    def parts(self) -> Mapping[str, LiveSession]:
        """See LiveSession."""
        return self._sessions

    # What a client does: see also ``LiveSession``.

    async def reconfigure(self, _open_intake: OpenIntake, _marker: str) -> None:
        """Several sources keep their options. Raises UnsupportedOption."""
        raise UnsupportedOption("a session with several sources keeps its options", "sources")

    async def close(self) -> None:
        """See LiveSession."""
        self.abort()
        for session in self.sessions:
            await session.close()
        await super().close()

    def outlive_server(self) -> bool:
        """See LiveSession."""
        for session in self.sessions:
            session.outlive_server()
        self.outlives_server = all(session.outlives_server for session in self.sessions)
        return self.outlives_server

    def suspend(self) -> None:
        """See LiveSession."""
        for session in self.sessions:
            session.suspend()

    def release(self) -> bool:
        """See LiveSession. Sources for which something is waiting keep their slots."""
        if self._inbox.waiting:
            return False
        released = [session.release() for session in self.sessions]
        return all(released)

    def resume(self) -> None:
        """See LiveSession."""
        for session in self.sessions:
            session.resume()

    @property
    def text(self) -> str:
        """The transcripts so far, a line for each source."""
        return "\n".join(session.text for session in self.sessions)

    @property
    def waiting(self) -> bool:
        """Whether commands or audio wait to be processed."""
        return self._inbox.waiting or any(session.waiting for session in self.sessions)

    @property
    def at_rest(self) -> bool:
        """See LiveSession."""
        return not self._inbox.waiting and all(session.at_rest for session in self.sessions)

    @property
    def received(self) -> int:
        """Samples of each channel that all sources have received."""
        return min(session.received for session in self.sessions)

    @property
    def handled(self) -> int:
        """See LiveSession."""
        return min(session.handled for session in self.sessions)

    @property
    def length(self) -> int:
        """See LiveSession."""
        return max(session.received for session in self.sessions)

    # What the session does with it.

    async def _take_commands(self) -> None:
        while not self._closed.is_set():
            command = await self._inbox.take()
            match command:
                case bytes(data):
                    await self._process(memoryview(data))
                case Flush(marker, ends_turn):
                    await self._process_rest()
                    self._merger.expect(Flushed(marker))
                    for session in self.sessions:
                        await session.flush(marker, ends_turn=ends_turn)
                case ChangeTurns(options):
                    for session in self.sessions:
                        await session.change_turns(options)
                case Stop(reason):
                    if reason:
                        self._emit(reason)
                    await self._finish()
                    return
                case Reconfigure():
                    pass  # ``reconfigure`` takes none
            self.on_rest()

    async def _process(self, data: memoryview) -> None:
        for at in range(0, len(data), _PIECE_BYTES):
            frames = self._decoder.push(data[at : at + _PIECE_BYTES])
            await self._pass(self._leaks.push(frames) if self._leaks else frames)
            await asyncio.sleep(0)

    async def _process_rest(self) -> None:
        if self._leaks:
            await self._pass(self._leaks.flush())

    async def _pass(self, frames: Samples) -> None:
        """Hand float32 [n, sources] at 16 kHz to the sources."""
        if len(frames):
            if self._audio:
                self._audio.put(frames.mean(axis=1), self._passed)
            for session, channel in zip(self.sessions, frames.T, strict=True):
                # What a source had at another server it is not given again.
                new = channel[max(0, session.first - self._passed) :]
                await session.push(np.ascontiguousarray(new).tobytes())
            self._passed += len(frames)

    async def _finish(self) -> None:
        rest = self._decoder.finish()
        await self._pass(self._leaks.push(rest) if self._leaks else rest)
        await self._process_rest()
        for warning in self._decoder.warnings:
            self.emit_warning(warning.code, warning.message)
        for session in self.sessions:
            await session.stop()

    # What the sources answer.

    def _emit(self, event: Event, *, keep: bool = False) -> bool:
        if isinstance(event, SegmentClosed):
            event = replace(event, covered=min(session.covered for session in self.sessions))
        return self._put(event, keep=keep)

    def _free(self) -> None:
        for session in self.sessions:
            session.abort()
        self._on_closed(self)


class EventMerger:
    """The events of several sources as those of one session. Pure.

    ``emit`` takes an event, and whether it may not be replaced; ``end`` ends the session. A flush
    is over when it is in all sources; an error that all of them report comes once; a checkpoint is
    of all, where each of them is by now.
    """

    def __init__(
        self,
        sources: tuple[str, ...],
        emit: Callable[..., bool],
        end: Callable[..., None],
    ) -> None:
        self._emit = emit
        self._end = end
        self._open = set(sources)
        self._checkpoints = {source: SourceCheckpoint(GateState()) for source in sources}
        self._flushes: deque[tuple[Flushed, set[str]]] = deque()
        self._reported: set[str] = set()

    def expect(self, flushed: Flushed) -> None:
        """All sources are about to be flushed."""
        self._flushes.append((flushed, set(self._open)))

    def go_on(self, source: str, checkpoint: SourceCheckpoint) -> None:
        """A source goes on from there."""
        self._checkpoints[source] = checkpoint

    def on_event(self, source: str, event: Event, *, keep: bool) -> bool:
        """Pass an event on; False when the reader counts as gone."""
        match event:
            case Flushed():
                return self._on_flushed(source)
            case SessionError(code) | SessionWarning(code):
                if code in self._reported:
                    return True
                self._reported.add(code)
                return self._emit(event, keep=keep)
            case SessionCheckpoint(sources):
                [self._checkpoints[source]] = sources
                return self._emit(SessionCheckpoint((*self._checkpoints.values(),)), keep=keep)
            case SessionClosed():
                return True
            case _:
                return self._emit(replace(event, source=source), keep=keep)

    def _on_flushed(self, source: str) -> bool:
        """Every source ends its flushes in order, so the first that it has not ended is meant."""
        for _, waiting in self._flushes:
            if source in waiting:
                waiting.remove(source)
                break
        while self._flushes and not self._flushes[0][1]:
            if not self._emit(self._flushes.popleft()[0]):
                return False
        return True

    def on_closed(self, source: str, last: tuple[SessionError | SessionClosed, ...]) -> None:
        """A source has ended, with an error or without."""
        errors = [one for one in last if isinstance(one, SessionError)]
        self._open.discard(source)
        if errors or not self._open:
            self._end(*errors)


class SourceOutbox(Outbox[Any]):
    """Where the session of one source puts its events."""

    def __init__(self, source: str, merger: EventMerger) -> None:
        super().__init__()
        self._source = source
        self._merger = merger

    def put(self, event: Event, source: str = "", *, keep: bool = False) -> bool:  # noqa: ARG002
        """Pass the event on as one of this source."""
        return self._merger.on_event(self._source, event, keep=keep)

    def close(self, *last: SessionError | SessionClosed, source: str = "") -> None:  # noqa: ARG002
        """The source has ended."""
        self._merger.on_closed(self._source, last)
