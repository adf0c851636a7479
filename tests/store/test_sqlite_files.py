"""The files of a store in SQLite: who may read them, what a deletion leaves, what breaks them."""

import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.storing import spoken

from voxlive.store import backends, schema
from voxlive.store.backends import FILE_NAME, open_store
from voxlive.store.contract import (
    Correction,
    Refinement,
    SessionFilter,
    StoreBusy,
    StoredWord,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnusable,
)

ALL = SessionFilter(None)
ROOT = Path(__file__).parent.parent.parent
KILLED = 2
KILLED_IN_ENDURANCE = 200

# Says each number once the store has its word.
WRITER = """
import sys
from support.storing import session, word
from voxlive.store.backends import open_store
from voxlive.store.contract import AddSession, AddWords
store, ident = open_store(sys.argv[1]), sys.argv[2]
store.apply([AddSession(session(ident))])
for n in range(100_000):
    store.apply([AddWords(ident, (word(n, f" w{n}"),))])
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_nobody_else_may_read_the_files(tmp_path, opened):
    before = os.umask(0)
    try:
        store = opened(tmp_path / "above" / "store")
        store.apply(spoken("s", ["hello"]))
    finally:
        os.umask(before)
    folder = tmp_path / "above" / "store"
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert set(modes) == {FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"}
    assert set(modes.values()) == {0o600}


def test_a_folder_that_others_may_look_into_is_refused(tmp_path, opened):
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(StoreUnusable, match="chmod 700"):
        opened(tmp_path / "open")
    assert files(tmp_path / "open") == {}


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.endurance) for n in (1, 2))]
)
def test_what_is_deleted_is_in_no_file(tmp_path, opened, seed):
    chance = random.Random(seed)
    store = opened(tmp_path / "store")
    secrets: dict[str, str] = {}
    for n in range(120):
        secret = f"zq{seed}x{n:04d}y"
        secrets[f"s{n}"] = secret
        said = [f"{secret} {'and more words ' * chance.randrange(1, 30)}" for _ in range(4)]
        store.apply(spoken(f"s{n}", said, name=f"{secret}name"))
        if chance.random() < 0.3:
            store.patch(f"s{n}", None, title=f"{secret} title")
        if chance.random() < 0.3:
            made = Correction(1, 3, f"{secret} corrected", "ann", datetime.now(UTC))
            store.patch(f"s{n}", None, corrections=[made])
        if chance.random() < 0.3:
            store.refine(f"s{n}", None, Refinement(f"{secret}model", "ann", datetime.now(UTC)))
            store.claim_refinement(automatic=False)
            better = StoredWord(0, 0, f"{secret} refined", 0, 800, layer="refined")
            store.end_refinement(f"s{n}", [better])
    (tmp_path / "store" / "sessions.v1.old.copy").write_text(secrets["s0"])
    gone = chance.sample(sorted(secrets), 12)
    for ident in gone:
        store.delete(ident, None)
    assert set(files(tmp_path / "store")) == {FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"}
    for name, content in files(tmp_path / "store").items():
        left = [ident for ident in gone if secrets[ident].encode() in content]
        assert not left, name
    for ident, secret in secrets.items():
        hits = store.search(secret, ALL).hits
        assert [hit.session.id for hit in hits] == ([] if ident in gone else [ident])


def test_a_deletion_waits_for_readers_and_words_are_written_meanwhile(tmp_path, opened):
    store = opened(tmp_path / "store")
    store.apply(spoken("s", ["secret"]))
    reader = sqlite3.connect(tmp_path / "store" / FILE_NAME)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM words").fetchone()
    deleting = threading.Thread(target=store.delete, args=("s", None))
    deleting.start()
    for n in range(20):
        store.apply(spoken(f"other{n}", ["hello"]))
    assert b"secret" in files(tmp_path / "store")[f"{FILE_NAME}-wal"]
    reader.close()
    deleting.join(60)
    assert not any(b"secret" in content for content in files(tmp_path / "store").values())


def test_the_log_is_emptied_while_words_come_all_the_time(tmp_path, opened, monkeypatch):
    """A reader that stays keeps it; when it is gone the log is emptied again."""
    mark = 1 << 18
    monkeypatch.setattr(backends, "_MAX_LOG", mark)
    monkeypatch.setattr(backends, "_LONGEST_LOG", 4 * mark)
    store, log = opened(tmp_path / "store"), tmp_path / "store" / f"{FILE_NAME}-wal"

    def sizes(first: int, stop: int) -> list[int]:
        found = []
        for n in range(first, stop):
            store.apply(spoken(f"s{n}", ["hello"]))
            found.append(log.stat().st_size)
        return found

    alone = sizes(0, 200)
    emptied = sum(after < before for before, after in pairwise(alone))
    assert emptied > 2
    assert max(alone) < 5 * mark
    reader = sqlite3.connect(tmp_path / "store" / FILE_NAME)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM words").fetchone()
    assert sizes(200, 320)[-1] > 8 * mark
    reader.close()
    assert min(sizes(320, 400)) < mark


def test_a_newer_version_is_refused_and_left_alone(tmp_path, opened):
    opened(tmp_path / "store").close()
    with sqlite3.connect(tmp_path / "store" / FILE_NAME) as connection:
        connection.execute("UPDATE store SET version = 99")
    with pytest.raises(StoreUnusable, match="version 99"):
        opened(tmp_path / "store")


def _add_colour(connection: sa.Connection) -> None:
    connection.execute(sa.text("ALTER TABLE sessions ADD COLUMN colour TEXT"))


def _fail(connection: sa.Connection) -> None:
    _add_colour(connection)
    connection.execute(sa.text("ALTER TABLE nothing ADD COLUMN colour TEXT"))


def test_an_older_version_is_copied_then_migrated(tmp_path, opened, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", schema.STEPS[:1])
        store = opened(tmp_path / "store")
    store.apply(spoken("s", ["hello there"]))
    store.close()
    store = opened(tmp_path / "store")
    version = len(schema.STEPS)
    assert (store.stats().version, store.transcript("s", None).text) == (version, "hello there")
    (copy,) = (tmp_path / "store").glob("*.copy")
    assert copy.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT version FROM store").fetchall() == [(1,)]
        assert connection.execute("SELECT text FROM words").fetchall() == [("hello",), (" there",)]
    store.close()
    assert opened(tmp_path / "store").stats().version == version
    assert list((tmp_path / "store").glob("*.copy")) == [copy]


def test_a_migration_that_fails_changes_nothing(location, opened, monkeypatch):
    opened(location).apply(spoken("s", ["hello"]))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", (*schema.STEPS, _fail))
        with pytest.raises(StoreError):
            opened(location)
    store = opened(location)
    assert store.stats().version == len(schema.STEPS)
    assert store.transcript("s", None).text == "hello"


def test_copies_expire(tmp_path, opened):
    store = opened(tmp_path / "store")
    copy = tmp_path / "store" / "sessions.v1.old.copy"
    copy.touch()
    now = datetime.now(UTC)
    store.sweep(now - timedelta(days=1))
    assert copy.exists()
    store.sweep(now + timedelta(days=1))
    assert not copy.exists()


def test_a_file_that_is_no_store_is_refused(tmp_path, opened):
    (tmp_path / "store").mkdir(mode=0o700)
    (tmp_path / "store" / FILE_NAME).write_text("something else " * 100)
    with pytest.raises(StoreUnusable):
        opened(tmp_path / "store")


def test_a_locked_database_is_busy_and_written_later(tmp_path, opened, monkeypatch):
    monkeypatch.setattr("voxlive.store.backends._BUSY_S", 0.05)
    store = opened(tmp_path / "store")
    other = sqlite3.connect(tmp_path / "store" / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        store.apply(spoken("s", ["hello"]))
    other.close()
    store.apply(spoken("s", ["hello"]))
    assert store.transcript("s", None).text == "hello"


def _in_child(act) -> int:
    """The exit status of ``act`` in a process of its own: 0 where it returns True."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if act() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_full_disk_is_typed_and_what_was_written_stays(tmp_path):
    folder = tmp_path / "store"

    def fill() -> bool:
        store = open_store(folder)
        store.apply(spoken("kept", ["hello"]))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        for n in range(1000):
            try:
                store.apply(spoken(f"s{n}", ["some words " * 30]))
            except StoreFull:
                break
        else:
            return False
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        store.apply(spoken("later", ["there is room again"]))
        return True

    assert _in_child(fill) == 0
    store = open_store(folder)
    texts = {
        one.id: store.transcript(one.id, None).text for one in store.sessions(ALL, 200).sessions
    }
    store.close()
    assert (texts["kept"], texts["later"]) == ("hello", "there is room again")


