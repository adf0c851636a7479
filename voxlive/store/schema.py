"""The tables of a store, and their rows as values.

``STEPS`` make a store of one version into the next; the first makes an empty database a store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from voxlive.errors import RequestRefused
from voxlive.store.contract import (
    INTERRUPTED_AFTER,
    MAX_CORRECTED,
    MAX_CORRECTION,
    MAX_CORRECTIONS,
    MAX_TITLE,
    REFINEMENT_STALE_AFTER,
    Correction,
    Owners,
    Refinement,
    SessionFilter,
    SessionMark,
    StoredName,
    StoredSegment,
    StoredSession,
    StoredTurn,
    StoredWord,
    UnknownSession,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PREVIEW_WORDS = 20

metadata = sa.MetaData()
_key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _session(**more: Any) -> sa.Column[int]:
    """The column that says of which session a row is; it goes with the session."""
    return sa.Column("session", _key, sa.ForeignKey("sessions.key", ondelete="CASCADE"), **more)


store = sa.Table("store", metadata, sa.Column("version", sa.Integer, nullable=False))

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("key", _key, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("owner", sa.Text, nullable=False),
    # Microseconds since the epoch, as every moment here.
    sa.Column("started_at", sa.BigInteger, nullable=False, index=True),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("protocol", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("languages", sa.Text, nullable=False),  # with a space before and after each
    sa.Column("name", sa.Text),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("title", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("samples", sa.BigInteger, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("words", sa.Integer, nullable=False),
    sa.Index("sessions_by_owner", "owner", "key"),
    sqlite_autoincrement=True,
)

words = sa.Table(
    "words",
    metadata,
    _session(primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("segment", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("end", sa.BigInteger, nullable=False),
    sa.Column("probability", sa.Double),
    sa.Column("original", sa.Text),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("speaker", sa.Integer),
    sqlite_with_rowid=False,
)

turns = sa.Table(
    "turns",
    metadata,
    _session(primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("end", sa.BigInteger, nullable=False),
    sa.Column("first", sa.Integer, nullable=False),
    sa.Column("stop", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)

segments = sa.Table(
    "segments",
    metadata,
    _session(primary_key=True),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("end", sa.BigInteger, nullable=False),
    sa.Column("first", sa.Integer, nullable=False),
    sa.Column("stop", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)

corrections = sa.Table(
    "corrections",
    metadata,
    sa.Column("key", _key, primary_key=True, autoincrement=True),
    _session(nullable=False, index=True),
    sa.Column("first", sa.Integer, nullable=False),
    sa.Column("stop", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
)

names = sa.Table(
    "names",
    metadata,
    _session(primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("speaker", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

marks = sa.Table(
    "marks",
    metadata,
    sa.Column("key", _key, primary_key=True, autoincrement=True),
    _session(nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("session", "at", "kind", "who", "made_at"),
)

refinements = sa.Table(
    "refinements",
    metadata,
    _session(primary_key=True, autoincrement=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("requested_at", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("error", sa.Text),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("layer", sa.Text),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
)

refined = sa.Table(
    "refined",
    metadata,
    _session(primary_key=True),
    sa.Column("segment", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("end", sa.BigInteger, nullable=False),
    sa.Column("probability", sa.Double),
    sqlite_with_rowid=False,
)

resumables = sa.Table(
    "resumables",
    metadata,
    _session(primary_key=True, autoincrement=False),
    # SHA-256 as hex; none once it can be resumed no more. The holder stays, to refuse late writes.
    sa.Column("token", sa.Text, unique=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("start", sa.Text, nullable=False),
    sa.Column("checkpoint", sa.Text),
)

sent = sa.Table(
    "sent",
    metadata,
    _session(primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("json", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

shares = sa.Table(
    "shares",
    metadata,
    sa.Column("key", _key, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("digest", sa.Text, nullable=False, unique=True),
    sa.Column("owner", sa.Text, nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("with_session", sa.Boolean, nullable=False),
)

profiles = sa.Table(
    "profiles",
    metadata,
    sa.Column("key", _key, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("owner", sa.Text, nullable=False, index=True),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("sealed", sa.Text, nullable=False),
)

SEGMENT_BITS = 20
"""Of a searched text's number: the session's key and, in these bits, the segment's id."""
TITLE = (1 << SEGMENT_BITS) - 1
"""The segment whose text is the title: no segment has this id."""

