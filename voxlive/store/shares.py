"""Links in a database: who may read along in which sessions with a token of their own.

A row names a key and an id or captions name, and not a session: a link may be made before its
session begins, and outlives one that is begun again. Of the token only a digest is kept.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from voxlive.store import schema
from voxlive.store.contract import Share, StoredSession
from voxlive.store.schema import clean, micros, moment, sessions, shares


def add(connection: sa.Connection, share: Share) -> None:
    """Keep a link, and none that has expired before it was made."""
    connection.execute(shares.delete().where(shares.c.expires_at < micros(share.made_at)))
    row = {
        "id": share.id,
        "digest": share.digest,
        "owner": share.owner,
        "name": clean(share.name),
        "made_at": micros(share.made_at),
        "expires_at": micros(share.expires_at),
        "with_session": share.with_session,
    }
    connection.execute(shares.insert(), row)


def of_token(connection: sa.Connection, digest: str) -> Share | None:
    """The link with the token of this digest."""
    chosen = sa.select(shares).where(shares.c.digest == digest)
    row = connection.execute(chosen).one_or_none()
    return None if row is None else _share_of(row)


def of_owner(connection: sa.Connection, owner: str) -> tuple[Share, ...]:
    """The links of a key, the oldest first."""
    chosen = sa.select(shares).where(shares.c.owner == owner).order_by(shares.c.key)
    return tuple(map(_share_of, connection.execute(chosen)))


def change(connection: sa.Connection, share: Share) -> bool:
    """Have a link expire as this one does; whether it is there."""
    mine = shares.update().where(shares.c.id == share.id, shares.c.owner == share.owner)
    changed = {"expires_at": micros(share.expires_at), "with_session": share.with_session}
    return connection.execute(mine.values(changed)).rowcount > 0


def revoke(connection: sa.Connection, ident: str, owner: str) -> bool:
    """Delete a link of a key; whether there was one."""
    mine = shares.delete().where(shares.c.id == ident, shares.c.owner == owner)
    return connection.execute(mine).rowcount > 0


def end(connection: sa.Connection, owner: str, names: Collection[str], at: datetime) -> None:
    """Have links that end with their sessions expire then, if not before."""
    over = shares.update().where(
        shares.c.owner == owner,
        shares.c.name.in_(names),
        shares.c.with_session,
        shares.c.expires_at > micros(at),
    )
    connection.execute(over.values(expires_at=micros(at)))


def session_of(connection: sa.Connection, share: Share) -> StoredSession | None:
    """The newest session that a link is for."""
    since = micros(share.made_at)
    ended = sa.func.coalesce(sessions.c.ended_at, sessions.c.updated_at)
    chosen = sa.select(sessions).where(
        sessions.c.owner == share.owner,
        sa.or_(sessions.c.id == share.name, sessions.c.name == share.name),
        sa.or_(sessions.c.state != "ended", ended >= since),
    )
    row = connection.execute(chosen.order_by(sessions.c.key.desc()).limit(1)).one_or_none()
    return None if row is None else schema.session_of(row)


def _share_of(row: sa.Row[Any]) -> Share:
    return Share(
        row.id,
        row.digest,
        row.owner,
        row.name,
        moment(row.made_at),
        moment(row.expires_at),
        row.with_session,
    )
