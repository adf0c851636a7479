"""One live session's writing to the store, and what another server goes on from.

A recording writes what its session's client gets, before the client gets it, and waits for that at
most ``writer.MAX_WAIT_S``: a store that is late or fails is passed by, counted, reported once to
the client, and caught up.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from array import array
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

import numpy as np

from voxlive.errors import ProtocolError
from voxlive.speakers.labels import SpeakerNamed, SpeakersFound
from voxlive.speakers.tracker import SpeakerState
from voxlive.store.contract import (
    AddLanguage,
    AddMark,
    AddName,
    AddRefinement,
    AddResumable,
    AddSent,
    AddSession,
    AddTurn,
    AddWords,
    ClaimedSession,
    CloseSegment,
    EndResumable,
    Guarded,
    Operation,
    OperationDropped,
    Refinement,
    SessionClaimed,
    SessionMark,
    SessionOperation,
    SetCheckpoint,
    SetSpeakers,
    SetState,
    State,
    StoredName,
    StoredSegment,
    StoredSession,
    StoredTranscript,
    StoredTurn,
    StoredWord,
)
from voxlive.store.writer import SessionWriter, Written
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
    TurnClosed,
    Words,
)
from voxlive.turns.told import TurnsTold
from voxlive.turns.tracker import (
    TurnEnded,
    TurnLikelyEnded,
    TurnResumed,
    TurnStarted,
    TurnState,
)
from voxlive.vad.gate import GateState
from voxlive.values import Word
from voxlive.web.protocols.contract import ENDING_CODES, ReceivedMessage

_CHECK_S = 1.0
_PLACES = 64  # segments of whose words speakers become known, or others
_NONE = array("l")


@dataclass(frozen=True, slots=True, eq=False)
class StoredCheckpoint:
    """A checkpoint as it is kept: with the number of the next message when it was reached.

    ``speech_events``: how many were among the messages by then, by source. ``turns``: what was told
    of them by then, by source.
    """

    checkpoint: SessionCheckpoint
    number: int = 0
    speech_events: Mapping[str, int] = field(default_factory=dict)
    turns: Mapping[str, TurnsTold] = field(default_factory=dict)

    def dump(self) -> str:
        """As text."""
        sources = [_dump_source(one) for one in self.checkpoint.sources]
        turns = {source: told.dump() for source, told in self.turns.items()}
        return json.dumps([sources, self.number, self.speech_events, turns])

    @classmethod
    def load(cls, text: str) -> Self:
        """From text."""
        sources, number, sent, *more = json.loads(text)
        checkpoint = SessionCheckpoint(tuple(_load_source(*one) for one in sources))
        turns = {name: TurnsTold.load(told) for one in more for name, told in one.items()}
        return cls(checkpoint, number, sent, turns)


def _dump_source(at: SourceCheckpoint) -> list[object]:
    gate, network = at.gate, at.network
    kept = None if network is None else b64encode(network.tobytes()).decode()
    turns, speakers = (one and one.dump() for one in (at.turns, at.speakers))
    return [gate.end, gate.done, gate.voiced, at.fed, at.speech_events, kept, turns, speakers]


def _load_source(
    end: int,
    done: int,
    voiced: int | None,
    fed: int,
    speech: int,
    kept: str | None,
    turns: Sequence[Any] | None = None,
    speakers: Sequence[Any] | None = None,
) -> SourceCheckpoint:
    network = None
    if kept is not None:
        network = np.frombuffer(b64decode(kept), np.float32).reshape(2, -1)
    return SourceCheckpoint(
        GateState(end, done, voiced),
        fed,
        speech,
        network,
        TurnState.load(turns) if turns else None,
        SpeakerState.load(speakers) if speakers else None,
    )


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
        before: StoredTranscript | None = None,
        epoch: int | None = None,
        holder: str = "",
        sent: int = 1,
    ) -> None:
        """``epoch``: of a session that another server began, which was claimed as ``holder``.

        ``before`` is what it has of it, ``sent`` is the number of its next message.
        """
        self._writer = writer
        self._running = set() if running is None else running
        self._running.add(session.id)
        self._id = session.id
        self._unwritten: list[Operation] = [] if epoch else [AddSession(session)]
        self._number = 0  # of the next word
        self._ranges: dict[int, tuple[int, int]] = {}  # of the words of open segments
        self._places: dict[int, array[int]] = {}  # the words' numbers, by segment
        self._turns_stop: dict[str, int] = {}  # behind the words of the last turn, by source
        if before:
            self._go_on(before)
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

    def _go_on(self, before: StoredTranscript) -> None:
        """Go on behind these words and turns."""
        for word in before.words:
            self._place(word)
        self._number = before.words[-1].number + 1 if before.words else 0
        for word in before.open_words:
            first, _ = self._ranges.get(word.segment, (word.number, 0))
            self._ranges[word.segment] = first, word.number + 1
        self._turns_stop = {turn.source: turn.stop for turn in before.turns}

    def _place(self, word: StoredWord) -> None:
        """Note where in its segment it is, of the last segments."""
        if word.segment not in self._places:
            self._places[word.segment] = array("l")
            if len(self._places) > _PLACES:
                del self._places[next(iter(self._places))]
        self._places[word.segment].append(word.number)

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
        turns, speakers = [*transcript.turns], dict[int, int]()
        names = {(one.source, one.speaker): one for one in transcript.names}
        for one in operations:
            match one:
                case AddWords(_, said):
                    words += said
                case SetSpeakers(_, found_of):
                    speakers |= found_of
                case AddName(_, name):
                    names.setdefault((name.source, name.speaker), name)
                case AddTurn(_, turn):
                    turns.append(turn)
                case CloseSegment(_, closed):
                    segments.append(closed)
                case AddLanguage(_, language) if language not in languages:
                    languages.append(language)
        segments.sort(key=lambda segment: segment.id)
        session = replace(found.session, languages=tuple(languages))
        words = [replace(one, speaker=speakers.get(one.number, one.speaker)) for one in words]
        whole = replace(
            transcript,
            session=session,
            segments=tuple(segments),
            words=tuple(words),
            turns=tuple(turns),
            names=tuple(names.values()),
        )
        resumable = replace(found, session=session, next=found.next + len(texts))
        return ClaimedSession(resumable, whole, claimed.sent + texts)

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
                for word in kept:
                    self._place(word)
                return [AddWords(self._id, kept)], True
            case SpeakersFound(named):
                speakers = tuple(
                    (number, one.speaker)
                    for one in named
                    for number in self._places.get(one.segment, _NONE)[one.first : one.last + 1]
                )
                return [SetSpeakers(self._id, speakers)], False
            case SpeakerNamed(speaker, name, source):
                return [AddName(self._id, StoredName(speaker, name, source))], False
            case TurnClosed(turn, start, end, _, source):
                first = self._turns_stop.get(source, 0)
                self._turns_stop[source] = self._number
                ended = StoredTurn(turn, start, end, first, self._number, source)
                return [AddTurn(self._id, ended)], False
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


def _whole(opened: Sequence[StoredWord], received: Iterable[ReceivedMessage]) -> Iterator[Event]:
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
            case LanguageDetected() | SpeakersFound() | TurnClosed():
                yield one.event


def tell_of_turns(told: dict[str, TurnsTold], event: Event | None) -> None:
    """Note what a client is told of turns, by source."""
    match event:
        case TurnStarted() | TurnLikelyEnded() | TurnResumed() | TurnEnded():
            told.setdefault(event.source, TurnsTold()).tell(event)
        case TurnClosed(turn, source=source):
            told.setdefault(source, TurnsTold()).close(turn)


def new_holder() -> str:
    """A name for the holder of a session, which no other has."""
    return secrets.token_hex(8)


def token_digest(token: str) -> str:
    """What is kept of a resume token."""
    return hashlib.sha256(token.encode()).hexdigest()
