"""The databases that a store can be in: SQLite in a folder, PostgreSQL by its URL.

``open_store`` opens either.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from voxlive.store import schema
from voxlive.store.audio import AudioFolder
from voxlive.store.contract import (
    EndResumable,
    Guarded,
    Operation,
    Owners,
    SessionStore,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnusable,
    UnknownSession,
)
from voxlive.store.database import DatabaseStore
from voxlive.store.search import ONE_SEGMENT, SCAN, SearchQuery, owner_token

FILE_NAME = "sessions.db"
_COPIES = "sessions.v*.copy*"
_BUSY_S = 5.0
_WIPE_S = 60.0
_MERGED_PAGES = 100
_READERS = 4
_MAX_LOG = 4 << 20  # bytes of the log of changes, then it is written into the file
_LONGEST_LOG = 4 * _MAX_LOG  # then what is written waits, unless a reader needs so much of it
_PRAGMAS = (
    "journal_mode = WAL",
    # Every transaction outlives this process as soon as it is committed; a loss of power may cost
    # the last ones, and never the file.
    "synchronous = NORMAL",
    "foreign_keys = ON",
    "secure_delete = ON",
    "temp_store = MEMORY",
    "cache_size = -32000",
    # Far above _MAX_LOG: whoever writes does not wait for the disk.
    "wal_autocheckpoint = 20000",
    f"journal_size_limit = {_MAX_LOG // 4}",
)
_SCHEMES = ("postgresql:", "postgres:", "postgresql+psycopg:")
_SCHEMA_LOCK = 0x766F786C  # "voxl"


def open_store(location: str | Path, audio: str | Path | None = None) -> SessionStore:
    """Open the store at a URL of PostgreSQL or in a folder; makes or migrates it.

    ``audio`` is the folder of kept audio; without it one in the store's, or the user's own.
    Raises StoreError.
    """
    sound = None if audio is None else AudioFolder(Path(audio).expanduser())
    text = str(location)
    if text.startswith(_SCHEMES):
        return PostgresStore(text, sound)
    if "://" in text:
        message = f"{text.partition(':')[0]}: a store is a folder, or postgresql://USER@HOST/NAME"
        raise StoreUnusable(message)
    return SqliteStore(Path(text).expanduser(), sound)


class _SqliteDatabase(DatabaseStore):
    """What a store in SQLite is, in a file or not; ``_path`` is set before anything else.

    Who writes takes the database's lock before it reads, so that it cannot fail in between.
    """

    _path: Path

    def _engine(self, begin: str, size: int, *pragmas: str) -> sa.Engine:
        engine = sa.create_engine(
            "sqlite://",
            creator=lambda: self._connect(*pragmas),
            poolclass=sa.QueuePool,
            pool_size=size,
            max_overflow=0,
            pool_timeout=2 * _BUSY_S,
            hide_parameters=True,
        )
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        for pragma in (*_PRAGMAS, *pragmas):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _lock_schema(self, connection: sa.Connection) -> None:
        """Its transaction has the lock."""

    def _index(self, connection: sa.Connection, texts: Mapping[int, list[str]]) -> None:
        numbers = [(number,) for number in texts]
        connection.exec_driver_sql("DELETE FROM search WHERE rowid = ?", numbers)
        rows = [(number, " ".join(tokens)) for number, tokens in texts.items() if tokens]
        if rows:
            connection.exec_driver_sql("INSERT INTO search (rowid, terms) VALUES (?, ?)", rows)

    def _unindex(self, connection: sa.Connection, first: int, stop: int) -> None:
        connection.exec_driver_sql(
            "DELETE FROM search WHERE rowid >= ? AND rowid < ?", (first, stop)
        )

    def _matching(
        self, connection: sa.Connection, query: SearchQuery, owners: Owners, below: int
    ) -> list[int]:
        parts = [f'"{" ".join(one.tokens)}"{"*" * one.prefix}' for one in query.phrases]
        if owners is not None:
            names = sorted(map(owner_token, owners))
            parts.append(f"({' OR '.join(names)})")
        found = connection.exec_driver_sql(
            "SELECT rowid FROM search WHERE search MATCH ? AND rowid < ? "
            "ORDER BY rowid DESC LIMIT ?",
            (" AND ".join(parts), below, SCAN),
        )
        return list(found.scalars().all())

    def _error_of(self, error: BaseException) -> StoreError:
        reason = f"{self._path}: {getattr(error, 'strerror', None) or error}"
        code = getattr(error, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_IOERR_WRITE:
            return StoreFull(f"{reason}: a quota is used up, or the disk fails")
        match code & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return StoreBusy(f"{reason}: another program writes to it")
            case sqlite3.SQLITE_FULL:
                return StoreFull(f"{reason}: make room")
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                return StoreReadOnly(f"{reason}: its user has to be this server's")
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return StoreUnusable(f"{reason}: move it away")
        if isinstance(error, PermissionError) or getattr(error, "errno", 0) == 30:
            return StoreReadOnly(f"{reason}: its user has to be this server's")
        return StoreError(reason)


class SqliteStore(_SqliteDatabase):
    """A store in a file of a folder of its own, which nobody else may enter.

    One connection writes. After a deletion the search index is merged to one piece and the log of
    changes is cut off, so that no file has the words any more: what is freed is overwritten with
    zeros at once. Copies from before a migration go with the first deletion. Beyond a mark the log
    is written into the file by a thread of its own, and the rest by whoever writes next.
    """

    def __init__(self, folder: Path, audio: AudioFolder | None = None) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME
        self._log = folder / f"{FILE_NAME}-wal"
        self._checkpoint: threading.Thread | None = None
        self._checkpoint_at = _MAX_LOG
        try:
            self._make_files()
        except OSError as error:
            raise self._error_of(error) from error
        super().__init__(
            str(self._path),
            self._engine("BEGIN", _READERS, "query_only = ON"),
            self._engine("BEGIN IMMEDIATE", 1),
            audio or AudioFolder(folder / "audio"),
        )

    def apply(self, operations: Sequence[Operation]) -> frozenset[Guarded]:
        """See ``SessionStore``."""
        refused = super().apply(operations)
        with self._typed():
            size = self._log.stat().st_size
            if self._checkpoint is None:
                if size >= self._checkpoint_at:
                    thread = threading.Thread(target=self._write_log, name="store-checkpoint")
                    self._checkpoint = thread
                    thread.start()
            elif size >= _LONGEST_LOG or not self._checkpoint.is_alive():
                self._checkpoint.join()
                self._end_checkpoint()
        return refused

    def _write_log(self) -> None:
        """Others read and write meanwhile; where it fails the next one does it."""
        with contextlib.suppress(sqlite3.Error), closing(self._connect()) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _end_checkpoint(self) -> None:
        """Write what came meanwhile into the file too, and empty the log.

        While words come all the time nothing else does: the thread is never quite done. A reader
        that needs the log is hardly waited for; then it grows by as much as before.
        """
        self._checkpoint = None
        emptied = False
        with contextlib.suppress(sqlite3.Error):
            emptied = self._truncate_log()
        kept = 0 if emptied else self._log.stat().st_size
        self._checkpoint_at = kept + _MAX_LOG

    def close(self) -> None:
        """See ``SessionStore``."""
        if self._checkpoint:
            self._checkpoint.join()
        super().close()

    def _make_files(self) -> None:
        """The folder and an empty file; SQLite gives its other files the rights of this one."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._folder.stat().st_mode & 0o077:
            raise StoreUnusable(
                f"others may look into {self._folder}: chmod 700 it, or name a folder that is not "
                "there yet"
            )
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))

    def _copy(self, version: int) -> None:
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        path = self._folder / f"sessions.v{version}.{now}.copy"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(self._path)) as source, closing(sqlite3.connect(path)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")

    def sweep(self, before: datetime) -> int:
        """See ``SessionStore``; copies from before a migration expire like sessions."""
        with self._typed():
            for copy in self._folder.glob(_COPIES):
                if copy.stat().st_mtime < before.timestamp():
                    copy.unlink(missing_ok=True)
        return super().sweep(before)

    def _wipe(self) -> None:
        for copy in self._folder.glob(_COPIES):
            copy.unlink(missing_ok=True)
        while self._merge():
            pass
        deadline = time.monotonic() + _WIPE_S
        while not self._truncate_log():
            # A reader has to come to its end first.
            if time.monotonic() > deadline:
                raise StoreBusy(f"{self._path}: what was deleted is not wiped yet: delete again")
            time.sleep(0.1)

    def _merge(self) -> bool:
        """Merge some more of the search index; whether there may be more to do.

        A piece at a time, so that words that arrive are written in between.
        """
        with self._writing() as connection:
            raw = connection.connection.dbapi_connection
            assert isinstance(raw, sqlite3.Connection)
            before = raw.total_changes
            statement = "INSERT INTO search (search, rank) VALUES ('merge', ?)"
            raw.execute(statement, (-_MERGED_PAGES,))
            return raw.total_changes - before >= 2

    def _truncate_log(self) -> bool:
        """Write the log of changes into the file and empty it, unless there is a reader now."""
        raw = self._writer.raw_connection()
        cursor = raw.cursor()
        try:
            # While it waits nobody writes.
            cursor.execute("PRAGMA busy_timeout = 20")
            busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {int(1000 * _BUSY_S)}")
            raw.close()

    def _size(self, connection: sa.Connection) -> int:  # noqa: ARG002
        return sum(path.stat().st_size for path in self._folder.glob("sessions.*"))


class MemoryStore(_SqliteDatabase):
    """A store in this process's memory, of sessions that are kept nowhere.

    By it another process of the server may go on with them. One that cannot be resumed any more is
    gone from it.
    """

    def __init__(self) -> None:
        self._path = Path(":memory:")
        engine = self._engine("BEGIN IMMEDIATE", 1)
        # No audio is kept; nothing is ever in this folder.
        super().__init__("memory", engine, engine, AudioFolder(Path(os.devnull)))

    def apply(self, operations: Sequence[Operation]) -> frozenset[Guarded]:
        """See ``SessionStore``."""
        refused = super().apply(operations)
        written = (one for one in operations if one not in refused)
        parts = (one.operations if isinstance(one, Guarded) else (one,) for one in written)
        for ended in (one for part in parts for one in part if isinstance(one, EndResumable)):
            with contextlib.suppress(UnknownSession):
                self.delete(ended.session, None)
        return refused

    def _copy(self, version: int) -> None:
        """It begins with the newest version."""

    def _wipe(self) -> None:
        """What was deleted is overwritten at once."""

    def _size(self, connection: sa.Connection) -> int:
        pages, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("page_count", "page_size")
        )
        return int(pages * size)


