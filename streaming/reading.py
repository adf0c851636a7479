"""A file through a live session, as fast as the engine takes it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from .clock import SAMPLE_RATE
from .ingest import AudioFormat, Report, read_file
from .options import SessionOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from ..vad.gate import GateOptions
    from .engine import StreamOptions
    from .service import Service
    from .session import Session

_PCM = AudioFormat("f32le", SAMPLE_RATE, 1)
_PIECE = 1 << 16


@asynccontextmanager
async def reading(
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
                    session.add_warning(warning.code, warning.message)
                return
            await session.push(piece)
    finally:
        await session.stop()
