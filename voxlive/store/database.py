"""What stores in a database have in common: reading, writing and deleting, in SQLAlchemy Core.

``DatabaseStore`` leaves to its subclasses what differs between databases: connections, the search
index, errors, and how what was deleted is wiped.
"""

from __future__ import annotations

import sqlite3
from abc import abstractmethod
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import sqlalchemy as sa

from voxlive.errors import RequestRefused, VoxliveError
from voxlive.store import profiles, resumable, schema, shares
from voxlive.store.audio import AudioFolder
from voxlive.store.contract import (
    MAX_ATTEMPTS,
    MAX_MARKS,
    MAX_PAGE,
    MAX_SNIPPETS,
    REFINEMENT_STALE_AFTER,
    AddLanguage,
    AddMark,
    AddName,
    AddRefinement,
    AddResumable,
    AddSession,
    AddTurn,
    AddWords,
    ClaimedSession,
    CloseSegment,
    Correction,
    Guarded,
    KeepAlive,
    Operation,
    Owners,
    Refinement,
    SearchHit,
    SearchPage,
    SessionFilter,
    SessionMark,
    SessionPage,
    SessionStore,
    SetSpeakers,
    SetState,
    Share,
    StoreBusy,
    StoredName,
    StoredProfile,
    StoredResumable,
    StoredSegment,
    StoredSession,
    StoredTranscript,
    StoredWord,
    StoreError,
    StoreStats,
    StoreUnusable,
    TranscriptPart,
)
from voxlive.store.schema import (
    clean,
    corrections,
    marks,
    micros,
    moment,
    refined,
    refinements,
    segments,
    sessions,
    words,
)
from voxlive.store.search import (
    ONE_SEGMENT,
    SearchQuery,
    indexed,
    make_snippets,
    owner_token,
    scan,
)

_SWEPT_AT_ONCE = 100
_ABANDONED = timedelta(days=1)
_ONE_BY_ONE = AddLanguage | AddMark | AddName | AddRefinement | AddTurn | SetState


