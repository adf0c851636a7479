"""What a store of sessions keeps, and the interface that every backend implements.

``SessionStore`` is that interface. Its values are frozen: a ``StoredSession`` with its segments,
words, corrections and marks is a ``StoredTranscript``. Live sessions write ``Operation``s.
``voxlive.store.backends.open_store`` opens a store.

Times are samples at 16 kHz on the session's clock; moments are datetimes in UTC. A word has a
``number``: it counts from 0 over the whole session, so that a range of words, or the place where a
reader goes on, is a number or two. What was recognised never changes: a correction is kept beside
the words that it is for.

**Owners.** A session belongs to the key that opened it: ``owner`` is that key's name. Every method
that reads or changes sessions takes ``owners``, the names of the keys whose sessions the caller may
use; None: all. A session of any other key is as if it were not there: it is in no list and no
search, and naming it raises ``UnknownSession``. Who may read is not necessarily who may change: the
caller decides, by what it gives as ``owners``. The methods without ``owners`` (those of
``ResumableStore``, ``sweep``, ``stats``) are the server's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from voxlive.errors import CodedError, RequestRefused, VoxliveError

if TYPE_CHECKING:
    from voxlive.store.audio import AudioFolder

MAX_PAGE = 200
"""The most sessions of a page, whatever is asked for."""
MAX_TITLE, MAX_CORRECTION = 200, 10_000
"""Characters of a title, and of a correction or of a mark's text."""
MAX_CORRECTIONS, MAX_CORRECTED = 10_000, 1_000_000
"""Corrections of a session, and characters of all of them."""
MAX_SNIPPETS, MAX_SNIPPET = 3, 240
"""Snippets of one session that a search finds, and characters of a snippet."""

INTERRUPTED_AFTER = timedelta(minutes=5)
"""A session that is not over, and of which no server has written anything for so long, is."""

Owners = frozenset[str] | None
"""Names of the keys whose sessions may be used; None: all. See the module."""
State = Literal["running", "suspended", "ended"]
Layer = Literal["live", "refined", "corrected", "best"]
"""What of a session is shown: what was recognised live, later from its audio, live with corrections
by people, or the best of all. What was recognised live never changes."""
REFINEMENT_STALE_AFTER = timedelta(minutes=1)
"""A refinement that runs, and of which no server has written anything for so long, does not."""
MAX_ATTEMPTS, MAX_MARKS = 3, 10_000
"""How often a refinement begins at most; marks of a session."""


class StoreError(CodedError):
    """The store fails; its message says what to do. Live sessions go on without it."""

    code = "store_failed"


class StoreBusy(StoreError):
    """Another program holds the database, or all its connections are taken."""

    code = "store_busy"


class StoreFull(StoreError):
    """The disk has no room, or a quota is used up."""

    code = "store_full"


class StoreReadOnly(StoreError):
    """The files of the store, or the account of its database, cannot be written with."""

    code = "store_read_only"


class StoreUnusable(StoreError):
    """The database is damaged, no store, or one of a newer version."""

    code = "store_unusable"


class OperationDropped(StoreError):
    """More waits for the store than may: this will never be written."""


class SessionClaimed(StoreError):
    """Another server has claimed the session: this one writes no more of it."""

    code = "taken_over"


class UnknownSession(RequestRefused):
    """There is no session of this id, or none that the caller may use."""

    def __init__(self, session: str) -> None:
        super().__init__("unknown_session", f"there is no session {session!r} in the store", "id")


@dataclass(frozen=True, slots=True)
class StoredSession:
    """One live session as it is kept.

    ``name``: that of its captions, if the client gave one. ``languages``: those asked for or found,
    in the order of becoming known. ``source``: which of a connection's sources it is, "" where
    there is one. ``samples``: audio received, at the last write. ``error``: the code of the error
    that ended it, ``interrupted`` where its server ended without a word. ``words``: how many it
    has; ``preview``: the first of them, in lists and searches only. ``title``: its name for people.
    ``audio``: whether its audio is kept, where the store is asked.
    """

    id: str
    owner: str
    started_at: datetime
    protocol: str
    path: str
    model: str
    languages: tuple[str, ...] = ()
    name: str | None = None
    source: str = ""
    title: str | None = None
    state: State = "running"
    ended_at: datetime | None = None
    samples: int = 0
    error: str | None = None
    words: int = 0
    preview: str = ""
    audio: bool = False


