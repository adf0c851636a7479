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
import contextlib
import logging
from collections import deque
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
)
from voxlive.streaming.ingest.formats import ChannelDecoder
from voxlive.streaming.intake import Flush, Reconfigure, Stop
from voxlive.streaming.queues import MAX_AUDIO_BYTES, Inbox, Outbox
from voxlive.streaming.session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from voxlive.store.audio import AudioWriter
    from voxlive.streaming.events import Event
    from voxlive.streaming.intake import Command, OpenIntake, SessionOptions
    from voxlive.values import Samples

log = logging.getLogger(__name__)

_PIECE_BYTES = 1 << 15


class MultiSourceSession:
    """See the module. Used as a ``Session``, and bound to the running loop.

    ``open_source`` opens the session of a source with this outbox and these segment ids. Raises
    what it raises, after which nothing is open.
    """

    def __init__(
        self,
        options: SessionOptions,
        open_source: Callable[[Outbox[Any], Iterator[int]], Session],
        on_closed: Callable[[MultiSourceSession], None],
        ident: str,
        inbox: Inbox[Command] | None = None,
        outbox: Outbox[Any] | None = None,
        source: str = "",
    ) -> None:
        self.id = ident
        self.first = 0
        self._inbox = inbox or Inbox()
        self._outbox: Outbox[Any] = outbox or Outbox()
        self._source = source
        self._on_closed = on_closed
        self._decoder = ChannelDecoder(options.audio)
        self._leaks = LeakSuppressor(len(options.sources)) if options.suppress_leaks else None
        self._merger = EventMerger(options.sources, self._emit, self._end)
        self._stopped = self._ended = False
        self._closed = asyncio.Event()
        self._audio: AudioWriter | None = None
        self._passed = 0
        self._sessions: dict[str, Session] = {}
        segment_ids = count()
        try:
            for name in options.sources:
                outbox_of = SourceOutbox(name, self._merger)
                self._sessions[name] = open_source(outbox_of, segment_ids)
        except BaseException:
            self._ended = True
            for session in self._sessions.values():
                session.abort()
            raise
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"session-{ident}")

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Those of the sources."""
        return tuple(self._sessions.values())

    # What a client does: see ``Session``.

    def keep_audio(self, writer: AudioWriter) -> None:
        """Give the mean of all channels to this writer too, from now on."""
        self._audio = writer

    async def push(self, data: bytes) -> None:
        """Take audio of all channels in the declared format. Waits while the session is behind."""
        if not self._stopped and data:
            await self._inbox.put(data)

    async def flush(self, marker: str) -> None:
        """Commit all words of all sources so far; one ``Flushed(marker)`` follows them."""
        if not self._stopped:
            await self._inbox.put(Flush(marker))

    async def reconfigure(self, _open_intake: OpenIntake, _marker: str) -> None:
        """Several sources keep their options. Raises UnsupportedOption."""
        raise UnsupportedOption("a session with several sources keeps its options", "sources")

    async def stop(self, reason: SessionError | None = None) -> None:
        """As for a session with one source."""
        if not self._stopped:
            self._stopped = True
            await self._inbox.put(Stop(reason))

    async def drain(self) -> None:
        """As for a session with one source."""
        self._stopped = True
        self._inbox.trim(MAX_AUDIO_BYTES)
        await self._inbox.put(Stop())
        await self._closed.wait()

    def emit_error(self, code: str, message: str) -> None:
        """Send an error that does not end the session."""
        self._emit(SessionError(code, message, fatal=False))

    def emit_warning(self, code: str, message: str) -> None:
        """Send a warning."""
        self._emit(SessionWarning(code, message))

    def events(self) -> AsyncIterator[Event]:
        """All events for one reader, where the outbox is the session's own."""
        return self._outbox.read()

    def abort(self) -> None:
        """Free everything at once, in any state, without waiting for tasks."""
        self._end()

    async def close(self) -> None:
        """Free everything at once, in any state; the reader's events end."""
        self.abort()
        for session in self.sessions:
            await session.close()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def suspend(self) -> None:
        """The client is gone and may come back."""
        for session in self.sessions:
            session.suspend()

    def release(self) -> bool:
        """Give the slots back of sources for which nothing is waiting; whether all are."""
        if self._inbox.waiting:
            return False
        released = [session.release() for session in self.sessions]
        return all(released)

    def resume(self) -> None:
        """The client is back."""
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
    def stopped(self) -> bool:
        """Whether it takes no more audio."""
        return self._stopped

    @property
    def received(self) -> int:
        """Samples of each channel that all sources have received."""
        return min(session.received for session in self.sessions)

    @property
    def handled(self) -> int:
        """Samples that no engine has to process any more, about."""
        return min(session.handled for session in self.sessions)

    # What the session does with it.

    async def _run(self) -> None:
        try:
            while not self._ended:
                command = await self._inbox.take()
                match command:
                    case bytes(data):
                        await self._process(memoryview(data))
                    case Flush(marker):
                        await self._process_rest()
                        self._merger.expect(Flushed(marker))
                        for session in self.sessions:
                            await session.flush(marker)
                    case Stop(reason):
                        if reason:
                            self._emit(reason)
                        await self._finish()
                        return
                    case Reconfigure():
                        pass  # ``reconfigure`` takes none
        except Exception:
            log.exception("session %s failed", self.id)
            self._end(SessionError("internal", "the server failed in this session; start again"))

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
            self._passed += len(frames)
            for session, channel in zip(self.sessions, frames.T, strict=True):
                await session.push(np.ascontiguousarray(channel).tobytes())

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
        if self._ended:
            return True
        if isinstance(event, SegmentClosed):
            event = replace(event, covered=min(session.covered for session in self.sessions))
        if self._outbox.put(event, self._source, keep=keep):
            return True
        self._end(SessionError("slow_client", "the client does not read what it is sent"))
        return False

    def _end(self, *errors: SessionError) -> None:
        """Once: with an error, or when all sources have ended."""
        if self._ended:
            return
        self._ended = self._stopped = True
        self._closed.set()
        self._outbox.close(*errors, SessionClosed(self._longest), source=self._source)
        for session in self.sessions:
            session.abort()
        if self._audio:
            self._audio.close(self._passed)
        self._inbox.clear()
        if self._task is not asyncio.current_task():
            self._task.cancel()
        self._on_closed(self)

    @property
    def _longest(self) -> int:
        return max(session.received for session in self.sessions)


class EventMerger:
    """The events of several sources as those of one session. Pure.

    ``emit`` takes an event, and whether it may not be replaced; ``end`` ends the session. A flush
    is over when it is in all sources; an error that all of them report comes once.
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
        self._flushes: deque[tuple[Flushed, set[str]]] = deque()
        self._reported: set[str] = set()

    def expect(self, flushed: Flushed) -> None:
        """All sources are about to be flushed."""
        self._flushes.append((flushed, set(self._open)))

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
            case SessionClosed() | SessionCheckpoint():
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


LiveSession = Session | MultiSourceSession
"""What ``Service.open`` opens."""