@pytest.mark.parametrize("made", [True, False])
def test_files_that_cannot_be_written_are_typed(tmp_path, made):
    folder = tmp_path / "store"
    if made:
        open_store(folder).close()
    (folder if made else tmp_path).chmod(0o500)
    if made:
        (folder / FILE_NAME).chmod(0o400)
        os.chown(folder, 65534, 65534)
        os.chown(folder / FILE_NAME, 65534, 65534)
    for above in tmp_path.parents[:3]:
        above.chmod(above.stat().st_mode | 0o011)
    tmp_path.chmod(tmp_path.stat().st_mode | 0o011)

    def write() -> bool:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            open_store(folder).apply(spoken("s", ["hello"]))
        except StoreReadOnly:
            return True
        return False

    assert _in_child(write) == 0


def kill_while_writing(location: str, times: int, opened) -> None:
    """Kill writers at random moments: the store opens and has every word that they have said."""
    chance = random.Random(times)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    for n in range(times):
        command = [sys.executable, "-c", WRITER, location, f"s{n}"]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(chance.randrange(1, 300)):
            writer.stdout.readline()
        writer.kill()
        said = writer.stdout.read().rpartition("\n")[0].rpartition("\n")[2]
        writer.wait()
        store = opened(location)
        kept = store.transcript(f"s{n}", None).words
        assert [one.text for one in kept] == [f" w{number}" for number in range(len(kept))]
        if said:
            assert len(kept) > int(said)
        store.close()


@pytest.mark.long
def test_a_killed_writer_loses_no_word_that_was_written(location, opened):
    kill_while_writing(location, KILLED, opened)


@pytest.mark.endurance
@pytest.mark.timeout(1800)
def test_a_writer_killed_often_loses_no_word_that_was_written(location, opened):
    kill_while_writing(location, KILLED_IN_ENDURANCE, opened)
