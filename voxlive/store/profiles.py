"""Voice profiles in a database, which does not know what is sealed in them."""

from __future__ import annotations

import sqlalchemy as sa

from voxlive.store.contract import Owners, StoredProfile
from voxlive.store.schema import micros, moment, profiles


def keep(connection: sa.Connection, profile: StoredProfile) -> None:
    """Keep it, in place of the one of its id."""
    connection.execute(profiles.delete().where(profiles.c.id == profile.id))
    row = {
        "id": profile.id,
        "owner": profile.owner,
        "made_at": micros(profile.made_at),
        "sealed": profile.sealed,
    }
    connection.execute(profiles.insert(), row)


def of_owners(connection: sa.Connection, owners: Owners) -> tuple[StoredProfile, ...]:
    """Those of these keys, the oldest first."""
    rows = connection.execute(sa.select(profiles).where(_owned(owners)).order_by(profiles.c.key))
    return tuple(StoredProfile(row.id, row.owner, moment(row.made_at), row.sealed) for row in rows)


def delete(connection: sa.Connection, profile: str, owners: Owners) -> bool:
    """Delete one; whether there was one."""
    mine = profiles.delete().where(profiles.c.id == profile, _owned(owners))
    return connection.execute(mine).rowcount > 0


def _owned(owners: Owners) -> sa.ColumnElement[bool]:
    return sa.true() if owners is None else profiles.c.owner.in_(sorted(owners))
