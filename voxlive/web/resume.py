"""Live sessions that outlive their connection, for clients that come back.

``ResumableSessions`` keeps those whose socket is gone, and finds them by their token: the
``ConnectionState`` passes from one socket to the next. Events of a suspended session go into its
protocol's journal, which the client gets when it resumes.

Bounds: ``idle_s`` without a client, then the session ends; ``most`` suspended at a time, beyond
which the one that was suspended first ends, of the key that has most of them. After ``_RELEASE_S``
a suspended session gives its slot back.

What a client has sent that does not come back is recognised to its end where somebody has the
words: the store, or readers of its captions.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol, Self

from voxlive.errors import ProtocolError
from voxlive.speakers.tracker import SETTLED, HeardWord
from voxlive.store.contract import ClaimedSession, StoredResumable, StoredTranscript, StoredWord
from voxlive.streaming.events import (
    SegmentClosed,
    SessionCheckpoint,
    SourceCheckpoint,
    TurnClosed,
    Words,
)
from voxlive.streaming.intake import LiveSession, SessionOptions, SourceState
from voxlive.turns.told import TurnsTold
from voxlive.vad.gate import GateState
from voxlive.values import SAMPLE_RATE, Word, samples
from voxlive.web.captions.feeds import CaptionFeeds
from voxlive.web.protocols.contract import ReceivedMessage, RestoredProtocol, ResumeSession
from voxlive.web.protocols.fields import Json
from voxlive.web.protocols.sent import turn_event
from voxlive.web.recording import StoredCheckpoint, tell_of_turns
from voxlive.web.socket_writer import ConnectionState

_RELEASE_S = 10.0
_RELEASE_AGAIN_S = 1.0
_TOKEN_BYTES = 24
_SPEECH = ("speech_started", "speech_stopped")


@dataclass(eq=False)
class ResumableSession:
    """One session, the audio that it has had, and the connection that it has now.

    ``sample_bytes`` are those of one sample of all channels, ``began_at`` is on the loop's clock,
    for the limit of a session's time. ``samples`` counts what was received, in the client's own
    rate. ``detach`` makes the present connection let go of the session.
    """

    token: str
    owner: str
    state: ConnectionState
    sample_bytes: int
    began_at: float
    detach: Callable[[], Awaitable[None]] | None = None
    samples: int = 0
    rest: bytes = b""
    timer: asyncio.TimerHandle | None = None
    reader: asyncio.Task[None] | None = None
    suspended_at: float = 0.0

    @property
    def session(self) -> LiveSession | None:
        """None once it has been closed."""
        return self.state.sessions.get("")

    @property
    def outlives_server(self) -> bool:
        """Whether another server on the same store can go on with it."""
        return any(one.resumable for one in self.state.recordings.values())

    async def raise_epoch(self) -> bool:
        """It has another connection; False if it is another server's by now."""
        kept = [one for one in self.state.recordings.values() if one.resumable]
        return all([await one.raise_epoch() for one in kept])

    async def push(self, data: bytes) -> None:
        """Take audio. Whole samples are passed on: a line may break in the middle of one."""
        data = self.rest + data
        whole = len(data) // self.sample_bytes * self.sample_bytes
        if self.session and whole:
            await self.session.push(data[:whole])
        self.rest = data[whole:]
        self.samples += whole // self.sample_bytes

    async def push_rest(self) -> None:
        """There is no more audio: a part of a sample is for the session to complain of."""
        if self.session:
            await self.session.push(self.rest)
        self.rest = b""


@dataclass(frozen=True, slots=True)
class StoredStart:
    """What a session was opened with: its client's first message, and the model that it chose.

    ``audio``: whether its audio is kept.
    """

    message: str
    model: str | None
    audio: bool

    def dump(self) -> str:
        """As text, for the store."""
        return json.dumps([self.message, self.model, self.audio])

    @classmethod
    def load(cls, text: str) -> Self:
        """From text."""
        return cls(*json.loads(text))