_SEARCH = {
    # Its tokenizer divides at spaces alone: ``search.indexed`` has cut the text already.
    "sqlite": (
        "CREATE VIRTUAL TABLE search USING fts5(terms, "
        """tokenize = "unicode61 remove_diacritics 0 categories 'L* M* N* P* S* Co'")""",
    ),
    "postgresql": (
        "CREATE TABLE search (number BIGINT PRIMARY KEY, session BIGINT NOT NULL "
        "REFERENCES sessions (key) ON DELETE CASCADE, terms TSVECTOR NOT NULL)",
        "CREATE INDEX search_by_term ON search USING gin (terms)",
        "CREATE INDEX search_by_session ON search (session)",
    ),
}


def _create(connection: sa.Connection) -> None:
    metadata.create_all(connection, [store, sessions, words, segments, corrections, marks])
    for statement in _SEARCH[connection.dialect.name]:
        connection.execute(sa.text(statement))


def _add_second(connection: sa.Connection) -> None:
    metadata.create_all(connection, [refinements, refined, resumables, sent])


def _add_third(connection: sa.Connection) -> None:
    metadata.create_all(connection, [shares])


def _add_fourth(connection: sa.Connection) -> None:
    if not any(
        column["name"] == "speaker" for column in sa.inspect(connection).get_columns("words")
    ):
        connection.execute(sa.text("ALTER TABLE words ADD COLUMN speaker INTEGER"))
    metadata.create_all(connection, [turns])


def _add_fifth(connection: sa.Connection) -> None:
    metadata.create_all(connection, [names])


def _add_sixth(connection: sa.Connection) -> None:
    metadata.create_all(connection, [profiles])


STEPS: tuple[Callable[[sa.Connection], None], ...] = (
    _create,
    _add_second,
    _add_third,
    _add_fourth,
    _add_fifth,
    _add_sixth,
)
"""Step n makes version n into n + 1. A step is never changed once it has been released."""


def version_of(connection: sa.Connection) -> int:
    """The version of the store in this database; 0 for none."""
    if not sa.inspect(connection).has_table("store"):
        return 0
    return int(connection.execute(sa.select(store.c.version)).scalar_one())


def migrate(connection: sa.Connection, version: int) -> None:
    """Take every step from this version on, in the transaction of the connection."""
    for step in STEPS[version:]:
        step(connection)
    connection.execute(store.delete())
    connection.execute(store.insert().values(version=len(STEPS)))


def micros(at: datetime) -> int:
    """A moment as microseconds since the epoch."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def moment(since_epoch: int) -> datetime:
    """Microseconds since the epoch as a moment in UTC."""
    return _EPOCH + timedelta(microseconds=since_epoch)


def clean(text: str) -> str:
    """Without what a database does not take: NUL, and halves of characters."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _clean_or_none(text: str | None) -> str | None:
    return None if text is None else clean(text)


def session_row(session: StoredSession, now: int) -> dict[str, object]:
    """A session that begins, as a row."""
    return {
        "id": session.id,
        "owner": session.owner,
        "started_at": micros(session.started_at),
        "ended_at": None if session.ended_at is None else micros(session.ended_at),
        "updated_at": now,
        "protocol": session.protocol,
        "path": clean(session.path),
        "model": clean(session.model),
        "languages": " ".join(("", *session.languages, "")) if session.languages else " ",
        "name": _clean_or_none(session.name),
        "source": clean(session.source),
        "title": _clean_or_none(session.title),
        "state": session.state,
        "samples": session.samples,
        "error": session.error,
        "words": 0,
    }


def session_of(row: sa.Row[Any], preview: str = "", *, audio: bool = False) -> StoredSession:
    """A row of ``sessions`` as a session."""
    state, error, ended_at = row.state, row.error, row.ended_at
    if state != "ended" and moment(row.updated_at) < datetime.now(UTC) - INTERRUPTED_AFTER:
        state, error, ended_at = "ended", "interrupted", row.updated_at
    return StoredSession(
        row.id,
        row.owner,
        moment(row.started_at),
        row.protocol,
        row.path,
        row.model,
        tuple(row.languages.split()),
        row.name,
        row.source,
        row.title,
        state,
        None if ended_at is None else moment(ended_at),
        row.samples,
        error,
        row.words,
        preview,
        audio,
    )


