"""Live sessions in the store: a thread that writes, and a recording of each session.

A recording writes what its session's client gets, before the client gets it, and waits for that at
most ``MAX_WAIT_S``: a store that is late or fails is passed by, counted, reported once to the
client, and caught up. ``Recorder`` is all of it for one server: it opens the store, writes, and
deletes what is older than is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

from voxlive.errors import VoxliveError
from voxlive.store.contract import (
    AddLanguage,
    AddMark,
    AddRefinement,
    AddSession,
    AddWords,
    CloseSegment,
    KeepAlive,
    Operation,
    Refinement,
    SessionMark,
    SessionStore,
    SetState,
    State,
    StoredSegment,
    StoredSession,
    StoredWord,
    StoreError,
    StoreUnusable,
)
from voxlive.streaming.events import (
    Event,
    LanguageDetected,
    Recovered,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SessionWarning,
    Words,
)
from voxlive.web.protocols.contract import ENDING_CODES

if TYPE_CHECKING:
    from voxlive.streaming.sources import LiveSession
    from voxlive.web.config import KeptAudio, ServeConfig

log = logging.getLogger(__name__)

MAX_WAIT_S = 0.05
"""How long what a client gets waits for the store."""
MAX_WAITING = 200_000
"""Words, and other operations, that wait for a store which fails: some 100 MB. At the bound what is
new is dropped and counted; the numbers of words tell where some are missing."""
_MAX_BATCH = 2000
_RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)
_CLOSE_TIMEOUT_S = 5.0
_KEEP_ALIVE_S = 60.0
_SWEEP_EVERY = 60  # of these
_UNITS = {"d": "days", "h": "hours"}

_Written = asyncio.Future["StoreError | None"]
_Pending = tuple[Operation, _Written | None]


class StoreWriter:
    """One thread that writes: at once, and then all that has come meanwhile, in one transaction.

    What fails is tried again, before anything newer, until it succeeds or the writer is closed.
    ``write`` is called on an event loop, everything else in any thread.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._waiting: deque[_Pending] = deque()
        self._weight = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._began_at: float | None = None  # when the batch that is written now was first tried
        self._failure: StoreError | None = None
        self.written = self.late = self.passed_by = self.dropped = 0
        """Operations: written; that a client did not wait for, since the store was late or failed;
        and lost at the bound."""
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Words and other operations that are not written yet."""
        return self._weight

    @property
    def is_full(self) -> bool:
        """Whether what is new is dropped."""
        return self._weight >= MAX_WAITING

    @property
    def is_late(self) -> bool:
        """Whether nothing was written for longer than a client waits: it need not wait again."""
        began_at = self._began_at
        return began_at is not None and time.monotonic() - began_at > MAX_WAIT_S

    @property
    def failure(self) -> StoreError | None:
        """Why nothing is written at the moment."""
        return self._failure

    def write(self, operation: Operation) -> _Written:
        """Have it written, after those before it. The result is None, or why it has to wait."""
        written: _Written = asyncio.get_running_loop().create_future()
        if failure := self.put(operation, written):
            written.set_result(failure)
        return written

    def put(self, operation: Operation, written: _Written | None = None) -> StoreError | None:
        """As ``write``, in any thread; returns why it has to wait or is dropped."""
        weight = _weight(operation)
        with self._changed:
            if self._closing.is_set() or self._weight + weight > MAX_WAITING:
                self.dropped += 1
                return self._failure or StoreError("too much waits for the store")
            self._waiting.append((operation, written))
            self._weight += weight
            self._changed.notify()
            return self._failure

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> int:
        """Write what waits, for this long at most; returns how much is lost."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join(timeout_s)
        return self._weight

    def _run(self) -> None:
        failed = 0
        while True:
            with self._changed:
                while not (self._waiting or self._closing.is_set()):
                    self._changed.wait()
                batch = list(islice(self._waiting, _MAX_BATCH))
                if not batch:
                    return
            self._began_at = self._began_at or time.monotonic()
            try:
                self._store.apply([operation for operation, _ in batch])
            except StoreError as error:
                self._fail(error, batch)
                if self._closing.wait(_RETRY_S[min(failed, len(_RETRY_S) - 1)]) and failed:
                    return
                failed += 1
                continue
            failed, self._began_at = 0, None
            self._succeed(batch)

    def _succeed(self, batch: list[_Pending]) -> None:
        with self._changed:
            for _ in batch:
                self._waiting.popleft()
            self._weight -= sum(_weight(operation) for operation, _ in batch)
            recovered, self._failure = self._failure, None
            self.written += len(batch)
        if recovered:
            log.warning("the store works again; %d operations are caught up", len(batch))
        _resolve((future for _, future in batch), None)

    def _fail(self, error: StoreError, batch: list[_Pending]) -> None:
        with self._changed:
            first, self._failure = self._failure is None, error
        if first:
            log.error("the store fails, and is tried again: %s", error.message)
        _resolve((future for _, future in batch), error)


def _weight(operation: Operation) -> int:
    return len(operation.words) if isinstance(operation, AddWords) else 1


def _resolve(futures: Iterable[_Written | None], result: StoreError | None) -> None:
    """Give futures their result, on their own loops; one that has ended needs none."""
    loops: dict[asyncio.AbstractEventLoop, list[_Written]] = {}
    for future in filter(None, futures):
        loops.setdefault(future.get_loop(), []).append(future)

    def set_results(mine: list[_Written]) -> None:
        for future in mine:
            if not future.done():
                future.set_result(result)

    for loop, mine in loops.items():
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(set_results, mine)


