"""What is PostgreSQL's own: servers that share a store, restarts, accounts, and deletions."""

import threading

import psycopg
import pytest
from support.postgres import PostgresServer
from support.storing import session, spoken, word

from voxlive.store.backends import open_store
from voxlive.store.contract import (
    AddSession,
    AddWords,
    SessionFilter,
    StoreError,
    StoreReadOnly,
    StoreUnusable,
)

ALL = SessionFilter(None)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_url_is_taken_as_people_write_it(new_database, opened, scheme):
    url = new_database.replace("postgresql:", f"{scheme}:")
    opened(url).apply(spoken("s", ["hello"]))


def test_a_password_is_shown_nowhere(postgres_server, new_database, opened):
    url = new_database.replace("voxlive@", "voxlive:secret@")
    store = opened(url)
    assert "secret" not in store.location
    with pytest.raises(StoreError) as refused:
        open_store(postgres_server.url("nothing").replace("voxlive@", "voxlive:secret@"))
    assert "secret" not in refused.value.message


def test_another_database_is_no_store():
    with pytest.raises(StoreUnusable, match="postgresql://"):
        open_store("mysql://me@host/name")


def test_a_store_goes_on_when_its_server_is_started_again(opened):
    server = PostgresServer.make()
    if server is None:
        pytest.skip("PostgreSQL is not installed")
    server.start()
    try:
        store = opened(server.new_database())
        store.apply([AddSession(session("s")), AddWords("s", (word(0, "one"),))])
        server.stop()
        with pytest.raises(StoreError):
            store.apply([AddWords("s", (word(1, " two"),))])
        with pytest.raises(StoreError):
            store.sessions(ALL)
        server.start()
        store.apply([AddWords("s", (word(1, " two"),))])
        assert store.transcript("s", None).text == "one two"
    finally:
        server.stop()


def test_an_account_that_may_only_read_is_typed(postgres_server, new_database, opened):
    opened(new_database).apply(spoken("s", ["hello"]))
    with psycopg.connect(new_database, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    store = opened(new_database.replace("voxlive@", "reader@"))
    assert store.transcript("s", None).text == "hello"
    with pytest.raises(StoreReadOnly):
        store.apply(spoken("t", ["hello"]))


def test_servers_that_start_together_make_one_store(new_database, opened):
    failed: list[BaseException] = []

    def start(n: int) -> None:
        try:
            store = open_store(new_database)
            store.apply(spoken(f"s{n}", ["hello"]))
            store.close()
        except StoreError as error:
            failed.append(error)

    threads = [threading.Thread(target=start, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(opened(new_database).sessions(ALL).sessions) == 6


def test_a_session_that_is_deleted_while_it_is_written_leaves_nothing(new_database, opened):
    writer, other = opened(new_database), opened(new_database)
    for n in range(10):
        writer.apply([AddSession(session(f"s{n}"))])
        deleting = threading.Thread(target=other.delete, args=(f"s{n}", None))
        deleting.start()
        for number in range(20):
            writer.apply([AddWords(f"s{n}", (word(number, " word"),))])
        deleting.join()
    with psycopg.connect(new_database) as connection:
        assert connection.execute("SELECT count(*) FROM words").fetchone() == (0,)