class PostgresStore(DatabaseStore):
    """A store in a database of PostgreSQL, which several servers may share.

    What is deleted is vacuumed; until PostgreSQL writes over it, freed pages, its write-ahead log
    and its backups may still have it.
    """

    def __init__(self, url: str, audio: AudioFolder | None = None) -> None:
        from platformdirs import user_data_path

        audio = audio or AudioFolder(user_data_path("voxlive", appauthor=False) / "audio")
        parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
        try:
            engine = sa.create_engine(
                parsed,
                pool_size=_READERS + 1,
                max_overflow=_READERS,
                pool_timeout=2 * _BUSY_S,
                pool_pre_ping=True,
                hide_parameters=True,
                connect_args={
                    "connect_timeout": int(_BUSY_S),
                    "options": f"-c jit=off -c lock_timeout={int(_BUSY_S)}s "
                    "-c statement_timeout=60s -c plan_cache_mode=force_custom_plan",
                },
            )
        except ModuleNotFoundError as error:
            message = "PostgreSQL needs psycopg: pip install 'voxlive[postgres]'"
            raise StoreUnusable(message) from error
        shown = parsed.render_as_string(hide_password=True)
        super().__init__(shown, engine, engine, audio)

    def _lock_schema(self, connection: sa.Connection) -> None:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))

    def _copy(self, version: int) -> None:
        """Its administrator's: the migration is one transaction, and all of it or nothing."""

    def _index(self, connection: sa.Connection, texts: Mapping[int, list[str]]) -> None:
        numbers = list(texts)
        connection.execute(
            sa.text("DELETE FROM search WHERE number = ANY(:numbers)"), {"numbers": numbers}
        )
        rows = [
            {"number": number, "session": number // ONE_SEGMENT, "terms": _tsvector(tokens)}
            for number, tokens in texts.items()
            if tokens
        ]
        if rows:
            connection.execute(
                sa.text(
                    "INSERT INTO search (number, session, terms) "
                    "VALUES (:number, :session, CAST(:terms AS tsvector))"
                ),
                rows,
            )

    def _unindex(self, connection: sa.Connection, first: int, stop: int) -> None:
        connection.execute(
            sa.text("DELETE FROM search WHERE number >= :first AND number < :stop"),
            {"first": first, "stop": stop},
        )

    def _matching(
        self, connection: sa.Connection, query: SearchQuery, owners: Owners, below: int
    ) -> list[int]:
        parts = [
            f"({' <-> '.join(map(_lexeme, one.tokens))}{':*' * one.prefix})"
            for one in query.phrases
        ]
        if owners is not None:
            names = (_lexeme(owner_token(owner)) for owner in sorted(owners))
            parts.append(f"({' | '.join(names)})")
        found = connection.execute(
            sa.text(
                "SELECT number FROM search WHERE terms @@ CAST(:query AS tsquery) "
                "AND number < :below ORDER BY number DESC LIMIT :most"
            ),
            {"query": " & ".join(parts), "below": below, "most": SCAN},
        )
        return list(found.scalars().all())

    def _error_of(self, error: BaseException) -> StoreError:
        reason = f"{self.location}: {str(error).strip() or type(error).__name__}"
        state = getattr(error, "sqlstate", None) or ""
        if state in ("53100", "53200"):
            return StoreFull(reason)
        if state in ("25006", "42501"):
            return StoreReadOnly(reason)
        if state in ("55P03", "53300", "57014", "40P01", "40001"):
            return StoreBusy(reason)
        return StoreError(reason)

    def _wipe(self) -> None:
        raw = self._writer.raw_connection()
        connection: Any = raw.dbapi_connection
        try:
            connection.autocommit = True
            connection.execute("SET statement_timeout = 0")
            for table in (*schema.metadata.tables, "search"):
                connection.execute(f"VACUUM (ANALYZE) {table}")
        finally:
            # It has another time-out now.
            raw.invalidate()

    def _size(self, connection: sa.Connection) -> int:
        size = sa.select(sa.func.pg_database_size(sa.func.current_database()))
        return int(connection.execute(size).scalar_one())


def _tsvector(tokens: list[str]) -> str:
    """Tokens at their places; the first, the owner's, has none."""
    owner, *rest = tokens
    places = (f"{_lexeme(token)}:{min(at, 16383)}" for at, token in enumerate(rest, 1))
    return " ".join((_lexeme(owner), *places))


def _lexeme(token: str) -> str:
    escaped = token.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
