"""What records a server's live sessions: in its store, in this process or another one of it.

``SessionRecorder`` is what a process does for the sessions that it has; ``Recorder`` is all of it
for one server: it opens the store, writes, and deletes what is older than is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeGuard

from voxlive.errors import VoxliveError
from voxlive.store.audio import source_name
from voxlive.store.contract import (
    ClaimedSession,
    KeepAlive,
    ResumableStore,
    SessionStore,
    StoredResumable,
    StoredSession,
    StoredTranscript,
    StoreError,
    StoreUnusable,
)
from voxlive.store.writer import SessionWriter, StoreWriter
from voxlive.web.profiles import VoiceProfiles
from voxlive.web.recording import SessionRecording, token_digest

if TYPE_CHECKING:
    from voxlive.store.audio import AudioStore
    from voxlive.streaming.intake import LiveSession
    from voxlive.web.config import KeptAudio, ServeConfig

log = logging.getLogger(__name__)

_KEEP_ALIVE_S = 60.0
_SWEEP_EVERY = 60  # of these
_UNITS = {"d": "days", "h": "hours"}


class SessionRecorder:
    """Records the sessions of a process by ``writer``; ``store`` finds those of others.

    ``resume``: for how long a session may be resumed of which no server writes anything.
    ``transient``: nothing is kept beyond what it takes to resume a session in this server.
    """

    audio: KeptAudio | None = None
    """Whose audio is kept too; None: nobody's."""
    audio_store: AudioStore | None = None
    """Where that is kept, if it is."""
    refine: str | None = None
    """The model by which sessions with audio are refined when they are over."""
    profiles: VoiceProfiles | None = None
    """Voices that are known again, if any may be remembered."""

    def __init__(
        self,
        store: ResumableStore,
        writer: SessionWriter,
        resume: timedelta = timedelta(),
        *,
        transient: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.transient = transient
        self.resume_time = resume + timedelta(seconds=_KEEP_ALIVE_S)
        self._sessions, self._writer = store, writer
        self._now = now
        self._running: set[str] = set()
        self._closing = threading.Event()
        self._tending = threading.Thread(target=self._tend, name="store-tend", daemon=True)
        self._tending.start()

    @property
    def writer(self) -> SessionWriter:
        """What it writes by."""
        return self._writer

    def open(
        self,
        session: str,
        language: str | None,
        owner: str,
        protocol: str,
        path: str,
        model: str,
        name: str | None = None,
        source: str = "",
    ) -> SessionRecording:
        """Begin to record a session; ``language`` is None where it is to be found out."""
        languages = (language,) if language else ()
        begun = StoredSession(
            session,
            owner,
            self._now(),
            protocol,
            path,
            model,
            languages,
            name=name,
            source=source,
        )
        return SessionRecording(self._writer, begun, self._running)

    def keep_audio(
        self, session: LiveSession, asked: bool | None, recording: SessionRecording
    ) -> bool:
        """Keep the audio of a session that begins, if server and client agree; whether it is.

        ``asked`` is the client's choice, None for none. One that asks for what is not to be had
        gets a warning.
        """
        if not (asked or (asked is None and self.audio == "all")):
            return False
        loop = asyncio.get_running_loop()
        reported: set[str] = set()

        def report(code: str, message: str) -> None:
            # In a thread, or before the client has been sent anything of the session.
            if code in reported:
                return  # by another one of its files
            reported.add(code)
            log.warning("session %s: %s", session.id, message)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(session.emit_warning, code, message)

        folder = self.audio_store
        if folder is None:
            report("audio_not_kept", "this server keeps no audio; the session goes on")
            return False
        try:
            for source, part in {"": session, **session.parts}.items():
                name = source_name(session.id, source)
                part.keep_audio(folder.open(name, report))
        except StoreError as error:
            report("audio_failed", f"audio is not kept ({error.message}); the session goes on")
            return False
        recording.refine = self.refine
        return True

    async def find_resumable(self, token: str, owner: str) -> StoredResumable | None:
        """A session of this owner that another server has left; None where there is none.

        Raises StoreError.
        """
        found = await asyncio.to_thread(self._sessions.resumable, token_digest(token))
        return found if self._waits(found) and found.session.owner == owner else None

    async def find_named(self, name: str) -> StoredSession | None:
        """A session of this id or captions name that waits for its client; None for none.

        Raises StoreError.
        """
        found = await asyncio.to_thread(self._sessions.resumable_named, name)
        return found.session if self._waits(found) else None

    def _waits(self, found: StoredResumable | None) -> TypeGuard[StoredResumable]:
        return found is not None and found.updated_at > self._now() - self.resume_time

    async def claim(self, found: StoredResumable, holder: str) -> ClaimedSession | None:
        """Hold it from now on; None if another server was faster. Raises StoreError."""
        return await asyncio.to_thread(self._sessions.claim, found.session.id, found.epoch, holder)

    def go_on(self, claimed: ClaimedSession, holder: str) -> SessionRecording:
        """Go on to record a session that was another server's."""
        found, transcript = claimed.resumable, claimed.transcript
        return SessionRecording(
            self._writer,
            found.session,
            self._running,
            transcript,
            found.epoch,
            holder,
            found.next,
        )

    def close(self) -> None:
        """Write what waits. Blocks for some seconds at most."""
        self._closing.set()
        if lost := self._writer.close():
            log.error("%d words and other operations are not in the store", lost)

    def _tend(self) -> None:
        """Every minute note which sessions go on."""
        for minute in count():
            self._delete_old(minute)
            if self._closing.wait(_KEEP_ALIVE_S):
                return
            if running := tuple(self._running):
                self._writer.put(KeepAlive(running))

    def _delete_old(self, minute: int) -> None:
        """Nothing: the server's first process does."""


class Recorder(SessionRecorder):
    """The store of a server, its writer, and the deletion of what has been kept long enough.

    ``keep`` None: for ever. ``audio``: whose audio is kept too, None: nobody's. ``resume``,
    ``transient``: see SessionRecorder.
    """

    def __init__(
        self,
        store: SessionStore,
        keep: timedelta | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        audio: KeptAudio | None = None,
        resume: timedelta = timedelta(),
        *,
        transient: bool = False,
    ) -> None:
        self.audio = audio
        self.audio_store = store.audio if audio else None
        self.store = store
        self.keep = keep
        self._store_writer = StoreWriter(store)
        super().__init__(store, self._store_writer, resume, transient=transient, now=now)

    @property
    def writer(self) -> StoreWriter:
        """See SessionRecorder."""
        return self._store_writer

    @classmethod
    def of(
        cls, config: ServeConfig, *, loopback: bool, on_warning: Callable[[str], object]
    ) -> Self | None:
        """That of a server, None where nothing is kept: ``--no-store``, or nothing is said.

        Where nothing is said transcripts are kept if only this machine can connect (``loopback``);
        if they cannot be, that is a warning. Raises StoreError for a store that was asked for.
        """
        if config.no_store or not (config.store or loopback):
            if config.keep_audio:
                raise StoreUnusable("--keep-audio is for stored sessions: --store says where")
            return None
        from voxlive.store.backends import open_store

        try:
            store = open_store(config.store or default_folder(), config.audio_folder)
            store.audio.most = int(config.max_audio_gb * 2**30)
            if config.keep_audio:
                store.audio.make_folder()
        except StoreError as error:
            if config.store:
                raise
            on_warning(f"transcripts are not kept: {error.message}; --store FOLDER, or --no-store")
            return None
        resume = timedelta(seconds=config.resume_seconds)
        profiles = VoiceProfiles.of(store, os.environ)
        made = cls(store, keep_time(config.keep), audio=config.keep_audio, resume=resume)
        made.profiles = profiles
        return made

    @classmethod
    def in_memory(cls, config: ServeConfig) -> Self:
        """That of a server with several processes which keeps nothing: for resuming alone."""
        from voxlive.store.backends import MemoryStore

        resume = timedelta(seconds=config.resume_seconds)
        return cls(MemoryStore(), timedelta(hours=1), resume=resume, transient=True)

    def __str__(self) -> str:
        days = "for ever"
        if self.keep is not None:
            days = f"for {self.keep / timedelta(days=1):g} days"
        kept = f"transcripts are kept in {self.store.location} {days}"
        if self.audio is None:
            return kept
        whose = "" if self.audio == "all" else " of sessions that ask for it"
        return f"{kept}, the audio{whose} in {self.store.audio.path}"

    @property
    def state(self) -> dict[str, object]:
        """Where transcripts are kept and how long, for clients."""
        failure = self.writer.failure
        state: dict[str, object] = {
            "location": self.store.location,
            "keep_days": None if self.keep is None else self.keep / timedelta(days=1),
            "waiting": self.writer.waiting,
            "error": failure and failure.message,
        }
        if self.profiles:
            state["profiles"] = True
        if self.audio:
            audio = self.store.audio
            state["audio"] = {"of": self.audio, "location": str(audio.path), "bytes": audio.bytes}
        return state

    async def transcript(self, session: str) -> StoredTranscript:
        """What a session has so far. Raises StoreError, UnknownSession."""
        return await asyncio.to_thread(self.store.transcript, session, None)

    def close(self) -> None:
        """Write what waits, and close the store. Blocks for some seconds at most."""
        super().close()
        self.store.close()

    def _delete_old(self, minute: int) -> None:
        """What is not resumed in time at once, and hourly what has been kept long enough."""
        self._expire(self._now() - self.resume_time)
        if self.keep is not None and minute % _SWEEP_EVERY == 0:
            self._sweep(self._now() - self.keep)

    def _expire(self, before: datetime) -> None:
        try:
            if expired := self.store.expire(before):
                log.info("%d sessions of a server before were not resumed in time", expired)
        except VoxliveError as error:
            log.warning("sessions that are not resumed are not ended yet: %s", error.message)

    def _sweep(self, before: datetime) -> None:
        try:
            if swept := self.store.sweep(before):
                log.info("%d sessions were kept long enough and are deleted", swept)
        except VoxliveError as error:
            log.warning("old sessions are not deleted yet: %s", error.message)


def keep_time(text: str) -> timedelta | None:
    """A time as "30d" or "12h"; None for "forever". Raises ValueError for anything else."""
    if text == "forever":
        return None
    found = re.fullmatch("([1-9][0-9]{0,4})([dh])", text)
    if not found:
        raise ValueError(f"{text}: write days as 30d, hours as 12h, or forever")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def default_folder() -> Path:
    """Where transcripts are kept if nothing is said."""
    from platformdirs import user_data_path

    return user_data_path("voxlive", appauthor=False) / "sessions"