class DatabaseStore(SessionStore):
    """What SQLite and PostgreSQL have in common; see ``SessionStore``."""

    def __init__(
        self, location: str, reader: sa.Engine, writer: sa.Engine, audio: AudioFolder
    ) -> None:
        self.location = location
        self.audio = audio
        self._reader = reader
        self._writer = writer
        with self._typed(), self._writer.connect() as connection, connection.begin():
            self._lock_schema(connection)
            version = schema.version_of(connection)
            if version > len(schema.STEPS):
                raise StoreUnusable(
                    f"{location} is of version {version}, and this program knows up to "
                    f"{len(schema.STEPS)}: use a newer one"
                )
            if version < len(schema.STEPS):
                if version:
                    self._copy(version)
                schema.migrate(connection, version)

    # What differs.

    @abstractmethod
    def _lock_schema(self, connection: sa.Connection) -> None:
        """Wait until no other program migrates."""

    @abstractmethod
    def _copy(self, version: int) -> None:
        """Keep a copy of the store as it is."""

    @abstractmethod
    def _index(self, connection: sa.Connection, texts: Mapping[int, list[str]]) -> None:
        """Have texts found by these tokens, and by none that they had before."""

    @abstractmethod
    def _unindex(self, connection: sa.Connection, first: int, stop: int) -> None:
        """Have the texts from number ``first`` to before ``stop`` found no more."""

    @abstractmethod
    def _matching(
        self, connection: sa.Connection, query: SearchQuery, owners: Owners, below: int
    ) -> list[int]:
        """Numbers of texts below this one, the highest first, at most ``SCAN``."""

    @abstractmethod
    def _error_of(self, error: BaseException) -> StoreError:
        """The error of the database's library as one of the contract."""

    @abstractmethod
    def _wipe(self) -> None:
        """Leave nothing of what was deleted."""

    @abstractmethod
    def _size(self, connection: sa.Connection) -> int:
        """Bytes on the disk."""

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.TimeoutError as error:
            raise StoreBusy("all connections to the database are taken") from error
        except sa.exc.DBAPIError as error:
            raise self._error_of(error.orig or error) from error
        except (sqlite3.Error, OSError) as error:
            raise self._error_of(error) from error

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._typed(), self._reader.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._typed(), self._writer.connect() as connection, connection.begin():
            yield connection

    # Writing.

    def apply(self, operations: Sequence[Operation]) -> frozenset[Guarded]:
        """See ``SessionStore``: sessions first, then words, then segments, then the rest in order.

        A statement for all of a kind: with one for each operation most time would be SQLAlchemy's.
        """
        now = micros(datetime.now(UTC))
        with self._writing() as connection:
            if added := [one for one in operations if isinstance(one, AddSession)]:
                rows = [schema.session_row(one.session, now) for one in added]
                connection.execute(schema.ADD_SESSION, rows)
            if resuming := [one for one in operations if isinstance(one, AddResumable)]:
                resumable.add(connection, resuming)
            operations, refused = resumable.admitted(connection, operations)
            by_kind: defaultdict[type[Operation], list[Any]] = defaultdict(list)
            for one in operations:
                if not isinstance(one, AddSession | AddResumable):
                    by_kind[type(one)].append(one)
            if alive := by_kind.pop(KeepAlive, None):
                connection.execute(schema.ALIVE, {"ids": alive[-1].sessions, "now": now})
            known = self._known(connection, {one.session for one in chain(*by_kind.values())})
            resumable.write(connection, {one: row.key for one, row in known.items()}, by_kind)
            spoken = by_kind.pop(AddWords, [])
            spoken = [one for one in spoken if one.words and one.session in known]
            if spoken:
                self._add_words(connection, known, spoken, now)
            if labels := [
                {"session": known[one.session].key, "number": number, "speaker": speaker}
                for one in by_kind.pop(SetSpeakers, ())
                if one.session in known
                for number, speaker in one.speakers
            ]:
                connection.execute(schema.SET_SPEAKER, labels)
            closed = [one for one in by_kind.pop(CloseSegment, ()) if one.session in known]
            if closed:
                self._close_segments(connection, known, closed, now)
            for one in operations if by_kind else ():
                if isinstance(one, _ONE_BY_ONE) and one.session in known:
                    self._apply(connection, known[one.session].key, one, now)
        return refused

    def resumable(self, token: str) -> StoredResumable | None:
        """See ``ResumableStore``."""
        with self._reading() as connection:
            return resumable.find(connection, schema.resumables.c.token == token)

    def resumable_named(self, name: str) -> StoredResumable | None:
        """See ``ResumableStore``."""
        with self._reading() as connection:
            key = resumable.named(connection, name)
            return resumable.find(connection, schema.resumables.c.session == key)

    def claim(self, session: str, epoch: int, holder: str) -> ClaimedSession | None:
        """See ``ResumableStore``."""
        with self._writing() as connection:
            key = resumable.claim(connection, session, epoch, holder)
            if key is None:
                return None
            found = resumable.find(connection, schema.resumables.c.session == key)
            assert found, "it was claimed"
            transcript = self._transcript(connection, schema.find(connection, session, None))
            return ClaimedSession(found, transcript, resumable.sent_texts(connection, key))

    def expire(self, before: datetime) -> int:
        """See ``ResumableStore``."""
        with self._writing() as connection:
            return resumable.expire(connection, micros(before))

    def _known(self, connection: sa.Connection, ids: set[str]) -> dict[str, sa.Row[Any]]:
        """The sessions of these that are there; they stay until the transaction ends."""
        if not ids:
            return {}
        return {row.id: row for row in connection.execute(schema.HELD, {"ids": list(ids)})}

    def _add_words(
        self,
        connection: sa.Connection,
        known: Mapping[str, sa.Row[Any]],
        added: Sequence[AddWords],
        now: int,
    ) -> None:
        rows: list[dict[str, object]] = []
        counts: dict[int, int] = {}
        for one in added:
            key = known[one.session].key
            rows += (schema.word_row(key, word) for word in one.words)
            counts[key] = one.words[-1].number + 1
        connection.execute(schema.ADD_WORD, rows)
        updates = [{"of": key, "count": count, "now": now} for key, count in counts.items()]
        connection.execute(schema.COUNT, updates)

    def _close_segments(
        self,
        connection: sa.Connection,
        known: Mapping[str, sa.Row[Any]],
        closed: Sequence[CloseSegment],
        now: int,
    ) -> None:
        ended = [(known[one.session], one.segment) for one in closed]
        rows = [schema.segment_row(row.key, segment) for row, segment in ended]
        connection.execute(schema.ADD_SEGMENT, rows)
        self._index_segments(connection, ended)
        samples = {known[one.session].key: one.samples for one in closed}
        updates = [{"of": key, "received": n, "now": now} for key, n in samples.items()]
        connection.execute(schema.PROGRESS, updates)

    def _apply(self, connection: sa.Connection, key: int, one: Operation, now: int) -> None:
        match one:
            case AddLanguage(_, language):
                token = f"{language} "
                there = sessions.c.languages
                more = sa.case((there.contains(f" {token}"), there), else_=there + token)
                schema.update(connection, key, languages=more, updated_at=now)
            case AddRefinement(_, made):
                row = schema.refinement_row(key, made, now)
                connection.execute(schema.ADD_REFINEMENT, [row])
            case AddName(_, name):
                connection.execute(schema.ADD_NAME, schema.name_row(key, name))
            case AddTurn(_, turn):
                connection.execute(schema.ADD_TURN, [schema.turn_row(key, turn)])
            case AddMark(_, mark):
                connection.execute(schema.ADD_MARK, [schema.mark_row(key, mark)])
            case SetState(_, state, samples, at, error):
                ended = micros(at) if state == "ended" else None
                changed = {"state": state, "samples": samples, "ended_at": ended, "error": error}
                schema.update(connection, key, **changed, updated_at=now)

    def _index_segments(
        self,
        connection: sa.Connection,
        ended: Sequence[tuple[sa.Row[Any], StoredSegment]],
        *,
        refined: bool = False,
    ) -> None:
        """Have segments found by their words and by the corrections that begin in them.

        Segments that have just closed have no ``refined`` words.
        """
        pairs = [(row.key, segment.id) for row, segment in ended]
        spoken = schema.segment_words(connection, pairs)
        changed = schema.corrections_of(connection, [key for key, _ in pairs])
        again: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
        for key in {key for key, _ in pairs} if refined else ():
            for word in schema.refined_words(connection, [key])[key]:
                again[key, word.segment].append(word.text)
        texts = []
        for row, segment in ended:
            said = "".join(word.text for word in spoken[row.key, segment.id])
            beside = (
                one.text for one in changed[row.key] if segment.first <= one.first < segment.stop
            )
            later = "".join(again[row.key, segment.id])
            texts.append((row, segment.id, "\n".join((said, *beside, later))))
        self._index_texts(connection, texts)

    def _index_texts(
        self, connection: sa.Connection, texts: Iterable[tuple[sa.Row[Any], int, str]]
    ) -> None:
        """Have texts found by their words: a session, a segment of it or its title, a text."""
        found: dict[int, list[str]] = {}
        for row, segment, text in texts:
            tokens = indexed(text)
            tokens = [owner_token(row.owner), *tokens] if tokens else []
            found[row.key * ONE_SEGMENT + segment] = tokens
        self._index(connection, found)

    # Reading.

    def session(self, session: str, owners: Owners) -> StoredSession:
        """See ``SessionStore``."""
        with self._reading() as connection:
            return self._session_of(schema.find(connection, session, owners))

    def _session_of(self, row: sa.Row[Any], preview: str = "") -> StoredSession:
        return schema.session_of(row, preview, audio=self.audio.find(row.id) is not None)

    def transcript(self, session: str, owners: Owners) -> StoredTranscript:
        """See ``SessionStore``."""
        with self._reading() as connection:
            return self._transcript(connection, schema.find(connection, session, owners))

    def _transcript(self, connection: sa.Connection, row: sa.Row[Any]) -> StoredTranscript:
        said = sa.select(words).where(words.c.session == row.key).order_by(words.c.number)
        closed = sa.select(segments).where(segments.c.session == row.key).order_by(segments.c.id)
        noted = sa.select(marks).where(marks.c.session == row.key)
        noted = noted.order_by(marks.c.at, marks.c.key)
        later = schema.refinements_of(connection, [row.key]).get(row.key)
        again = schema.refined_words(connection, [row.key] if later and later.layer else [])
        live = tuple(map(schema.word_of, connection.execute(said)))
        sources = {word.segment: word.source for word in live if word.source}
        if sources:
            again[row.key] = [
                replace(word, source=sources.get(word.segment, "")) for word in again[row.key]
            ]
        return StoredTranscript(
            self._session_of(row),
            tuple(map(schema.segment_of, connection.execute(closed))),
            live,
            tuple(schema.corrections_of(connection, [row.key])[row.key]),
            tuple(map(schema.mark_of, connection.execute(noted))),
            tuple(sorted(again[row.key], key=lambda word: word.number)),
            later,
            schema.turns_of(connection, row.key),
            schema.names_of(connection, row.key),
        )

    def since(self, session: str, owners: Owners, number: int, limit: int = 1000) -> TranscriptPart:
        """See ``SessionStore``."""
        with self._reading() as connection:
            row = schema.find(connection, session, owners)
            said = sa.select(words).where(words.c.session == row.key, words.c.number >= number)
            found = tuple(
                map(schema.word_of, connection.execute(said.order_by(words.c.number).limit(limit)))
            )
            stop = found[-1].number + 1 if found else number
            closed = sa.select(segments).where(
                segments.c.session == row.key, segments.c.stop.between(number, stop)
            )
            ended = connection.execute(closed.order_by(segments.c.id))
            return TranscriptPart(
                self._session_of(row), found, tuple(map(schema.segment_of, ended))
            )

    def sessions(
        self, chosen: SessionFilter, limit: int = 50, cursor: str | None = None
    ) -> SessionPage:
        """See ``SessionStore``."""
        limit = max(1, min(limit, MAX_PAGE))
        below = sessions.c.key < _key_of(cursor) if cursor else sa.true()
        query = sa.select(sessions).where(below, *schema.conditions(chosen))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(sessions.c.key.desc()).limit(limit + 1)).all()
            more = str(rows[limit - 1].key) if len(rows) > limit else None
            previews = schema.previews(connection, [row.key for row in rows[:limit]])
        return SessionPage(
            tuple(self._session_of(row, previews[row.key]) for row in rows[:limit]), more
        )

    def search(
        self, text: str, chosen: SessionFilter, limit: int = 50, cursor: str | None = None
    ) -> SearchPage:
        """See ``SessionStore``. At most 20,000 segments are looked at for one page."""
        query = SearchQuery.parse(text)
        limit = max(1, min(limit, MAX_PAGE))
        below = (_key_of(cursor) if cursor else 1 << 42) * ONE_SEGMENT
        if chosen.owners is not None and not chosen.owners:
            return SearchPage((), None)
        with self._reading() as connection:

            def matching(number: int) -> list[int]:
                return self._matching(connection, query, chosen.owners, number)

            found = scan(connection, matching, chosen, limit, below)
            places = {key: listed[:MAX_SNIPPETS] for key, listed in found.places.items()}
            snippets = make_snippets(connection, query, found.rows, places)
            previews = schema.previews(connection, list(places))
        hits = (
            SearchHit(self._session_of(found.rows[key], previews[key]), tuple(snippets[key]))
            for key in places
        )
        return SearchPage(tuple(hits), found.more)

    def stats(self) -> StoreStats:
        """See ``SessionStore``."""
        chosen = sa.select(
            sa.func.count(), sa.func.sum(sessions.c.words), sa.func.min(sessions.c.started_at)
        )
        with self._reading() as connection:
            count, total, oldest = connection.execute(chosen.select_from(sessions)).one()
            size = self._size(connection)
            version = schema.version_of(connection)
        first = None if oldest is None else moment(oldest)
        return StoreStats(count, int(total or 0), size, version, first)

    # Changing.

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
        """See ``SessionStore``."""
        schema.check_change(title, corrections, marks)
        with self._writing() as connection:
            row = schema.find(connection, session, owners)
            if title is not None:
                title = clean(title.strip())
                schema.update(connection, row.key, title=title or None)
                self._index_texts(connection, [(row, schema.TITLE, title)])
            if corrections:
                self._correct(connection, row, corrections)
            if marks or unmarked:
                self._mark(connection, row.key, marks, unmarked)
            schema.set_names(connection, row.key, names)
            return self._session_of(schema.find(connection, session, owners))

    def _correct(
        self, connection: sa.Connection, row: sa.Row[Any], made: Sequence[Correction]
    ) -> None:
        """Add corrections; each segment is indexed once, since everything that is written waits."""
        schema.check_room(connection, row.key, made)
        first, stop = min(one.first for one in made), max(one.stop for one in made)
        chosen = sa.select(words.c.number).where(
            words.c.session == row.key, words.c.number.between(first, stop - 1)
        )
        numbers = connection.scalars(chosen.order_by(words.c.number)).all()
        for one in made:
            there = bisect_left(numbers, one.stop) - bisect_left(numbers, one.first)
            if one.stop <= one.first or there != one.stop - one.first:
                message = f"the session has no words from {one.first} to before {one.stop}"
                raise RequestRefused("invalid_value", message, "corrections")
        rows = [schema.correction_row(row.key, one) for one in made]
        connection.execute(corrections.insert(), rows)
        firsts = sorted(one.first for one in made)
        inside = sa.select(segments).where(
            segments.c.session == row.key,
            segments.c.first <= firsts[-1],
            segments.c.stop > firsts[0],
        )
        found = [
            (row, schema.segment_of(one))
            for one in connection.execute(inside)
            if bisect_left(firsts, one.first) < bisect_left(firsts, one.stop)
        ]
        if found:
            self._index_segments(connection, found, refined=True)

    def _mark(
        self,
        connection: sa.Connection,
        key: int,
        made: Sequence[SessionMark],
        unmarked: Sequence[int],
    ) -> None:
        """Add, change and delete marks."""
        chosen = sa.select(marks.c.key, marks.c.who).where(marks.c.session == key)
        there = {row.key: row.who for row in connection.execute(chosen)}
        for ident in (*unmarked, *(one.id for one in made if one.id is not None)):
            if not there.get(ident):
                message = f"the session has no mark {ident} that can be changed"
                raise RequestRefused("invalid_value", message, "marks")
        if len(there) + sum(one.id is None for one in made) > MAX_MARKS:
            message = f"a session may have {MAX_MARKS} marks"
            raise RequestRefused("invalid_value", message, "marks")
        connection.execute(marks.delete().where(marks.c.key.in_(unmarked)))
        for one in made:
            row = schema.mark_row(key, one)
            if one.id is None:
                connection.execute(schema.ADD_MARK, [row])
            else:
                changed = {name: row[name] for name in ("at", "kind", "text")}
                connection.execute(marks.update().where(marks.c.key == one.id).values(changed))

    # Refining.

    def refine(self, session: str, owners: Owners, wanted: Refinement) -> Refinement:
        """See ``SessionStore``."""
        now = micros(datetime.now(UTC))
        with self._writing() as connection:
            row = schema.find(connection, session, owners)
            if schema.session_of(row).state != "ended":
                message = "the session is not over: it can be refined when it is"
                raise RequestRefused("still_running", message)
            before = schema.refinements_of(connection, [row.key]).get(row.key)
            if before and before.state != "failed":
                if before.model == wanted.model:
                    return before
                if before.state == "running":
                    message = f"the session is being refined by {before.model}"
                    raise RequestRefused("refining", message, retry_after_s=30)
            made = replace(wanted, layer=before.layer if before else None)
            connection.execute(refinements.delete().where(refinements.c.session == row.key))
            connection.execute(refinements.insert(), schema.refinement_row(row.key, made, now))
        return made

    def claim_refinement(
        self, *, automatic: bool, only: str | None = None
    ) -> tuple[str, Refinement] | None:
        """See ``SessionStore``."""
        now = micros(datetime.now(UTC))
        column = refinements.c
        stale = now - REFINEMENT_STALE_AFTER // timedelta(microseconds=1)
        left = sa.and_(column.state == "running", column.updated_at < stale)
        asked = sa.true() if automatic else column.who != ""
        if only is not None:
            asked = sa.and_(asked, column.session == _key_with(only))
        chosen = sa.select(refinements).where(sa.or_(column.state == "queued", left), asked)
        chosen = chosen.order_by(column.who == "", column.requested_at, column.session).limit(1)
        message = "the server ended in the middle of it, again and again"
        failed = {"state": "failed", "error": "interrupted", "message": message}
        with self._reading() as connection:  # mostly there is none, and nobody has to wait
            if connection.execute(chosen).one_or_none() is None:
                return None
        with self._writing() as connection:
            given_up = sa.and_(left, column.attempts >= MAX_ATTEMPTS)
            connection.execute(refinements.update().where(given_up).values(failed))
            row = connection.execute(chosen.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            attempts = row.attempts + 1
            begun = {"state": "running", "attempts": attempts, "updated_at": now}
            mine = column.session == row.session
            connection.execute(refinements.update().where(mine).values(begun))
            ident = sa.select(sessions.c.id).where(sessions.c.key == row.session)
            made = replace(schema.refinement_of(row), state="running", attempts=attempts)
            return connection.scalars(ident).one(), made

    def renew_refinement(self, session: str) -> bool:
        """See ``SessionStore``."""
        now = micros(datetime.now(UTC))
        with self._writing() as connection:
            renewed = refinements.update().where(_running(session)).values(updated_at=now)
            return connection.execute(renewed).rowcount > 0

    def end_refinement(
        self, session: str, outcome: Sequence[StoredWord] | VoxliveError | None
    ) -> None:
        """See ``SessionStore``."""
        changed: dict[str, object] = {"updated_at": micros(datetime.now(UTC)), "error": None}
        held = sa.select(sessions).where(sessions.c.id == session)
        with self._writing() as connection:
            row = connection.execute(held.with_for_update(read=True, key_share=True)).one_or_none()
            if row is None:
                return
            if outcome is None:
                changed |= {"state": "queued"}
            elif isinstance(outcome, VoxliveError):
                changed |= {"state": "failed", "error": outcome.code, "message": outcome.message}
            else:
                self._replace_refined(connection, row, outcome)
                changed |= {"state": "done", "layer": refinements.c.model, "message": ""}
            connection.execute(refinements.update().where(_running(session)).values(changed))

    def _replace_refined(
        self, connection: sa.Connection, row: sa.Row[Any], spoken: Sequence[StoredWord]
    ) -> None:
        connection.execute(refined.delete().where(refined.c.session == row.key))
        if spoken:
            rows = [schema.refined_row(row.key, word) for word in spoken]
            connection.execute(refined.insert(), rows)
        closed = connection.execute(sa.select(segments).where(segments.c.session == row.key)).all()
        if closed:
            found = [(row, schema.segment_of(one)) for one in closed]
            self._index_segments(connection, found, refined=True)

    # Links.

    def add_share(self, share: Share) -> None:
        """See ``SessionStore``."""
        with self._writing() as connection:
            shares.add(connection, share)

    def share(self, digest: str) -> Share | None:
        """See ``SessionStore``."""
        with self._reading() as connection:
            return shares.of_token(connection, digest)

    def shares(self, owner: str) -> tuple[Share, ...]:
        """See ``SessionStore``."""
        with self._reading() as connection:
            return shares.of_owner(connection, owner)

    def change_share(self, share: Share) -> bool:
        """See ``SessionStore``."""
        with self._writing() as connection:
            return shares.change(connection, share)

    def revoke_share(self, ident: str, owner: str) -> bool:
        """See ``SessionStore``."""
        with self._writing() as connection:
            return shares.revoke(connection, ident, owner)

    def end_shares(self, owner: str, names: Collection[str], at: datetime) -> None:
        """See ``SessionStore``."""
        with self._writing() as connection:
            shares.end(connection, owner, names, at)

    def shared_session(self, share: Share) -> StoredSession | None:
        """See ``SessionStore``."""
        with self._reading() as connection:
            return shares.session_of(connection, share)

    def keep_profile(self, profile: StoredProfile) -> None:
        """See ``ProfileStore``."""
        with self._writing() as connection:
            profiles.keep(connection, profile)

    def profiles(self, owners: Owners) -> tuple[StoredProfile, ...]:
        """See ``ProfileStore``."""
        with self._reading() as connection:
            return profiles.of_owners(connection, owners)

    # Deleting.

    def delete_profile(self, profile: str, owners: Owners) -> bool:
        """See ``ProfileStore``."""
        with self._writing() as connection:
            found = profiles.delete(connection, profile, owners)
        with self._typed():
            self._wipe()
        return found

    def delete(self, session: str, owners: Owners) -> None:
        """See ``SessionStore``."""
        with self._writing() as connection:
            row = schema.find(connection, session, owners)
            # First: a crash in between leaves a session without audio, not audio without one.
            self.audio.delete([session])
            self._delete(connection, [row.key])
        with self._typed():
            self._wipe()

    def sweep(self, before: datetime) -> int:
        """See ``SessionStore``."""
        ended = sa.func.coalesce(sessions.c.ended_at, sessions.c.updated_at)
        abandoned = sessions.c.updated_at < micros(before - _ABANDONED)
        over = sa.or_(sessions.c.state == "ended", abandoned)
        expired = sa.select(sessions.c.key, sessions.c.id).where(ended < micros(before), over)
        swept = 0
        while True:
            with self._writing() as connection:
                rows = connection.execute(expired.limit(_SWEPT_AT_ONCE)).all()
                self.audio.delete(row.id for row in rows)
                self._delete(connection, [row.key for row in rows])
            swept += len(rows)
            if len(rows) < _SWEPT_AT_ONCE:
                break
        with self._typed():
            self.audio.sweep(self._there)
        if swept:
            with self._typed():
                self._wipe()
        return swept

    def _there(self, ids: list[str]) -> set[str]:
        with self._reading() as connection:
            return set(connection.scalars(sa.select(sessions.c.id).where(sessions.c.id.in_(ids))))

    def _delete(self, connection: sa.Connection, keys: Sequence[int]) -> None:
        for key in keys:
            self._unindex(connection, key * ONE_SEGMENT, (key + 1) * ONE_SEGMENT)
        connection.execute(sessions.delete().where(sessions.c.key.in_(keys)))

    def close(self) -> None:
        """See ``SessionStore``."""
        self.audio.close()
        self._reader.dispose()
        self._writer.dispose()


def _running(session: str) -> sa.ColumnElement[bool]:
    mine = refinements.c.session == _key_with(session)
    return sa.and_(mine, refinements.c.state == "running")


def _key_with(session: str) -> sa.ScalarSelect[int]:
    """The key of the session of an id."""
    return sa.select(sessions.c.key).where(sessions.c.id == session).scalar_subquery()


def _key_of(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 13):
        raise RequestRefused("bad_parameter", "this cursor is of no page here", "cursor")
    return int(cursor)