class FoundSession:
    """A session that another server has left in the store, before this one claims it.

    Positions are samples: ``first`` on the session's clock, ``samples`` in the client's rate.
    """

    def __init__(self, stored: StoredResumable, options: SessionOptions) -> None:
        self.stored = stored
        self._options = options
        self._sources = options.sources or ("",)
        beginning = SessionCheckpoint(tuple(SourceCheckpoint(GateState()) for _ in self._sources))
        self._kept = StoredCheckpoint(beginning)
        if stored.checkpoint is not None:
            self._kept = StoredCheckpoint.load(stored.checkpoint)
        self.first = self._kept.checkpoint.first(options.audio.rate)
        self.samples = self.first * options.audio.rate // SAMPLE_RATE

    def check(self, resume: ResumeSession) -> None:
        """Raise ProtocolError ``resume_gap`` for a client that cannot go on from there."""
        if resume.first > self.samples:
            raise ProtocolError(
                "resume_gap",
                f"another server needs the audio from sample {self.samples} on, and the client has "
                f"that from {resume.first} on: start another session",
            )
        if resume.have < self.stored.first - 1:
            raise ProtocolError(
                "resume_gap",
                f"the messages after {resume.have} are not kept any more: start another session",
            )

    def received(
        self, resume: ResumeSession, claimed: ClaimedSession
    ) -> tuple[ReceivedMessage, ...]:
        """The messages that the client has and the store has not.

        None where it does not give back all of them, or they cannot be of this session.
        """
        upto = claimed.resumable.next
        missing = tuple(one for one in resume.received if one.number >= upto)
        transcript = claimed.transcript
        closed = {segment.id for segment in transcript.segments}
        last = max((*closed, *(word.segment for word in transcript.words)), default=-1)
        for one in missing:
            match one.event:
                case Words(segment, source=source) | SegmentClosed(segment, source=source):
                    pass
                case TurnClosed(source=source) if source not in self._sources:
                    return ()
                case _:
                    continue
            # Each source has an open segment, whose number it got when the one before closed.
            most = last + 1 + len(self._sources)
            if source not in self._sources or segment in closed or segment > most:
                return ()
            last = max(last, segment)
            if isinstance(one.event, SegmentClosed):
                closed.add(segment)
        return missing if missing and missing[0].number == upto else ()

    def states(self, claimed: ClaimedSession) -> list[SourceState]:
        """What each source goes on from, once the session is claimed."""
        transcript = claimed.transcript
        opened = {word.segment for word in transcript.open_words}
        ids = {segment.id for segment in transcript.segments} | opened
        free = count(max(ids, default=-1) + 1)
        speech, languages = self.speech_events(claimed), self._languages(claimed)
        turns = self.turns(claimed)
        heard_upto = {
            one.get("source", ""): samples(one["upto"])
            for one in map(json.loads, claimed.sent if self._options.speakers else ())
            if one["type"] == "speakers"
        }
        stops = {turn.source: turn.stop for turn in transcript.turns}
        states = []
        for source, checkpoint in zip(self._sources, self._kept.checkpoint.sources, strict=True):
            words = [word for word in transcript.words if word.source == source]
            rest = [word for word in words if word.segment in opened]
            state = SourceState(
                claimed.resumable.session.id,
                checkpoint,
                checkpoint.first(self._options.audio.rate),
                "".join(word.text for word in words if word.segment not in opened),
                rest[0].segment if rest else next(free),
                tuple(
                    Word(one.text, one.start, one.end, one.probability, one.original)
                    for one in rest
                ),
                words[-1].end if words else None,
                speech[source],
                languages.get(source),
                _heard(words, checkpoint.gate.end - 2 * SETTLED),
                heard_upto.get(source, 0),
                turns.get(source, TurnsTold()),
                tuple(word.text for word in words if word.number >= stops.get(source, 0)),
            )
            states.append(state)
        return states

    def _since(self, claimed: ClaimedSession) -> Iterator[Json]:
        """The messages since the checkpoint."""
        since = claimed.sent[max(0, self._kept.number - claimed.resumable.first) :]
        return map(json.loads, since)

    def speech_events(self, claimed: ClaimedSession) -> Counter[str]:
        """How many messages there were about where speech begins and ends, by source."""
        counted = Counter(self._kept.speech_events)
        speech = (one for one in self._since(claimed) if one["type"] in _SPEECH)
        counted.update(str(one.get("source", "")) for one in speech)
        return counted

    def turns(self, claimed: ClaimedSession) -> dict[str, TurnsTold]:
        """What its client was told of turns, by source."""
        told = {source: replace(one) for source, one in self._kept.turns.items()}
        for message in self._since(claimed) if self._options.turns else ():
            tell_of_turns(told, turn_event(message))
        return told

    def _languages(self, claimed: ClaimedSession) -> dict[str, str]:
        """What was found, by source: of several, while the message for the client is kept."""
        if self._options.stream.language is not None:
            return {}
        if not self._options.sources:
            languages = claimed.resumable.session.languages
            return {"": languages[-1]} if languages else {}
        messages = [json.loads(text) for text in claimed.sent if '"language"' in text]
        return {one["source"]: one["language"] for one in messages if one["type"] == "language"}

    def protocol(self, claimed: ClaimedSession, token: str, have: int) -> RestoredProtocol:
        """What its protocol goes on from, for a client that has the messages up to ``have``.

        Those may be more than the store has, which was late then.
        """
        found, sent = claimed.resumable, claimed.sent
        if have >= found.next:
            found, sent = replace(found, first=have + 1, next=have + 1), ()
        return RestoredProtocol(
            found.session.id,
            token,
            found.epoch,
            sent,
            found.first,
            found.next,
            self._text(claimed.transcript),
            self.samples,
            found.ended,
            {source: _text_of(claimed.transcript, source) for source in self._options.sources},
        )

    def _text(self, transcript: StoredTranscript) -> str:
        """As ``done`` has it: of several sources a line for each closed segment."""
        if not self._options.sources:
            return transcript.text
        said: dict[int, list[StoredWord]] = defaultdict(list)
        for word in transcript.words:
            said[word.segment].append(word)
        closed = sorted(transcript.segments, key=lambda segment: segment.end)
        lines = ((words[0].source, words) for one in closed if (words := said[one.id]))
        return "".join(
            f"{source}: {''.join(word.text for word in words).strip()}\n" for source, words in lines
        )