def word_row(session: int, word: StoredWord) -> dict[str, object]:
    """A word as a row."""
    return {
        "session": session,
        "number": word.number,
        "segment": word.segment,
        "text": clean(word.text),
        "start": word.start,
        "end": word.end,
        "probability": word.probability,
        "original": _clean_or_none(word.original),
        "source": clean(word.source),
        "speaker": word.speaker,
    }


def word_of(row: sa.Row[Any]) -> StoredWord:
    """A row of ``words`` as a word."""
    return StoredWord(
        row.number,
        row.segment,
        row.text,
        row.start,
        row.end,
        row.probability,
        row.original,
        row.source,
        speaker=row.speaker,
    )


def name_row(session: int, name: StoredName) -> dict[str, object]:
    """What a speaker is called, as a row."""
    return {
        "session": session,
        "source": clean(name.source),
        "speaker": name.speaker,
        "name": clean(name.name),
    }


def set_names(connection: sa.Connection, key: int, given: Sequence[StoredName]) -> None:
    """Speakers of a session have these names from now on."""
    for one in given:
        row = name_row(key, one)
        chosen = [names.c[column] == row[column] for column in ("session", "source", "speaker")]
        connection.execute(names.delete().where(*chosen))
        if one.name:
            connection.execute(names.insert(), row)


def names_of(connection: sa.Connection, key: int) -> tuple[StoredName, ...]:
    """The names that people have given to a session's speakers."""
    chosen = sa.select(names).where(names.c.session == key)
    rows = connection.execute(chosen.order_by(names.c.source, names.c.speaker))
    return tuple(StoredName(row.speaker, row.name, row.source) for row in rows)


def turn_row(session: int, turn: StoredTurn) -> dict[str, object]:
    """A turn as a row."""
    return {
        "session": session,
        "source": clean(turn.source),
        "number": turn.number,
        "start": turn.start,
        "end": turn.end,
        "first": turn.first,
        "stop": turn.stop,
    }


def turns_of(connection: sa.Connection, key: int) -> tuple[StoredTurn, ...]:
    """The turns of a session, in order."""
    chosen = sa.select(turns).where(turns.c.session == key)
    rows = connection.execute(chosen.order_by(turns.c.start, turns.c.source, turns.c.number))
    return tuple(
        StoredTurn(row.number, row.start, row.end, row.first, row.stop, row.source) for row in rows
    )


def segment_row(session: int, segment: StoredSegment) -> dict[str, object]:
    """A segment as a row."""
    return {
        "session": session,
        "id": segment.id,
        "start": segment.start,
        "end": segment.end,
        "first": segment.first,
        "stop": segment.stop,
    }


def segment_of(row: sa.Row[Any]) -> StoredSegment:
    """A row of ``segments`` as a segment."""
    return StoredSegment(row.id, row.start, row.end, row.first, row.stop)


def check_change(
    title: str | None, corrections: Sequence[Correction], marks: Sequence[SessionMark]
) -> None:
    """Raise RequestRefused for a title or a text that is too long, whatever the session."""
    if title and len(title) > MAX_TITLE:
        message = f"a title may have {MAX_TITLE} characters"
        raise RequestRefused("invalid_value", message, "title")
    for param, texts in (("corrections", corrections), ("marks", marks)):
        if any(len(one.text) > MAX_CORRECTION for one in texts):
            message = f"a text may have {MAX_CORRECTION} characters"
            raise RequestRefused("invalid_value", message, param)


def check_room(connection: sa.Connection, key: int, made: Sequence[Correction]) -> None:
    """Raise RequestRefused where a session would have too many corrections."""
    kept = sa.select(sa.func.count(), sa.func.sum(sa.func.length(corrections.c.text)))
    count, length = connection.execute(kept.where(corrections.c.session == key)).one()
    length = (length or 0) + sum(len(one.text) for one in made)
    if count + len(made) > MAX_CORRECTIONS or length > MAX_CORRECTED:
        message = f"a session may have {MAX_CORRECTIONS} corrections, of {MAX_CORRECTED} characters"
        raise RequestRefused("invalid_value", message, "corrections")