class SessionRecording:
    """One session's writing to the store: give it every event, in the order of being sent.

    Its id is in ``running`` until it ends.
    """

    def __init__(
        self, writer: StoreWriter, session: StoredSession, running: set[str] | None = None
    ) -> None:
        self._writer = writer
        self._running = set() if running is None else running
        self._running.add(session.id)
        self._id = session.id
        self._unwritten: StoredSession | None = session
        self._number = 0  # of the next word
        self._ranges: dict[int, tuple[int, int]] = {}  # of the words of open segments
        self._error: str | None = None
        self._ended = False
        self.refine: str | None = None
        self._warned: set[str] = set()
        self._begin()

    async def record(self, event: Event) -> SessionWarning | None:
        """Write what the client is about to get, which may be sent when this returns.

        Returns what the client should know of the store, once in a session for each reason.
        """
        written = self._on_event(event)
        if written is None:
            return None
        if not (written.done() or self._writer.is_late):
            await asyncio.wait((written,), timeout=MAX_WAIT_S)
        if not written.done():
            self._writer.late += 1
            return self._warn("store_late", "the transcript is kept later than it is sent")
        if error := written.result():
            self._writer.passed_by += 1
            message = f"the transcript is not kept at the moment ({error.code}); it goes on"
            return self._warn("store_failed", message)
        return None

    def on_state(self, state: State, samples: int, error: str | None = None) -> None:
        """The session waits for its client, goes on, or is over; it has had so many samples.

        ``error`` is the code of what ended it, where no event had one.
        """
        if not self._ended:
            self._ended = state == "ended"
            if self._ended:
                self._running.discard(self._id)
            error = (self._error or error) if self._ended else None
            now = datetime.now(UTC)
            self._write(SetState(self._id, state, samples, now, error))
            if self._ended and self.refine:
                self._write(AddRefinement(self._id, Refinement(self.refine, "", now)))

    def _on_event(self, event: Event) -> _Written | None:
        match event:
            case Words(segment, words, source):
                number, self._number = self._number, self._number + len(words)
                first, _ = self._ranges.get(segment, (number, number))
                self._ranges[segment] = first, self._number
                kept = tuple(
                    StoredWord(
                        n, segment, w.text, w.start, w.end, w.probability, w.original, source
                    )
                    for n, w in enumerate(words, number)
                )
                return self._write(AddWords(self._id, kept))
            case SegmentClosed(ident, start, end, _, received):
                nothing = self._number, self._number
                closed = StoredSegment(ident, start, end, *self._ranges.pop(ident, nothing))
                return self._write(CloseSegment(self._id, closed, received or end))
            case LanguageDetected(language):
                self._write(AddLanguage(self._id, language))
            case Recovered(at):
                mark = SessionMark(at, "recovered", "", "", datetime.now(UTC))
                self._write(AddMark(self._id, mark))
            case SessionError(code, _, fatal):
                self._error = code if fatal or code in ENDING_CODES else self._error
            case SessionClosed(samples):
                self.on_state("ended", samples)
        return None

    def _begin(self) -> None:
        """Write that the session has begun, before anything else of it, once there is room."""
        if self._unwritten and not self._writer.is_full:
            session, self._unwritten = self._unwritten, None
            self._writer.write(AddSession(session))

    def _write(self, operation: Operation) -> _Written:
        self._begin()
        return self._writer.write(operation)

    def _warn(self, code: str, message: str) -> SessionWarning | None:
        if code in self._warned:
            return None
        self._warned.add(code)
        return SessionWarning(code, message)


class Recorder:
    """The store of a server, its writer, and the deletion of what has been kept long enough.

    ``keep`` None: for ever. ``audio``: whose audio is kept too, None: nobody's.
    """

    def __init__(
        self,
        store: SessionStore,
        keep: timedelta | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        audio: KeptAudio | None = None,
    ) -> None:
        self.audio = audio
        self.refine: str | None = None
        """The model by which sessions with audio are refined when they are over."""
        self.store = store
        self.writer = StoreWriter(store)
        self.keep = keep
        self._now = now
        self._closing = threading.Event()
        self._running: set[str] = set()
        self._sweeper = threading.Thread(target=self._tend, name="store-sweep", daemon=True)
        self._sweeper.start()

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
        return cls(store, keep_time(config.keep), audio=config.keep_audio)

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
        if self.audio:
            audio = self.store.audio
            state["audio"] = {"of": self.audio, "location": str(audio.path), "bytes": audio.bytes}
        return state

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
        return SessionRecording(self.writer, begun, self._running)

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

        def report(code: str, message: str) -> None:
            # In a thread, or before the client has been sent anything of the session.
            log.warning("session %s: %s", session.id, message)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(session.emit_warning, code, message)

        if self.audio is None:
            report("audio_not_kept", "this server keeps no audio; the session goes on")
            return False
        try:
            session.keep_audio(self.store.audio.open(session.id, report))
        except StoreError as error:
            report("audio_failed", f"audio is not kept ({error.message}); the session goes on")
            return False
        recording.refine = self.refine
        return True

    def close(self) -> None:
        """Write what waits, and close the store. Blocks for some seconds at most."""
        self._closing.set()
        if lost := self.writer.close():
            log.error("%d words and other operations are not in the store", lost)
        self.store.close()

    def _tend(self) -> None:
        """Delete what is old at once and then hourly; every minute note which sessions go on."""
        for minute in count():
            if self.keep is not None and minute % _SWEEP_EVERY == 0:
                self._sweep(self._now() - self.keep)
            if self._closing.wait(_KEEP_ALIVE_S):
                return
            if running := tuple(self._running):
                self.writer.put(KeepAlive(running))

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
