"""Sessions that pass from one server to another on the same store, SQLite and PostgreSQL alike."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from support.storing import START, session, word

from voxlive.store import schema
from voxlive.store.contract import (
    AddResumable,
    AddSent,
    AddSession,
    AddTurn,
    AddWords,
    CloseSegment,
    EndResumable,
    Guarded,
    KeepAlive,
    Operation,
    SessionStore,
    SetCheckpoint,
    SetSpeakers,
    SetState,
    StoredSegment,
    StoredTurn,
)

OPENED: list[Operation] = [AddSession(session("s")), AddResumable("s", "digest", "start", "A")]
LATER = timedelta(hours=1)


def said(number: int, text: str, holder: str = "A") -> Guarded:
    """A word and the message that has it, whose number is one more."""
    words = AddWords("s", (word(number, text),))
    return Guarded("s", holder, (words, AddSent("s", number + 1, (f'"{text}"',))))


def texts(store: SessionStore) -> list[str]:
    return [one.text for one in store.transcript("s", None).words]


def test_what_another_server_needs_comes_back(store: SessionStore):
    assert store.resumable("digest") is None
    closed = CloseSegment("s", StoredSegment(0, 0, 1500, 0, 1), 1600)
    batches: Sequence[Sequence[Operation]] = (
        [*OPENED, said(0, "one")],
        [Guarded("s", "A", (closed, AddSent("s", 2, ("a", "b")), SetCheckpoint("s", "old")))],
        [Guarded("s", "A", (SetCheckpoint("s", "here"),))],
    )
    for batch in (*batches, *batches[1:]):
        assert store.apply(batch) == frozenset()
    found = store.resumable("digest")
    assert (found.epoch, found.start, found.checkpoint, found.ended) == (1, "start", "here", False)
    assert (found.first, found.next) == (1, 4)
    assert found.session == store.session("s", None)
    claimed = store.claim("s", 1, "B")
    assert claimed.sent == ('"one"', "a", "b")
    assert claimed.transcript == store.transcript("s", None)
    assert claimed.resumable.epoch == 2


def test_a_server_that_lost_a_session_writes_nothing_of_it_any_more(store: SessionStore):
    store.apply([*OPENED, AddSession(session("other")), said(0, "one")])
    assert store.claim("s", 1, "B") is not None
    assert store.claim("s", 1, "B") is None
    late = said(1, "late")
    new = said(1, "two", "B")
    refused = store.apply([late, AddWords("other", (word(0, "kept"),)), new])
    assert refused == {late}
    assert texts(store) == ["one", "two"]
    assert store.transcript("other", None).text == "kept"
    end = Guarded("s", "B", (SetState("s", "ended", 9, START), EndResumable("s")))
    assert store.apply([end]) == frozenset()
    state = Guarded("s", "A", (SetState("s", "running", 1, START),))
    assert store.apply([state]) == {state}
    assert store.session("s", None).state == "ended"


def test_another_connection_raises_the_epoch_in_order(store: SessionStore):
    raised = Guarded("s", "A", (), epoch=2)
    for _ in range(2):
        store.apply([*OPENED, said(0, "one"), raised, said(1, "two")])
    assert texts(store) == ["one", "two"]
    assert store.resumable("digest").epoch == 2
    assert store.claim("s", 1, "B") is None
    assert store.claim("s", 2, "B").resumable.epoch == 3
    assert store.apply([raised]) == {raised}


def test_messages_from_the_beginning_are_dropped(store: SessionStore):
    store.apply(OPENED)
    store.apply([Guarded("s", "A", (AddSent("s", 1, ("a", "b", "c")),))])
    store.apply([Guarded("s", "A", (AddSent("s", 4, ("d",), kept=3),))])
    found = store.resumable("digest")
    assert (found.first, found.next) == (3, 5)
    assert store.claim("s", 1, "B").sent == ("c", "d")


def test_what_can_be_resumed_no_more_is_gone_and_the_transcript_stays(store: SessionStore):
    store.apply([*OPENED, said(0, "one"), Guarded("s", "A", (EndResumable("s"),))])
    assert store.resumable("digest") is None
    assert store.claim("s", 1, "B") is None
    assert texts(store) == ["one"]
    store.apply([Guarded("s", "A", (SetCheckpoint("s", "late"),))])
    assert store.resumable("digest") is None


def test_a_deleted_session_is_resumed_by_nobody_and_its_writes_are_dropped(store: SessionStore):
    store.apply([*OPENED, said(0, "one")])
    store.delete("s", None)
    assert store.resumable("digest") is None
    assert store.claim("s", 1, "B") is None
    assert store.apply([said(1, "two")]) == frozenset()


def test_sessions_that_nobody_resumes_expire(store: SessionStore):
    store.apply([*OPENED, said(0, "one")])
    now = datetime.now(UTC)
    store.apply([KeepAlive(("s",))])
    assert store.expire(now) == 0
    assert store.resumable("digest").updated_at >= now
    assert store.expire(now + LATER) == 1
    assert store.resumable("digest") is None
    kept = store.session("s", None)
    assert (kept.state, kept.error, kept.words) == ("ended", "interrupted", 1)
    assert store.expire(now + LATER) == 0


def test_a_session_that_is_over_stays_so_when_its_client_asks_for_the_end(store: SessionStore):
    ended = SetState("s", "ended", 9, START)
    store.apply([*OPENED, Guarded("s", "A", (ended, AddSent("s", 1, ("done",))))])
    assert store.resumable("digest").ended
    claimed = store.claim("s", 1, "B")
    assert (claimed.resumable.ended, claimed.sent) == (True, ("done",))
    assert store.session("s", None).state == "ended"


@pytest.mark.parametrize("again", [False, True])
def test_a_store_of_the_first_version_has_resumable_sessions_too(
    location, opened, monkeypatch, again
):
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", schema.STEPS[:1])
        opened(location).apply([AddSession(session("before"))])
    if again:
        opened(location)
    store = opened(location)
    store.apply([*OPENED, said(0, "one")])
    assert store.claim("s", 1, "B").sent == ('"one"',)
    assert store.session("before", None).id == "before"


def test_words_have_their_speakers_and_sessions_their_turns(location, opened, monkeypatch):
    """Of a store of before, too, whose words had none."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", schema.STEPS[:3])
        before = opened(location)
        before.apply([AddSession(session("s")), AddWords("s", (word(0, "old"),))])
        with before._writing() as connection:
            connection.execute(sa.text("ALTER TABLE words DROP COLUMN speaker"))
    store = opened(location)
    store.apply([AddWords("s", (word(1, "one"), word(2, "two")))])
    first, second = StoredTurn(0, 0, 9, 0, 2), StoredTurn(1, 10, 19, 2, 3)
    batch = [
        SetSpeakers("s", ((1, 0), (2, 0))),
        SetSpeakers("s", ((2, 1),)),
        AddTurn("s", first),
        AddTurn("s", second),
    ]
    for _ in range(2):
        store.apply(batch)
    found = store.transcript("s", None)
    assert [one.speaker for one in found.words] == [None, 0, 1]
    assert found.turns == (first, second)
    assert [one.speaker for one in store.since("s", None, 1).words] == [0, 1]