def _heard(words: Sequence[StoredWord], since: int) -> tuple[HeardWord, ...]:
    """Whose the words of a source are that end behind sample ``since``, and its last one."""
    places: Counter[int] = Counter()
    heard = []
    for word in words:
        if word.end >= since or word is words[-1]:
            place, middle = places[word.segment], (word.start + word.end) // 2
            heard.append(HeardWord(word.segment, place, middle, word.speaker))
        places[word.segment] += 1
    return tuple(heard)


def _text_of(transcript: StoredTranscript, source: str) -> str:
    return "".join(word.text for word in transcript.words if word.source == source)


async def _take_events(state: ConnectionState) -> None:
    """Take all events, to the end. Raises ProtocolError if another server goes on."""
    ended = state.unfinished == 0
    while not ended:
        _, ended = await state.next()


async def _last_words(state: ConnectionState, reader: asyncio.Task[None]) -> None:
    """Have all words come of what was received; ``reader`` takes the events."""
    await asyncio.gather(*(one.drain() for one in tuple(state.sessions.values())))
    await asyncio.gather(reader, return_exceptions=True)


async def _nobody() -> None:
    """What has no connection lets go at once."""


class SharedCount(Protocol):
    """A number of each process of a server."""

    @property
    def in_use(self) -> int:
        """Of all processes."""
        ...

    def set(self, count: int) -> None:
        """That of this process."""
        ...