@dataclass(frozen=True, slots=True)
class StoredWord:
    """One word; ``text`` has its own leading space, ``probability`` is None where it is unknown.

    ``original`` is what was recognised where a dictionary replaced it. ``source``: the source that
    it is from, in a session that has several. ``layer`` is live, refined (whose words have numbers
    of their own, in the live segments) or corrected. ``speaker``: whose voice, counted from 0
    within the source; None where that is not known.
    """

    number: int
    segment: int
    text: str
    start: int
    end: int
    probability: float | None = None
    original: str | None = None
    source: str = ""
    layer: str = "live"
    speaker: int | None = None


@dataclass(frozen=True, slots=True)
class StoredName:
    """What people call speaker number ``speaker`` of a source; ``name`` "": nothing."""

    speaker: int
    name: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """Somebody has spoken from ``start`` to ``end``, and finished: turn ``number`` of a source.

    Its words are those of the source from number ``first`` to before ``stop``.
    """

    number: int
    start: int
    end: int
    first: int
    stop: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A closed segment: its words are from number ``first`` to before ``stop``.

    Among them are words of other segments where a session has several sources.
    """

    id: int
    start: int
    end: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class Correction:
    """What stands for the words from number ``first`` to before ``stop``, by whom and since when.

    ``text`` "" takes the words out. The space before the first of the words is kept.
    """

    first: int
    stop: int
    text: str
    who: str
    made_at: datetime


@dataclass(frozen=True, slots=True)
class SessionMark:
    """A point in time that matters, such as ``recovered`` by the server or a note by a person.

    ``who`` is "" for the server. ``id`` names it within the store; None before it is there.
    """

    at: int
    kind: str
    text: str
    who: str
    made_at: datetime
    id: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Refinement:
    """A session's audio is recognised again by a model for files, as ``who`` asks ("": the server).

    A ``failed`` one has an ``error``, its code, and a ``message``. ``attempts``: how often it has
    begun. ``layer`` is the model whose words the session has as refined, from this one or another
    one before; None for no such words.
    """

    model: str
    who: str
    requested_at: datetime
    state: Literal["queued", "running", "done", "failed"] = "queued"
    error: str | None = None
    message: str = ""
    attempts: int = 0
    layer: str | None = None


@dataclass(frozen=True, slots=True)
class StoredTranscript:
    """One session whole. Words of segments that are not there are of open ones.

    Corrections are in the order in which they were made.
    """

    session: StoredSession
    segments: tuple[StoredSegment, ...]
    words: tuple[StoredWord, ...]
    corrections: tuple[Correction, ...] = ()
    marks: tuple[SessionMark, ...] = ()
    refined: tuple[StoredWord, ...] = ()
    refinement: Refinement | None = None
    turns: tuple[StoredTurn, ...] = ()
    names: tuple[StoredName, ...] = ()

    def shown(self, layer: Layer = "best") -> tuple[StoredWord, ...]:
        """The words of a layer.

        The best of a segment is what people have corrected in it, else what was refined, else what
        was recognised live. Raises RequestRefused ``not_refined`` where there is no such layer.
        """
        has_refined = self.refinement is not None and self.refinement.layer is not None
        match layer:
            case "live":
                return self.words
            case "refined":
                if not has_refined:
                    raise RequestRefused("not_refined", "this session is not refined", "layer")
                return self.refined
        corrected = self.corrected()
        if layer == "corrected" or not has_refined:
            return corrected
        numbers = {n for one in self.corrections for n in range(one.first, one.stop)}
        touched = {word.segment for word in self.words if word.number in numbers}
        words = [word for word in corrected if word.segment in touched]
        words += (word for word in self.refined if word.segment not in touched)
        return tuple(sorted(words, key=lambda word: (word.segment, word.number)))

    @property
    def text(self) -> str:
        """What was recognised: the texts of all words joined."""
        return "".join(word.text for word in self.words)

    @property
    def open_words(self) -> tuple[StoredWord, ...]:
        """Those of segments that are not closed: one, or one of each source."""
        closed = {segment.id for segment in self.segments}
        return tuple(word for word in self.words if word.segment not in closed)

    def corrected(self) -> tuple[StoredWord, ...]:
        """The words with the corrections that are in force.

        A correction replaces those before it that have a word in common with it. Its text is one
        word, with the number and the segment of its first word, from the start of that to the end
        of its last; nobody knows its probability. Words of another source stay.
        """
        return correct_words(self.words, self.corrections)


def correct_words(
    words: Iterable[StoredWord], corrections: Sequence[Correction]
) -> tuple[StoredWord, ...]:
    """Words with the corrections that are in force of these, as ``StoredTranscript.corrected``."""
    kept = {word.number: word for word in words}
    numbers, stop = sorted(kept), max((one.stop for one in corrections), default=0)
    # Between the words of a source are those of others, which a correction has not in common.
    later: defaultdict[str, bytearray] = defaultdict(lambda: bytearray(stop))
    in_force: list[Correction] = []
    for one in reversed(corrections):
        at = bisect_left(numbers, one.first)
        if at == len(numbers) or numbers[at] >= one.stop:
            continue
        mine = later[kept[numbers[at]].source]
        if 1 not in mine[one.first : one.stop]:
            in_force.append(one)
        mine[one.first : one.stop] = b"\1" * (one.stop - one.first)
    for one in in_force:
        inside = [kept[n] for n in range(one.first, one.stop) if n in kept]
        replaced = [word for word in inside if word.source == inside[0].source]
        for word in replaced:
            del kept[word.number]
        if replaced and one.text.strip():
            first = replaced[0]
            text = first.text[: len(first.text) - len(first.text.lstrip())] + one.text.strip()
            end, layer = replaced[-1].end, "corrected"
            kept[first.number] = replace(
                first, text=text, end=end, probability=None, original=None, layer=layer
            )
    return tuple(kept[number] for number in sorted(kept))


@dataclass(frozen=True, slots=True)
class TranscriptPart:
    """What a reader gets that goes on from a word's number: see ``SessionStore.since``."""

    session: StoredSession
    words: tuple[StoredWord, ...]
    segments: tuple[StoredSegment, ...]


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions a list or a search is about: those for which everything given holds.

    ``since`` and ``before`` are about the start of a session; ``titled``: whether it has a title.
    """

    owners: Owners
    model: str | None = None
    language: str | None = None
    since: datetime | None = None
    before: datetime | None = None
    titled: bool | None = None


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Sessions, the newest first. ``next`` is the cursor of the page after it, None at the end."""

    sessions: tuple[StoredSession, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Snippet:
    """A part of a session in which the words looked for are, at most ``MAX_SNIPPET`` characters.

    ``segment`` is the segment's id, None for the title; ``start`` and ``end`` are its samples.
    ``found``: ranges [from, to) of characters in ``text`` that were looked for. It is plain text:
    whoever puts it into markup escapes it.
    """

    segment: int | None
    start: int
    end: int
    text: str
    found: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A session in which a search has found something, with ``MAX_SNIPPETS`` at most."""

    session: StoredSession
    snippets: tuple[Snippet, ...]


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Hits, the newest session first. ``next`` is the cursor of the page after it.

    A search that looks far for little stops in between: such a page has fewer hits than asked for,
    or none, and a cursor all the same. None means that there is nothing more.
    """

    hits: tuple[SearchHit, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds; ``size`` are the bytes that it takes, ``version`` is its schema's."""

    sessions: int
    words: int
    size: int
    version: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Share:
    """A link by which whoever has its token reads the captions of some sessions of one key.

    Those of key ``owner`` that have ``name`` as their id or their captions name, and are not over
    at ``made_at``. ``digest`` is the SHA-256 (hex) of the token, ``id`` what it is revoked by.
    ``with_session``: it ends soon after such a session is over.
    """

    id: str
    digest: str
    owner: str
    name: str
    made_at: datetime
    expires_at: datetime
    with_session: bool = False


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """The voice of somebody who has agreed to that, remembered for key ``owner``.

    ``sealed`` is their name and their voice, encrypted with a key that the store does not have.
    """

    id: str
    owner: str
    made_at: datetime
    sealed: str


@dataclass(frozen=True, slots=True)
class AddSession:
    """A session has opened."""

    session: StoredSession


@dataclass(frozen=True, slots=True)
class AddWords:
    """Words were committed; they follow one another, and those before them, by their numbers."""

    session: str
    words: tuple[StoredWord, ...]


@dataclass(frozen=True, slots=True)
class CloseSegment:
    """A segment is complete, which has its words already. ``samples``: received by then."""

    session: str
    segment: StoredSegment
    samples: int


@dataclass(frozen=True, slots=True)
class SetSpeakers:
    """Whose words these are, the last that was said of each: its number and the speaker."""

    session: str
    speakers: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class AddName:
    """A speaker is called so, unless people call them something already."""

    session: str
    name: StoredName


@dataclass(frozen=True, slots=True)
class AddTurn:
    """A turn has ended, and its words are there."""

    session: str
    turn: StoredTurn


@dataclass(frozen=True, slots=True)
class AddLanguage:
    """A language has become known."""

    session: str
    language: str


@dataclass(frozen=True, slots=True)
class AddMark:
    """A mark by the server."""

    session: str
    mark: SessionMark


@dataclass(frozen=True, slots=True)
class SetState:
    """The session waits for its client, goes on, or is over, with this ``error`` if there is one.

    ``at`` is when, ``samples`` what was received by then.
    """

    session: str
    state: State
    samples: int
    at: datetime
    error: str | None = None


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """These sessions go on, or wait for their client. Written within ``INTERRUPTED_AFTER``."""

    sessions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddRefinement:
    """The session is over, and to be refined unless that was asked for before."""

    session: str
    refinement: Refinement


@dataclass(frozen=True, slots=True)
class AddResumable:
    """The session can be resumed with the token of this SHA-256 (hex), also on another server.

    ``start`` is what its client opened it with, for a server that goes on with it; ``holder`` is a
    name that this one has for writing of it, which no other has.
    """

    session: str
    token: str
    start: str
    holder: str


@dataclass(frozen=True, slots=True)
class AddSent:
    """Messages for the session's client, the first with this number.

    Those before number ``kept`` are kept no more.
    """

    session: str
    first: int
    texts: tuple[str, ...]
    kept: int = 0


@dataclass(frozen=True, slots=True)
class SetCheckpoint:
    """Where another server would go on with the session, and from which state."""

    session: str
    checkpoint: str


@dataclass(frozen=True, slots=True)
class EndResumable:
    """The session can be resumed no more: what was kept for that is deleted."""

    session: str


@dataclass(frozen=True, slots=True)
class Guarded:
    """Operations of one resumable session by the server that has claimed it as this ``holder``.

    They are written together or, where another one has claimed the session since, not at all.
    ``epoch``: what it is from then on, with another connection at the same server.
    """

    session: str
    holder: str
    operations: tuple[SessionOperation, ...]
    epoch: int = 0


SessionOperation = (
    AddWords
    | CloseSegment
    | SetSpeakers
    | AddName
    | AddTurn
    | AddLanguage
    | AddMark
    | SetState
    | AddRefinement
    | AddSent
    | SetCheckpoint
    | EndResumable
)
Operation = AddSession | AddResumable | KeepAlive | SessionOperation | Guarded


@dataclass(frozen=True, slots=True)
class StoredResumable:
    """What a server needs to know of a resumable session before it claims it.

    ``checkpoint`` is None before the first one, ``ended`` whether it is over. ``updated_at`` is
    when a server last wrote that it goes on or waits. Messages from number ``first`` to before
    ``next`` are kept.
    """

    session: StoredSession
    epoch: int
    start: str
    checkpoint: str | None
    ended: bool
    updated_at: datetime
    first: int
    next: int


@dataclass(frozen=True, slots=True)
class ClaimedSession:
    """A session that this server has claimed: its state, its transcript, and what was sent."""

    resumable: StoredResumable
    transcript: StoredTranscript
    sent: tuple[str, ...]


class ResumableStore(ABC):
    """Where live sessions outlive their server: another one on the same store goes on with them.

    One server holds a session at a time. ``claim`` passes it to another one and raises its epoch;
    what the server before writes of it after that is refused, by ``Guarded``, so that one that only
    seemed dead cannot go on. Every method blocks, may be called in any thread, raises StoreError.
    """

    @abstractmethod
    def resumable(self, token: str) -> StoredResumable | None:
        """The session with the token of this SHA-256; None where there is none."""

    @abstractmethod
    def resumable_named(self, name: str) -> StoredResumable | None:
        """The newest that is not over, of this id or captions name; None where there is none."""

    @abstractmethod
    def claim(self, session: str, epoch: int, holder: str) -> ClaimedSession | None:
        """Hold a session from now on, which had this epoch, with the next epoch.

        None where it has another epoch or is gone.
        """


class ProfileStore(ABC):
    """Voice profiles. Every method blocks, may be called in any thread, raises StoreError."""

    @abstractmethod
    def keep_profile(self, profile: StoredProfile) -> None:
        """Keep it, in place of the one of its id."""

    @abstractmethod
    def profiles(self, owners: Owners) -> tuple[StoredProfile, ...]:
        """All of them, the oldest first."""

    @abstractmethod
    def delete_profile(self, profile: str, owners: Owners) -> bool:
        """Delete one by its id, as ``SessionStore.delete``; whether there was one."""


class SessionStore(ResumableStore, ProfileStore):
    """Every method blocks, may be called in any thread, and raises StoreError.

    A caller on an event loop calls it in a thread. A cursor is good for the store and the filter
    that it is from; others raise RequestRefused ``bad_parameter``.
    """

    location: str
    """Where the store is, for people: a path, or a URL without its password."""
    audio: AudioFolder
    """The audio of its sessions, which is deleted with them."""

    @abstractmethod
    def apply(self, operations: Sequence[Operation]) -> frozenset[Guarded]:
        """Write all of them, in order, or none.

        An operation that was applied before changes nothing, so that what failed with an unknown
        outcome may be tried again. One of a session that is not there is dropped: it was deleted.
        Returns those that were refused, since another server has claimed their sessions.
        """

    @abstractmethod
    def expire(self, before: datetime) -> int:
        """End the resumable sessions that no server has written of since; returns how many."""

    @abstractmethod
    def session(self, session: str, owners: Owners) -> StoredSession:
        """One session by its id. Raises UnknownSession."""

    @abstractmethod
    def transcript(self, session: str, owners: Owners) -> StoredTranscript:
        """One session whole. Raises UnknownSession."""

    @abstractmethod
    def since(self, session: str, owners: Owners, number: int, limit: int = 1000) -> TranscriptPart:
        """Words from this number on, at most ``limit``, and the segments that close among them.

        Also a segment that ends right before ``number``: its close may not have been read. Raises
        UnknownSession.
        """

    @abstractmethod
    def sessions(
        self, chosen: SessionFilter, limit: int = 50, cursor: str | None = None
    ) -> SessionPage:
        """A page of sessions, the newest first."""

    @abstractmethod
    def search(
        self, text: str, chosen: SessionFilter, limit: int = 50, cursor: str | None = None
    ) -> SearchPage:
        """Sessions that have all words of ``text`` in one segment or in the title.

        "In quotes" they must follow each other. Case, and accents on Latin, Greek and Cyrillic
        letters, make no difference. In scripts without spaces, and in Korean, any part of the text
        is found. Words of corrections are found, and those that they stand for. Closed segments
        are searched. Raises RequestRefused ``bad_parameter`` for a text without a word.
        """

    @abstractmethod
    def patch(
        self,
        session: str,
        owners: Owners,
        *,
        title: str | None = None,
        corrections: Sequence[Correction] = (),
        marks: Sequence[SessionMark] = (),
        unmarked: Sequence[int] = (),
        names: Sequence[StoredName] = (),
    ) -> StoredSession:
        """Set the title (None: as it is; "": none) and ``names``, and add corrections and marks.

        A mark with an ``id`` replaces time, kind and text of that one; ``unmarked`` are ids of
        those to delete. The server's own cannot be changed.

        Raises UnknownSession, and RequestRefused ``invalid_value`` for a title or a text that is
        too long, for words that are not there and for more corrections than a session may have;
        then nothing is changed.
        """

    @abstractmethod
    def refine(self, session: str, owners: Owners, wanted: Refinement) -> Refinement:
        """Queue a session that is over for being refined; returns what is in force.

        That is the one before, unchanged, if it is by the same model and has not failed. Raises
        UnknownSession, and RequestRefused ``still_running`` for a session that is not over and
        ``refining`` for one that another model refines now.
        """

    @abstractmethod
    def claim_refinement(
        self, *, automatic: bool, only: str | None = None
    ) -> tuple[str, Refinement] | None:
        """The next session to refine, by its id, which is then ``running``; None for none.

        ``automatic``: also of those that nobody has asked for. ``only``: if it is this one. One
        whose server has died is queued again, and after ``MAX_ATTEMPTS`` ``failed`` with
        ``interrupted``.
        """

    @abstractmethod
    def renew_refinement(self, session: str) -> bool:
        """It still runs; whether it is still wanted. Within ``REFINEMENT_STALE_AFTER``."""

    @abstractmethod
    def end_refinement(
        self, session: str, outcome: Sequence[StoredWord] | VoxliveError | None
    ) -> None:
        """It is done, with these words, or has failed; None: it is queued again.

        Nothing happens if the session is deleted.
        """

    @abstractmethod
    def add_share(self, share: Share) -> None:
        """Keep a link; those that have expired before it was made are deleted."""

    @abstractmethod
    def share(self, digest: str) -> Share | None:
        """The link with the token of this SHA-256; None for none, and for one that was revoked."""

    @abstractmethod
    def shares(self, owner: str) -> tuple[Share, ...]:
        """The links of a key, the oldest first; some may have expired."""

    @abstractmethod
    def change_share(self, share: Share) -> bool:
        """Have a link expire as this one does; whether it is there."""

    @abstractmethod
    def revoke_share(self, ident: str, owner: str) -> bool:
        """Delete a link of a key; whether there was one."""

    @abstractmethod
    def end_shares(self, owner: str, names: Collection[str], at: datetime) -> None:
        """Have links of these names that end with their sessions expire then, if not before."""

    @abstractmethod
    def shared_session(self, share: Share) -> StoredSession | None:
        """The newest session that a link is for; None while there is none."""

    @abstractmethod
    def delete(self, session: str, owners: Owners) -> None:
        """Delete a session with everything. Raises UnknownSession.

        It blocks until its words are in no file of the store; a backend whose database cannot
        promise that says so in the documentation. A session that still runs is written no more.
        """

    @abstractmethod
    def sweep(self, before: datetime) -> int:
        """Delete, likewise, the sessions that ended before this moment; returns how many.

        One that is not over but was last written to a day before it counts as ended.
        """

    @abstractmethod
    def stats(self) -> StoreStats:
        """What the store holds."""

    @abstractmethod
    def close(self) -> None:
        """Free everything. May be called twice."""
