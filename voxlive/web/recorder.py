"""Live sessions in the store: a recording of each, and the recorder of a server.

A recording writes what its session's client gets, before the client gets it, and waits for that at
most ``writer.MAX_WAIT_S``: a store that is late or fails is passed by, counted, reported once to
the client, and caught up. ``Recorder`` is all of it for one server: it opens the store, writes, and
deletes what is older than is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import secrets
import threading
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeGuard, cast

import numpy as np

from voxlive.errors import ProtocolError, VoxliveError
from voxlive.store.audio import source_name
from voxlive.store.contract import (
    AddLanguage,
    AddMark,
    AddRefinement,
    AddResumable,
    AddSent,
    AddSession,
    AddWords,
    ClaimedSession,
    CloseSegment,
    EndResumable,
    Guarded,
    KeepAlive,
    Operation,
    OperationDropped,
    Refinement,
    ResumableStore,
    SessionClaimed,
    SessionMark,
    SessionOperation,
    SessionStore,
    SetCheckpoint,
    SetState,
    State,
    StoredResumable,
    StoredSegment,
    StoredSession,
    StoredTranscript,
    StoredWord,
    StoreError,
    StoreUnusable,
)
from voxlive.store.writer import SessionWriter, StoreWriter, Written
from voxlive.streaming.events import (
    Event,
    LanguageDetected,
    Recovered,
    SegmentClosed,
    SessionCheckpoint,
    SessionClosed,
    SessionError,
    SessionWarning,
    SourceCheckpoint,
    Words,
)
from voxlive.vad.gate import GateState
from voxlive.values import Word
from voxlive.web.protocols.contract import ENDING_CODES, ReceivedMessage

if TYPE_CHECKING:
    from voxlive.streaming.intake import LiveSession
    from voxlive.web.config import KeptAudio, ServeConfig

log = logging.getLogger(__name__)

_CHECK_S = 1.0
_KEEP_ALIVE_S = 60.0
_SWEEP_EVERY = 60  # of these
_UNITS = {"d": "days", "h": "hours"}
_NO_RANGES: Mapping[int, tuple[int, int]] = {}


@dataclass(frozen=True, slots=True, eq=False)
class StoredCheckpoint:
    """A checkpoint as it is kept: with the number of the next message when it was reached.

    ``speech_events``: how many were among the messages by then, by source.
    """

    checkpoint: SessionCheckpoint
    number: int = 0
    speech_events: Mapping[str, int] = field(default_factory=dict)

    def dump(self) -> str:
        """As text."""
        sources = [_dump_source(one) for one in self.checkpoint.sources]
        return json.dumps([sources, self.number, self.speech_events])

    @classmethod
    def load(cls, text: str) -> Self:
        """From text."""
        sources, number, sent = json.loads(text)
        checkpoint = SessionCheckpoint(tuple(_load_source(*one) for one in sources))
        return cls(checkpoint, number, sent)


def _dump_source(at: SourceCheckpoint) -> list[object]:
    gate, network = at.gate, at.network
    kept = None if network is None else b64encode(network.tobytes()).decode()
    return [gate.end, gate.done, gate.voiced, at.fed, at.speech_events, kept]


def _load_source(
    end: int, done: int, voiced: int | None, fed: int, speech: int, kept: str | None
) -> SourceCheckpoint:
    network = None
    if kept is not None:
        network = np.frombuffer(b64decode(kept), np.float32).reshape(2, -1)
    return SourceCheckpoint(GateState(end, done, voiced), fed, speech, network)


class SessionRecording:
    """One session's writing to the store: give it every event, in the order of being sent.

    Its id is in ``running`` until it ends. What is written of a resumable session is refused once
    another server has claimed it.
    """

    def __init__(
        self,
        writer: SessionWriter,
        session: StoredSession,
        running: set[str] | None = None,
        number: int = 0,
        ranges: Mapping[int, tuple[int, int]] = _NO_RANGES,
        epoch: int | None = None,
        holder: str = "",
        sent: int = 1,
    ) -> None:
        """``epoch``: of a session that another server began, which was claimed as ``holder``.

        ``number`` is its next word's, ``ranges`` are the numbers of the words of open segments,
        ``sent`` is the number of its next message.
        """
        self._writer = writer
        self._running = set() if running is None else running
        self._running.add(session.id)
        self._id = session.id
        self._unwritten: list[Operation] = [] if epoch else [AddSession(session)]
        self._number = number
        self._ranges = dict(ranges)
        self._epoch = epoch
        self._holder = holder
        self._claimed = False
        self.sent_kept = self._sent = sent
        """Every message before this number is in the store."""
        self._dropped = False  # a message, so that those behind it are of no use there
        self._error: str | None = None
        self._ended = False
        self.refine: str | None = None
        self._warned: set[str] = set()
        self._begin()

    @property
    def resumable(self) -> bool:
        """Whether another server could go on with the session."""
        return self._epoch is not None

    def make_resumable(self, token: str, start: str) -> None:
        """Who has the token may go on with the session elsewhere; ``start`` is what opened it."""
        self._epoch, self._holder = 1, new_holder()
        opened = AddResumable(self._id, token_digest(token), start, self._holder)
        self._unwritten.append(opened)
        self._begin()

    async def record(
        self, event: Event | None, sent: AddSent | None = None
    ) -> SessionWarning | None:
        """Write what the client is about to get, which may be sent when this returns.

        ``sent`` are the messages for it, where they are kept; they are written with the event.
        Returns what the client should know of the store, once in a session for each reason. Raises
        ProtocolError ``taken_over`` if another server has claimed the session.
        """
        operations, waits = self._operations(event) if event else ([], False)
        if sent:
            operations, waits = [*operations, sent], True
        if not operations:
            return None
        written = self._write(*operations)
        if not waits:
            return None
        if not await self._settle(written):
            self._writer.late += 1
            return self._warn("store_late", "the transcript is kept later than it is sent")
        if error := written.result():
            self._writer.passed_by += 1
            message = f"the transcript is not kept at the moment ({error.code}); it goes on"
            return self._warn("store_failed", message)
        return None

    def recall(
        self, claimed: ClaimedSession, received: Sequence[ReceivedMessage]
    ) -> ClaimedSession:
        """Write the messages that only the session's client has, the store's next and on.

        Returns the session with them.
        """
        found, transcript = claimed.resumable, claimed.transcript
        operations: list[SessionOperation] = []
        for event in _whole(transcript.open_words, received):
            operations += self._operations(event)[0]
        texts = tuple(one.text for one in received)
        self._write(*operations, AddSent(self._id, found.next, texts))
        languages = [*found.session.languages]
        words, segments = [*transcript.words], [*transcript.segments]
        for one in operations:
            match one:
                case AddWords(_, said):
                    words += said
                case CloseSegment(_, closed):
                    segments.append(closed)
                case AddLanguage(_, language) if language not in languages:
                    languages.append(language)
        segments.sort(key=lambda segment: segment.id)
        session = replace(found.session, languages=tuple(languages))
        return ClaimedSession(
            replace(found, session=session, next=found.next + len(texts)),
            replace(transcript, session=session, segments=tuple(segments), words=tuple(words)),
            claimed.sent + texts,
        )

    async def set_checkpoint(self, checkpoint: str) -> bool:
        """Write where another server would go on, and whether that is done, at most a moment later.

        Raises as ``record``.
        """
        written = self._write(SetCheckpoint(self._id, checkpoint))
        return await self._settle(written) and written.result() is None

    async def raise_epoch(self) -> bool:
        """Another connection has the session from now on; False if another server has it.

        That is known within a second, unless the store fails.
        """
        assert self._epoch is not None
        self._epoch += 1
        written = self._write(epoch=self._epoch)
        try:
            await self._settle(written, _CHECK_S)
        except ProtocolError:
            return False
        return True

    async def _settle(self, written: Written, wait_s: float | None = None) -> bool:
        """Wait until it is written, or has failed; whether it came to that in time."""
        done = await self._writer.settle(written, wait_s)
        if self._claimed or (done and isinstance(written.result(), SessionClaimed)):
            self._claimed = True
            raise ProtocolError("taken_over", "another server goes on with this session")
        return done

    def on_state(self, state: State, samples: int, error: str | None = None) -> None:
        """The session waits for its client, goes on, or is over; it has had so many samples.

        ``error`` is the code of what ended it, where no event had one.
        """
        if not self._ended:
            ended = self._state(state, samples, error)
            self._write(*self._with_refinement(ended))

    def leave(self, samples: int) -> None:
        """The server ends, and another one may go on with the session."""
        self.on_state("suspended", samples)
        self._ended = True
        self._running.discard(self._id)

    def end_resumable(self) -> None:
        """The session can be resumed no more."""
        self._running.discard(self._id)
        if self.resumable:
            self._write(EndResumable(self._id))

    def _with_refinement(self, state: SetState) -> list[SessionOperation]:
        """And what is to be done with a session that is over."""
        if not (self._ended and self.refine):
            return [state]
        return [state, AddRefinement(self._id, Refinement(self.refine, "", state.at))]

    def _state(self, state: State, samples: int, error: str | None = None) -> SetState:
        self._ended = state == "ended"
        if self._ended:
            self._running.discard(self._id)
        error = (self._error or error) if self._ended else None
        return SetState(self._id, state, samples, datetime.now(UTC), error)

    def _operations(self, event: Event) -> tuple[list[SessionOperation], bool]:
        """What an event writes, and whether its client waits for that."""
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
                return [AddWords(self._id, kept)], True
            case SegmentClosed(ident, start, end, _, received):
                nothing = self._number, self._number
                closed = StoredSegment(ident, start, end, *self._ranges.pop(ident, nothing))
                return [CloseSegment(self._id, closed, received or end)], True
            case LanguageDetected(language):
                return [AddLanguage(self._id, language)], False
            case Recovered(at):
                mark = SessionMark(at, "recovered", "", "", datetime.now(UTC))
                return [AddMark(self._id, mark)], False
            case SessionError(code, _, fatal):
                self._error = code if fatal or code in ENDING_CODES else self._error
            case SessionClosed(samples) if not self._ended:
                return self._with_refinement(self._state("ended", samples)), False
        return [], False

    def _begin(self) -> None:
        """Write that the session has begun, before anything else of it, once there is room."""
        while self._unwritten and not self._writer.is_full:
            self._writer.write(self._unwritten.pop(0))

    def _write(self, *operations: SessionOperation, epoch: int = 0) -> Written:
        self._begin()
        if self.resumable:
            sent = [one for one in operations if isinstance(one, AddSent)]
            if self._dropped:
                operations = tuple(one for one in operations if one not in sent)
            elif sent:
                self._sent = sent[-1].first + len(sent[-1].texts)
            written = self._writer.write(Guarded(self._id, self._holder, operations, epoch))
            if sent and written.done() and isinstance(written.result(), OperationDropped):
                self._dropped, self._sent = True, min(self._sent, sent[0].first)
            # What is written has everything before it written.
            written.add_done_callback(partial(self._on_written, self._sent))
            return written
        *before, last = operations
        for one in before:
            self._writer.write(one)
        return self._writer.write(last)

    def _on_written(self, sent: int, written: Written) -> None:
        if written.cancelled():
            return
        if written.result() is None:
            self.sent_kept = max(self.sent_kept, sent)
        elif isinstance(written.result(), SessionClaimed):
            self._claimed = True

    def _warn(self, code: str, message: str) -> SessionWarning | None:
        if code in self._warned:
            return None
        self._warned.add(code)
        return SessionWarning(code, message)


def _whole(
    opened: Sequence[StoredWord], received: Iterable[ReceivedMessage]
) -> Iterator[Words | SegmentClosed | LanguageDetected]:
    """The events of messages, of a session with these words in open segments.

    A client that gets no words has a segment's text alone: what is not among its words is one.
    """
    said: defaultdict[int, str] = defaultdict(str)
    for word in opened:
        said[word.segment] += word.text
    for one in received:
        match one.event:
            case Words(segment):
                said[segment] += one.event.text
                yield one.event
            case SegmentClosed(ident, start, end, text, source=source):
                before = said.pop(ident, "")
                if text.startswith(before) and text != before:
                    yield Words(ident, (Word(text.removeprefix(before), start, end),), source)
                yield one.event
            case LanguageDetected():
                yield one.event


def new_holder() -> str:
    """A name for the holder of a session, which no other has."""
    return secrets.token_hex(8)


def token_digest(token: str) -> str:
    """What is kept of a resume token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Recorder:
    """The store of a server, its writer, and the deletion of what has been kept long enough.

    ``keep`` None: for ever. ``audio``: whose audio is kept too, None: nobody's. ``resume``: for how
    long a session may be resumed of which no server writes anything.
    """

    def __init__(
        self,
        store: SessionStore,
        keep: timedelta | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        audio: KeptAudio | None = None,
        resume: timedelta = timedelta(),
        writer: StoreWriter | None = None,
    ) -> None:
        self.audio = audio
        self.refine: str | None = None
        """The model by which sessions with audio are refined when they are over."""
        self.transient = False
        """Whether nothing is kept beyond what it takes to resume a session in this server."""
        self.store = store
        self.resume_time = resume + timedelta(seconds=_KEEP_ALIVE_S)
        self.writer = writer or StoreWriter(store)
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
        resume = timedelta(seconds=config.resume_seconds)
        return cls(store, keep_time(config.keep), audio=config.keep_audio, resume=resume)

    @classmethod
    def of_worker(cls, config: ServeConfig, store: ResumableStore, writer: SessionWriter) -> Self:
        """That of another process of the server, for the sessions that it has.

        The first process does what is done once.
        """
        resume = timedelta(seconds=config.resume_seconds)
        return cls(cast("SessionStore", store), resume=resume, writer=cast("StoreWriter", writer))

    @classmethod
    def in_memory(cls, config: ServeConfig) -> Self:
        """That of a server with several processes which keeps nothing: for resuming alone."""
        from voxlive.store.backends import MemoryStore

        resume = timedelta(seconds=config.resume_seconds)
        recorder = cls(MemoryStore(), timedelta(hours=1), resume=resume)
        recorder.transient = True
        return recorder

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
        reported: set[str] = set()

        def report(code: str, message: str) -> None:
            # In a thread, or before the client has been sent anything of the session.
            if code in reported:
                return  # by another one of its files
            reported.add(code)
            log.warning("session %s: %s", session.id, message)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(session.emit_warning, code, message)

        if self.audio is None:
            report("audio_not_kept", "this server keeps no audio; the session goes on")
            return False
        try:
            for source, part in {"": session, **session.parts}.items():
                name = source_name(session.id, source)
                part.keep_audio(self.store.audio.open(name, report))
        except StoreError as error:
            report("audio_failed", f"audio is not kept ({error.message}); the session goes on")
            return False
        recording.refine = self.refine
        return True

    async def find_resumable(self, token: str, owner: str) -> StoredResumable | None:
        """A session of this owner that another server has left; None where there is none.

        Raises StoreError.
        """
        found = await asyncio.to_thread(self.store.resumable, token_digest(token))
        return found if self._waits(found) and found.session.owner == owner else None

    async def find_named(self, name: str) -> StoredSession | None:
        """A session of this id or captions name that waits for its client; None for none.

        Raises StoreError.
        """
        found = await asyncio.to_thread(self.store.resumable_named, name)
        return found.session if self._waits(found) else None

    async def transcript(self, session: str) -> StoredTranscript:
        """What a session has so far. Raises StoreError, UnknownSession."""
        return await asyncio.to_thread(self.store.transcript, session, None)

    def _waits(self, found: StoredResumable | None) -> TypeGuard[StoredResumable]:
        return found is not None and found.updated_at > self._now() - self.resume_time

    async def claim(self, found: StoredResumable, holder: str) -> ClaimedSession | None:
        """Hold it from now on; None if another server was faster. Raises StoreError."""
        return await asyncio.to_thread(self.store.claim, found.session.id, found.epoch, holder)

    def go_on(self, claimed: ClaimedSession, holder: str) -> SessionRecording:
        """Go on to record a session that was another server's."""
        found, transcript = claimed.resumable, claimed.transcript
        number = transcript.words[-1].number + 1 if transcript.words else 0
        ranges: dict[int, tuple[int, int]] = {}
        for word in transcript.open_words:
            first, _ = ranges.get(word.segment, (word.number, 0))
            ranges[word.segment] = first, word.number + 1
        return SessionRecording(
            self.writer,
            found.session,
            self._running,
            number,
            ranges,
            found.epoch,
            holder,
            found.next,
        )

    def close(self) -> None:
        """Write what waits, and close the store. Blocks for some seconds at most."""
        self._closing.set()
        if lost := self.writer.close():
            log.error("%d words and other operations are not in the store", lost)
        self.store.close()

    def _tend(self) -> None:
        """Delete what is old at once and then hourly; every minute note which sessions go on."""
        for minute in count():
            self._expire(self._now() - self.resume_time)
            if self.keep is not None and minute % _SWEEP_EVERY == 0:
                self._sweep(self._now() - self.keep)
            if self._closing.wait(_KEEP_ALIVE_S):
                return
            if running := tuple(self._running):
                self.writer.put(KeepAlive(running))

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
