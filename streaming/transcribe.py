"""A file through a live session, as fast as the engine takes it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .clock import SAMPLE_RATE, seconds
from .engine import EngineError
from .events import SegmentClosed, SessionError, Word, Words
from .ingest import AudioFormat, read_file
from .options import SessionOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from ..vad.gate import GateOptions
    from .engine import StreamOptions
    from .service import Service
    from .session import Session

_PCM = AudioFormat("f32le", SAMPLE_RATE, 1)
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Segment:
    """A closed segment with its words. Times are samples on the file's clock."""

    id: int
    start: int
    end: int
    text: str
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Transcription:
    """What was said in a file. ``duration`` is in seconds; ``language`` null where unknown."""

    segments: tuple[Segment, ...]
    text: str
    duration: float
    language: str | None


async def transcribe(
    service: Service,
    path: Path,
    gate: GateOptions | None,
    stream: StreamOptions,
    progress: Callable[[float], None] | None = None,
    raw: AudioFormat | None = None,
) -> Transcription:
    """Transcribe an audio file; ``progress`` is told the seconds processed so far.

    ``raw``: the file is nothing but PCM in this format.

    Raises EngineFull and UnsupportedOption at once, BadAudio or EngineError when they happen.
    """
    async with reading(service, path, gate, stream, raw) as session:
        segments = await _collect(session, progress)
    return Transcription(segments, session.text, seconds(session.received), stream.language)


@asynccontextmanager
async def reading(
    service: Service,
    path: Path,
    gate: GateOptions | None,
    stream: StreamOptions,
    raw: AudioFormat | None = None,
) -> AsyncIterator[Session]:
    """A session that hears a file; close it to hear no more. Raises as ``transcribe``."""
    session = service.open(SessionOptions(raw or _PCM, gate, replace(stream, drafts=False)))
    pieces = _bytes(path) if raw else (block.tobytes() for block in read_file(path))
    feeder = asyncio.create_task(_feed(session, pieces))
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


async def _feed(session: Session, pieces: Iterator[bytes]) -> None:
    try:
        while not session.stopped:
            piece = await asyncio.to_thread(next, pieces, None)
            if piece is None:
                return
            await session.push(piece)
    finally:
        await session.stop()


async def _collect(
    session: Session, progress: Callable[[float], None] | None
) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    words: list[Word] = []
    async for event in session.events():
        match event:
            case Words():
                words.extend(event.words)
            case SegmentClosed(ident, start, end, text):
                segments.append(Segment(ident, start, end, text, tuple(words)))
                words.clear()
            case SessionError(code, message):
                raise EngineError(code, message)
        if progress:
            progress(seconds(session.processed))
    return tuple(segments)
