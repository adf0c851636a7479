"""Refining stored sessions: their kept audio is recognised again by a model for files.

The words are a layer of the session beside those that were recognised live, in the same segments:
``in_segments`` finds each word's. Sessions wait in the store, so that they outlive a server; a
``Refiner`` takes one at a time, those that somebody has asked for first. Those that are
refined by themselves (``--refine``) begin while no live session runs. What fails is kept with the
session, with its code.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from voxlive.errors import RequestRefused, VoxliveError
from voxlive.runners.contract import Job
from voxlive.runners.refusals import Requirements
from voxlive.store.audio import source_name
from voxlive.store.contract import (
    MAX_ATTEMPTS,
    Owners,
    Refinement,
    SessionStore,
    StoredSession,
    StoredTranscript,
    StoredWord,
    StoreError,
)
from voxlive.values import Segment

if TYPE_CHECKING:
    from voxlive.web.rest.files import FileService

log = logging.getLogger(__name__)

_LOOK_S = 5.0
_RENEW_S = 15.0
_WRITTEN_S = 0.1
_BUSY = 503
"""The status of what may succeed later: such a session waits again."""


def in_segments(
    found: StoredTranscript, segments: Sequence[Segment], source: str = ""
) -> list[StoredWord]:
    """The words of a file's segments in the live segments of its session, numbered from 0.

    A word belongs to the segment in which its middle lies, else to the one that is nearest; of
    several sources to one of its ``source``. Raises RequestRefused ``no_word_times`` for words
    without times.
    """
    spans: dict[int, tuple[int, int]] = {}
    others: set[int] = set()
    for live in found.words:
        if live.source != source:
            others.add(live.segment)
            continue
        start, end = spans.get(live.segment, (live.start, live.end))
        spans[live.segment] = min(start, live.start), max(end, live.end)
    spans |= {one.id: (one.start, one.end) for one in found.segments if one.id not in others}
    ordered = sorted((start, end, ident) for ident, (start, end) in spans.items())
    starts = [start for start, _, _ in ordered]
    placed: list[StoredWord] = []
    for segment in segments:
        if segment.words is None and segment.text.strip():
            raise RequestRefused("no_word_times", "the model has written words without times")
        for word in segment.words or ():
            middle = (word.start + word.end) // 2
            at = max(bisect_right(starts, middle) - 1, 0)
            near = ordered[at : at + 2]
            _, ident = min(
                ((max(start - middle, middle - end, 0), ident) for start, end, ident in near),
                default=(0, 0),
            )
            placed.append(
                StoredWord(
                    len(placed),
                    ident,
                    word.text,
                    word.start,
                    word.end,
                    word.probability,
                    source=source,
                    layer="refined",
                )
            )
    return placed


class Refiner:
    """Refines the sessions of a store; see the module. On one event loop, from ``start`` on.

    ``idle``: whether no live session runs.
    """

    def __init__(
        self, store: SessionStore, files: FileService, idle: Callable[[], bool] = lambda: True
    ) -> None:
        self._store = store
        self._files = files
        self._idle = idle
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._running: tuple[str, asyncio.Task[list[StoredWord]]] | None = None

    def start(self) -> None:
        """Begin to take what waits. May be called twice."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="refiner")

    async def request(
        self, session: StoredSession, owners: Owners, model: str | None, who: str
    ) -> Refinement:
        """Have a session refined; returns how far that is. Raises VoxliveError for what cannot be.

        ``model`` None is the default for files. Nothing changes if it was asked for before.
        """
        if not session.audio:
            raise RequestRefused("no_audio", "the audio of this session is not kept here")
        needed = Requirements(language=_language(session), words=True)
        spec = await self._files.find(model, needed)
        wanted = Refinement(spec.model, who, datetime.now(UTC))
        made = await asyncio.to_thread(self._store.refine, session.id, owners, wanted)
        self._changed.set()
        return made

    def cancel(self, session: str) -> None:
        """The session is about to be deleted."""
        if self._running and self._running[0] == session:
            self._running[1].cancel()

    async def aclose(self) -> None:
        """End; what runs waits for the next server."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                found = await self._next()
            except StoreError as error:
                log.warning("sessions are not refined at the moment: %s", error.message)
                found = None
            if found is None:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._changed.wait()

    async def finish(self, session: str) -> None:
        """Refine this session alone, which waits, here or see it refined by a server.

        For a program without a server, instead of ``start``.
        """
        while True:
            found = await asyncio.to_thread(self._store.transcript, session, None)
            if not found.refinement or found.refinement.state not in ("queued", "running"):
                return
            if await self._next(session) is None:
                await asyncio.sleep(_LOOK_S)

    async def _next(self, only: str | None = None) -> str | None:
        """Refine the session that is next; returns its id, None if there is none."""
        claim = self._store.claim_refinement
        found = await asyncio.to_thread(lambda: claim(automatic=self._idle(), only=only))
        if found is None:
            return None
        ident, made = found
        outcome: Sequence[StoredWord] | VoxliveError | None = None
        task = asyncio.create_task(self._refine(ident, made))
        self._running = ident, task
        try:
            while not task.done():
                await asyncio.wait((task,), timeout=_RENEW_S)
                if not await asyncio.to_thread(self._store.renew_refinement, ident):
                    task.cancel()
            outcome = task.result()
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if this and this.cancelling():  # the server ends
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await asyncio.to_thread(self._store.end_refinement, ident, None)
                raise
            return ident  # the session is deleted
        except VoxliveError as error:
            later = error.status == _BUSY and made.attempts < MAX_ATTEMPTS
            outcome = None if later else error
            log.warning("session %s is not refined by %s: %s", ident, made.model, error.message)
        finally:
            self._running = None
        await asyncio.to_thread(self._store.end_refinement, ident, outcome)
        return ident if outcome is not None else None

    async def _refine(self, ident: str, made: Refinement) -> list[StoredWord]:
        while self._store.audio.is_written(ident):  # noqa: ASYNC110, a thread ends it
            await asyncio.sleep(_WRITTEN_S)
        found = await asyncio.to_thread(self._store.transcript, ident, None)
        paths, language = self._audio_of(found), _language(found.session)
        spec = await self._files.find(made.model, Requirements(language=language, words=True))
        placed: list[list[StoredWord]] = []
        for source, path in paths.items():
            done = await self._files.transcribe(spec, Job(path, language=language, words=True))
            placed.append(in_segments(found, done.segments, source))
        merged = heapq.merge(*placed, key=lambda word: word.start)
        return [replace(word, number=number) for number, word in enumerate(merged)]

    def _audio_of(self, found: StoredTranscript) -> dict[str, Path]:
        """The files to recognise again, by source: of a session of several those with words."""
        session, audio = found.session.id, self._store.audio
        whole = audio.find(session)
        if whole is None:
            raise RequestRefused("no_audio", "the audio of this session is not kept here")
        sources = sorted({word.source for word in found.words})
        if not any(sources):
            return {"": whole}
        paths = {source: audio.find(source_name(session, source)) for source in sources}
        kept = {source: path for source, path in paths.items() if path}
        if len(kept) < len(sources):  # whose words they are would be unknown
            message = "the audio of this session's sources is not kept apart, and is not refined"
            raise RequestRefused("unsupported_option", message)
        return kept


def _language(session: StoredSession) -> str | None:
    """That of a session, where there is only one."""
    return session.languages[0] if len(session.languages) == 1 else None