def correction_row(session: int, made: Correction) -> dict[str, object]:
    """A correction as a row."""
    return {
        "session": session,
        "first": made.first,
        "stop": made.stop,
        "text": clean(made.text),
        "who": clean(made.who),
        "made_at": micros(made.made_at),
    }


def mark_row(session: int, mark: SessionMark) -> dict[str, object]:
    """A mark as a row."""
    return {
        "session": session,
        "at": mark.at,
        "kind": clean(mark.kind),
        "text": clean(mark.text),
        "who": clean(mark.who),
        "made_at": micros(mark.made_at),
    }


def mark_of(row: sa.Row[Any]) -> SessionMark:
    """A row of ``marks`` as a mark."""
    return SessionMark(row.at, row.kind, row.text, row.who, moment(row.made_at), row.key)


def refinement_row(session: int, made: Refinement, now: int) -> dict[str, object]:
    """A refinement as a row."""
    return {
        "session": session,
        "model": clean(made.model),
        "who": clean(made.who),
        "requested_at": micros(made.requested_at),
        "state": made.state,
        "error": made.error,
        "message": clean(made.message),
        "attempts": made.attempts,
        "layer": made.layer,
        "updated_at": now,
    }


def refinement_of(row: sa.Row[Any]) -> Refinement:
    """A row of ``refinements`` as a refinement; one whose server has died waits again."""
    stale = moment(row.updated_at) < datetime.now(UTC) - REFINEMENT_STALE_AFTER
    return Refinement(
        row.model,
        row.who,
        moment(row.requested_at),
        "queued" if row.state == "running" and stale else row.state,
        row.error,
        row.message,
        row.attempts,
        row.layer,
    )


def refined_row(session: int, word: StoredWord) -> dict[str, object]:
    """A word of the refined layer as a row."""
    row = word_row(session, word)
    return {column.name: row[column.name] for column in refined.c}


def refined_words(
    connection: sa.Connection, keys: Sequence[int], *where: sa.ColumnElement[bool]
) -> defaultdict[int, list[StoredWord]]:
    """Words of the refined layer of sessions, by their keys, in order."""
    chosen = sa.select(refined).where(refined.c.session.in_(keys), *where)
    found: defaultdict[int, list[StoredWord]] = defaultdict(list)
    ordered = chosen.order_by(refined.c.session, refined.c.segment, refined.c.number)
    for row in connection.execute(ordered) if keys else ():
        word = StoredWord(
            row.number, row.segment, row.text, row.start, row.end, row.probability, layer="refined"
        )
        found[row.session].append(word)
    return found


def refinements_of(connection: sa.Connection, keys: Sequence[int]) -> dict[int, Refinement]:
    """The refinements of sessions, by their keys."""
    chosen = sa.select(refinements).where(refinements.c.session.in_(keys))
    return {row.session: refinement_of(row) for row in connection.execute(chosen)} if keys else {}


def corrections_of(
    connection: sa.Connection, keys: Sequence[int]
) -> defaultdict[int, list[Correction]]:
    """The corrections of sessions, by their keys, in the order of being made."""
    chosen = sa.select(corrections).where(corrections.c.session.in_(keys))
    found: defaultdict[int, list[Correction]] = defaultdict(list)
    for row in connection.execute(chosen.order_by(corrections.c.key)) if keys else ():
        made = Correction(row.first, row.stop, row.text, row.who, moment(row.made_at))
        found[row.session].append(made)
    return found


def previews(connection: sa.Connection, keys: Sequence[int]) -> defaultdict[int, str]:
    """The first words of sessions, by their keys."""
    chosen = sa.select(words.c.session, words.c.text).where(
        words.c.session.in_(keys), words.c.number < _PREVIEW_WORDS
    )
    found: defaultdict[int, str] = defaultdict(str)
    ordered = chosen.order_by(words.c.session, words.c.number)
    for key, text in connection.execute(ordered).all() if keys else ():
        found[key] += text
    return found