class ResumableSessions:
    """The sessions of a server that can be resumed; see the module. On one event loop."""

    def __init__(self, feeds: CaptionFeeds, idle_s: float, most: int) -> None:
        self._feeds = feeds
        self.idle_s = idle_s
        self._most = most
        self.restoring = asyncio.Lock()
        """Held while a session of another server is looked for and taken over."""
        self.elsewhere: Callable[[str, str], Awaitable[None]] | None = None
        """Has the server's other processes leave the session of a token and owner, ``hand_on``."""
        self.counts: SharedCount | None = None
        """How many there are in all processes of the server, where there are several."""
        self._sessions: dict[str, ResumableSession] = {}
        self._ends: set[asyncio.Task[None]] = set()

    @property
    def enabled(self) -> bool:
        """Whether sessions can be resumed here."""
        return self.idle_s > 0 and self._most > 0

    @property
    def may_have_one(self) -> bool:
        """Whether this server has a session to resume, with a connection or not."""
        return (self.counts.in_use if self.counts else len(self._sessions)) > 0

    def _keep(self, session: ResumableSession) -> None:
        self._sessions[session.token] = session
        self._count()

    def _drop(self, token: str) -> None:
        self._sessions.pop(token, None)
        self._count()

    def _count(self) -> None:
        if self.counts:
            self.counts.set(len(self._sessions))

    @property
    def suspended(self) -> list[ResumableSession]:
        """Those that wait for their client."""
        return [session for session in self._sessions.values() if session.reader]

    def add(
        self,
        state: ConnectionState,
        owner: str,
        sample_bytes: int,
        began_at: float,
        detach: Callable[[], Awaitable[None]],
    ) -> ResumableSession:
        """Keep a new session, with its connection's ``detach``."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        session = ResumableSession(token, owner, state, sample_bytes, began_at, detach)
        self._keep(session)
        return session

    def adopt(self, session: ResumableSession) -> None:
        """Keep a session that another server began."""
        self._keep(session)

    async def claim(
        self, token: str, owner: str, detach: Callable[[], Awaitable[None]]
    ) -> ResumableSession | None:
        """Give a session to another connection; the one that it has lets go of it first.

        None where there is none of this owner here, or another server has it by now.
        """
        found = self._sessions.get(token)
        if found is None or found.owner != owner:
            return None
        before, found.detach = found.detach, detach
        try:
            if before:
                await before()
            await self._stop_waiting(found)
            found.rest = b""
            held = await found.raise_epoch()
        except asyncio.CancelledError:
            self.suspend(found, detach)
            raise
        if not held:
            self._drop(token)
            await found.state.close(self._feeds)
            return None
        found.state.on_state("running")
        return found

    def suspend(self, session: ResumableSession, detach: Callable[[], Awaitable[None]]) -> None:
        """The connection of ``detach`` is gone; nothing happens if the session has another one."""
        if session.detach != detach or session.token not in self._sessions:
            return
        loop = asyncio.get_running_loop()
        session.detach, session.suspended_at = None, loop.time()
        session.reader = loop.create_task(self._read(session))
        self._wait(session, min(_RELEASE_S, self.idle_s))
        session.state.on_state("suspended")
        if session.session:
            session.session.suspend()
        waiting = self.suspended
        if len(waiting) > self._most:
            owners = Counter(one.owner for one in waiting)
            self._end(min(waiting, key=lambda one: (-owners[one.owner], one.suspended_at)))

    def remove(self, session: ResumableSession) -> None:
        """The session can be resumed no more; its connection closes it."""
        self._drop(session.token)
        session.state.end_resumable()

    async def leave(self, session: ResumableSession) -> None:
        """Leave the session to the next server."""
        self._drop(session.token)
        await self._stop_waiting(session)
        await session.state.close(self._feeds, over=False)

    async def hand_on(self, token: str, owner: str) -> bool:
        """Leave a session, if it is here and kept, to another process of this server."""
        kept = self._sessions.get(token)
        if kept is None or not kept.outlives_server:
            return False
        found = await self.claim(token, owner, _nobody)
        if found is None:
            return False
        await self.leave(found)
        return True

    def end_with_server(self) -> None:
        """No other server can go on with them."""
        for one in self._sessions.values():
            for recording in one.state.recordings.values():
                recording.end_resumable()
            if one.session:
                one.session.outlives_server = False

    async def leave_suspended(self) -> None:
        """Leave those that wait for their client to the next server, where it can have them."""
        for session in self.suspended:
            if session.outlives_server:
                await self.leave(session)

    async def finish(self, state: ConnectionState) -> None:
        """Close the sessions of a client that is gone; with all words where somebody has those.

        The server goes on with that by itself; what was sent far ahead is dropped.
        """
        if state.sessions and state.has_audience:
            self._run(self._finish(state))
        else:
            await state.close(self._feeds)

    async def aclose(self) -> None:
        """End all that are suspended, and what ``finish`` goes on with."""
        for session in self.suspended:
            self._end(session)
        await asyncio.gather(*self._ends)

    async def _read(self, session: ResumableSession) -> None:
        """Have the protocol keep what its client will get when it resumes."""
        try:
            await _take_events(session.state)
        except ProtocolError:  # another server goes on with it
            self._end(session)

    def _wait(self, session: ResumableSession, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        session.timer = loop.call_later(seconds, self._on_timer, session)

    def _on_timer(self, session: ResumableSession) -> None:
        left_s = session.suspended_at + self.idle_s - asyncio.get_running_loop().time()
        if left_s <= 0:
            self._end(session)
        elif session.session and not session.session.release():
            self._wait(session, min(_RELEASE_AGAIN_S, left_s))
        else:
            self._wait(session, left_s)

    def _end(self, session: ResumableSession) -> None:
        self.remove(session)
        self._run(self._close(session))

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def _close(self, session: ResumableSession) -> None:
        if session.reader and not session.reader.done() and session.state.has_audience:
            await _last_words(session.state, session.reader)
        await self._stop_waiting(session)
        await session.state.close(self._feeds)

    async def _finish(self, state: ConnectionState) -> None:
        await _last_words(state, asyncio.create_task(_take_events(state)))
        await state.close(self._feeds)

    async def _stop_waiting(self, session: ResumableSession) -> None:
        if session.timer:
            session.timer.cancel()
            session.timer = None
        if session.reader:
            reader, session.reader = session.reader, None
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
