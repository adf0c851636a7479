"""Resumable sessions in a database: who holds each, and what another server goes on from.

``resumables`` has a row for every session that could ever be resumed, with its holder, and ``sent``
the messages for its client, for as long as it can be. What a server writes of such a session goes
through ``admitted``, which leaves out what a server writes that holds the session no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from voxlive.store import schema
from voxlive.store.contract import (
    AddResumable,
    AddSent,
    EndResumable,
    Guarded,
    Operation,
    SetCheckpoint,
    StoredResumable,
)
from voxlive.store.schema import clean, micros, moment, resumables, sent, sessions

_FIRST_EPOCH = 1
_HELD = (
    sa.select(sessions.c.id, resumables.c.holder)
    .join_from(resumables, sessions)
    .where(sessions.c.id.in_(sa.bindparam("ids", expanding=True)))
    .with_for_update(read=True, of=resumables)
)
"""The holders of sessions, which nobody claims until the transaction ends."""
_RAISE = (
    resumables.update()
    .where(
        resumables.c.session
        == sa.select(sessions.c.key)
        .where(sessions.c.id == sa.bindparam("ident"))
        .scalar_subquery(),
        resumables.c.epoch < sa.bindparam("to"),
    )
    .values(epoch=sa.bindparam("to"))
)
_DROP = sent.delete().where(
    sent.c.session == sa.bindparam("of"), sent.c.number < sa.bindparam("kept")
)
_SET = (
    resumables.update()
    .where(resumables.c.session == sa.bindparam("of"), resumables.c.token != None)  # noqa: E711
    .values(checkpoint=sa.bindparam("state"))
)


def add(connection: sa.Connection, added: Sequence[AddResumable]) -> None:
    """Sessions that have just opened can be resumed."""
    rows = connection.execute(schema.HELD, {"ids": [one.session for one in added]})
    keys = {row.id: row.key for row in rows}
    new = [
        {
            "session": keys[one.session],
            "token": one.token,
            "epoch": _FIRST_EPOCH,
            "holder": one.holder,
            "start": one.start,
            "checkpoint": None,
        }
        for one in added
        if one.session in keys
    ]
    if new:
        connection.execute(schema.ADD_RESUMABLE, new)


def admitted(
    connection: sa.Connection, operations: Sequence[Operation]
) -> tuple[list[Operation], frozenset[Guarded]]:
    """What is to be written of these, and what is refused."""
    guarded = {one.session for one in operations if isinstance(one, Guarded)}
    holders: dict[str, str] = {}
    if guarded:
        rows = connection.execute(_HELD, {"ids": list(guarded)})
        holders = {row.id: row.holder for row in rows}
    written: list[Operation] = []
    refused = set()
    for one in operations:
        if not isinstance(one, Guarded):
            written.append(one)
        elif holders.get(one.session, one.holder) != one.holder:
            refused.add(one)
        else:
            written += one.operations
            if one.epoch:
                connection.execute(_RAISE, {"ident": one.session, "to": one.epoch})
    return written, frozenset(refused)


def write(
    connection: sa.Connection,
    keys: Mapping[str, int],
    by_kind: MutableMapping[type[Operation], list[Any]],
) -> None:
    """Take the operations that are about resuming out of ``by_kind`` and write them.

    ``keys``: of the sessions that are there. A session's own come in the order of being sent.
    """

    def taken(kind: type[Operation]) -> list[Any]:
        return [one for one in by_kind.pop(kind, ()) if one.session in keys]

    _write_sent(connection, keys, taken(AddSent))
    states = {one.session: one.checkpoint for one in taken(SetCheckpoint)}
    if states:
        rows = [{"of": keys[ident], "state": state} for ident, state in states.items()]
        connection.execute(_SET, rows)
    if ended := taken(EndResumable):
        _end(connection, [keys[one.session] for one in ended])


def _write_sent(
    connection: sa.Connection, keys: Mapping[str, int], added: Iterable[AddSent]
) -> None:
    rows = [
        {"session": keys[one.session], "number": number, "json": clean(text)}
        for one in added
        for number, text in enumerate(one.texts, one.first)
    ]
    if rows:
        connection.execute(schema.ADD_SENT, rows)
    kept = {one.session: one.kept for one in added if one.kept}
    if kept:
        drops = [{"of": keys[ident], "kept": number} for ident, number in kept.items()]
        connection.execute(_DROP, drops)


def _end(connection: sa.Connection, keys: Sequence[int]) -> None:
    """Delete what is for resuming; the holder stays, so that late writes are refused."""
    connection.execute(sent.delete().where(sent.c.session.in_(keys)))
    ended = resumables.update().where(resumables.c.session.in_(keys))
    connection.execute(ended.values(token=None, start="", checkpoint=None))


def find(connection: sa.Connection, which: sa.ColumnElement[bool]) -> StoredResumable | None:
    """The resumable session for whose row this holds."""
    chosen = sa.select(
        resumables.c.session.label("of"),
        resumables.c.epoch,
        resumables.c.start,
        resumables.c.checkpoint,
    )
    row = connection.execute(
        chosen.where(which, resumables.c.token != None)  # noqa: E711
    ).one_or_none()
    if row is None:
        return None
    session = connection.execute(sa.select(sessions).where(sessions.c.key == row.of)).one()
    bounds = sa.select(sa.func.min(sent.c.number), sa.func.max(sent.c.number))
    first, last = connection.execute(bounds.where(sent.c.session == row.of)).one()
    return StoredResumable(
        schema.session_of(session),
        row.epoch,
        row.start,
        row.checkpoint,
        session.state == "ended",
        moment(session.updated_at),
        1 if first is None else first,
        1 if last is None else last + 1,
    )


def named(connection: sa.Connection, name: str) -> int | None:
    """The key of the newest that is not over, of this id or captions name."""
    chosen = (
        sa.select(sa.func.max(sessions.c.key))
        .join_from(resumables, sessions)
        .where(
            resumables.c.token != None,  # noqa: E711
            sessions.c.state != "ended",
            sa.or_(sessions.c.id == name, sessions.c.name == name),
        )
    )
    key: int | None = connection.scalar(chosen)
    return key


def claim(connection: sa.Connection, session: str, epoch: int, holder: str) -> int | None:
    """Claim a session that has this epoch; its key, or None where it has another or is gone."""
    key: int | None = connection.scalar(sa.select(sessions.c.key).where(sessions.c.id == session))
    claimed = resumables.update().where(
        resumables.c.session == key,
        resumables.c.epoch == epoch,
        resumables.c.token != None,  # noqa: E711
    )
    if (
        key is None
        or not connection.execute(claimed.values(epoch=epoch + 1, holder=holder)).rowcount
    ):
        return None
    state = sa.case((sessions.c.state == "ended", "ended"), else_="running")
    schema.update(connection, key, state=state, updated_at=micros(datetime.now(UTC)))
    return key


def sent_texts(connection: sa.Connection, key: int) -> tuple[str, ...]:
    """The messages for a session's client that are kept, in order."""
    texts = sa.select(sent.c.json).where(sent.c.session == key).order_by(sent.c.number)
    return tuple(connection.scalars(texts))


def expire(connection: sa.Connection, before: int) -> int:
    """End those of which nothing was written since; microseconds since the epoch."""
    old = (
        sa.select(resumables.c.session)
        .join_from(resumables, sessions)
        .where(resumables.c.token != None, sessions.c.updated_at < before)  # noqa: E711
        .with_for_update(of=resumables)
    )
    keys = list(connection.scalars(old))
    if keys:
        _end(connection, keys)
        over = sessions.update().where(sessions.c.key.in_(keys), sessions.c.state != "ended")
        gone = {"state": "ended", "error": "interrupted", "ended_at": sessions.c.updated_at}
        connection.execute(over.values(gone))
    return len(keys)