def conditions(chosen: SessionFilter) -> list[sa.ColumnElement[bool]]:
    """What a row of ``sessions`` has to be for a filter."""
    columns, found = sessions.c, list[sa.ColumnElement[bool]]()
    if chosen.owners is not None:
        found.append(columns.owner.in_(sorted(chosen.owners)))
    if chosen.model is not None:
        found.append(columns.model == chosen.model)
    if chosen.language is not None:
        found.append(columns.languages.contains(f" {chosen.language} ", autoescape=True))
    if chosen.since is not None:
        found.append(columns.started_at >= micros(chosen.since))
    if chosen.before is not None:
        found.append(columns.started_at < micros(chosen.before))
    if chosen.titled is not None:
        found.append((columns.title != None) == chosen.titled)  # noqa: E711
    return found


def _add(table: sa.Table) -> sa.TextClause:
    """Adds rows but for those that are there; SQLAlchemy's own would be compiled every time."""
    names = [column.name for column in table.c if column.name != "key"]
    columns = ", ".join(f'"{name}"' for name in names)
    values = ", ".join(f":{name}" for name in names)
    start = f"INSERT INTO {table.name} ({columns})"
    return sa.text(f"{start} VALUES ({values}) ON CONFLICT DO NOTHING")


ADD_SESSION, ADD_WORD, ADD_SEGMENT, ADD_MARK = map(_add, (sessions, words, segments, marks))
ADD_TURN, ADD_NAME = map(_add, (turns, names))
SET_SPEAKER = sa.text(
    "UPDATE words SET speaker = :speaker WHERE session = :session AND number = :number"
)
ADD_REFINEMENT = _add(refinements)
ADD_RESUMABLE, ADD_SENT = map(_add, (resumables, sent))
ALIVE = (
    sessions.update()
    .where(sessions.c.id.in_(sa.bindparam("ids", expanding=True)), sessions.c.state != "ended")
    .values(updated_at=sa.bindparam("now"))
)
HELD = (
    sa.select(sessions.c.key, sessions.c.id, sessions.c.owner)
    .where(sessions.c.id.in_(sa.bindparam("ids", expanding=True)))
    .with_for_update(read=True, key_share=True)
)
"""Sessions that are about to be written to."""
COUNT = (
    sessions.update()
    .where(sessions.c.key == sa.bindparam("of"))
    .values(
        words=sa.case(
            (sessions.c.words < sa.bindparam("count"), sa.bindparam("count")),
            else_=sessions.c.words,
        ),
        updated_at=sa.bindparam("now"),
    )
)
PROGRESS = (
    sessions.update()
    .where(sessions.c.key == sa.bindparam("of"))
    .values(samples=sa.bindparam("received"), updated_at=sa.bindparam("now"))
)
# Listed this way round each segment is found by its key: planners search all of them for an IN.
_SPOKEN = """WITH pairs (place, id) AS (VALUES {})
SELECT pairs.place, pairs.id, {} FROM pairs CROSS JOIN segments CROSS JOIN words
WHERE segments.session = pairs.place AND segments.id = pairs.id AND words.session = pairs.place
AND words.number >= segments.first AND words.number < segments.stop
AND words.segment = segments.id ORDER BY 1, 2, 3"""
_WORD_COLUMNS = ", ".join(
    f'words."{column.name}"' for column in words.c if column.name != "session"
)


def segment_words(
    connection: sa.Connection, pairs: Sequence[tuple[int, int]]
) -> defaultdict[tuple[int, int], list[sa.Row[Any]]]:
    """The words of segments, by their sessions' keys and their ids."""
    found: defaultdict[tuple[int, int], list[sa.Row[Any]]] = defaultdict(list)
    if pairs:
        listed = ", ".join(f"({int(key)}, {int(segment)})" for key, segment in pairs)
        for row in connection.exec_driver_sql(_SPOKEN.format(listed, _WORD_COLUMNS)).all():
            found[row.place, row.id].append(row)
    return found


def find(connection: sa.Connection, session: str, owners: Owners) -> sa.Row[Any]:
    """The row of a session by its id. Raises UnknownSession."""
    row = connection.execute(sa.select(sessions).where(sessions.c.id == session)).one_or_none()
    if row is None or (owners is not None and row.owner not in owners):
        raise UnknownSession(session)
    return row


def update(connection: sa.Connection, key: int, **values: object) -> None:
    """Change columns of a session's row."""
    connection.execute(sessions.update().where(sessions.c.key == key).values(values))
