"""The layers of a session in every store: live, refined, corrected, the best of all; marks."""

from dataclasses import replace
from datetime import timedelta

import pytest
from support.storing import START, session, spoken, word

from voxlive.errors import RequestRefused
from voxlive.store import database, schema
from voxlive.store.contract import (
    AddMark,
    AddRefinement,
    AddSession,
    Correction,
    Refinement,
    SessionFilter,
    SessionMark,
    StoredWord,
    UnknownSession,
)

ALL = SessionFilter(None)
SAID = ["The quick brown fox", "jumps over", "the lazy dog"]


def wanted(model: str = "large", who: str = "ann", minute: int = 0) -> Refinement:
    return Refinement(model, who, START + timedelta(minutes=minute))


def words(*texts: tuple[int, str]) -> list[StoredWord]:
    """Refined words: segments and texts."""
    return [
        StoredWord(n, segment, text, 1600 * n, 1600 * n + 800, 0.5, layer="refined")
        for n, (segment, text) in enumerate(texts)
    ]


BETTER = words((0, "The"), (0, " quiet"), (0, " fox"), (1, " leaps"), (2, " the"), (2, " cat"))


def refine(store, ident: str = "s", spoken_again=BETTER, model: str = "large") -> None:
    store.refine(ident, None, wanted(model))
    assert store.claim_refinement(automatic=False)[0] == ident
    store.end_refinement(ident, spoken_again)


def text_of(store, layer: str, ident: str = "s") -> str:
    return "".join(one.text for one in store.transcript(ident, None).shown(layer)).strip()


@pytest.fixture
def one(store):
    store.apply(spoken("s", SAID))
    return store


def correct(store, first: int, stop: int, text: str) -> None:
    store.patch("s", None, corrections=[Correction(first, stop, text, "ann", START)])


def test_layers_stand_beside_what_was_recognised(one):
    live = one.transcript("s", None)
    with pytest.raises(RequestRefused) as refused:
        live.shown("refined")
    assert refused.value.code == "not_refined"
    assert live.shown() == live.words
    refine(one)
    correct(one, 5, 6, "above")
    after = one.transcript("s", None)
    assert (after.words, after.segments) == (live.words, live.segments)
    assert text_of(one, "live") == "The quick brown fox jumps over the lazy dog"
    assert text_of(one, "corrected") == "The quick brown fox jumps above the lazy dog"
    assert text_of(one, "refined") == "The quiet fox leaps the cat"
    assert text_of(one, "best") == "The quiet fox jumps above the cat"
    assert [(w.segment, w.layer) for w in after.shown()] == [
        *[(0, "refined")] * 3,
        (1, "live"),
        (1, "corrected"),
        *[(2, "refined")] * 2,
    ]
    assert after.refined == tuple(BETTER)


def test_words_that_are_taken_out_are_no_part_of_the_best(one):
    refine(one)
    correct(one, 0, 4, "")
    assert text_of(one, "best") == "leaps the cat"


def test_every_layer_is_found_and_the_best_is_shown(one):
    refine(one)
    correct(one, 8, 9, "horse")
    for looked_for, shown in (
        ("quiet", "The quiet fox"),
        ("quick", "The quick brown fox"),
        ("leaps", "leaps"),
        ("jumps", "jumps over"),
        ("horse", "the lazy horse"),
        ("dog", "the lazy dog"),
        ("cat", "the cat"),
    ):
        [hit] = one.search(looked_for, ALL).hits
        [snippet] = hit.snippets
        assert snippet.text == shown
        assert [snippet.text[a:b] for a, b in snippet.found] == [looked_for]
    refine(one, model="larger", spoken_again=words((1, " hops")))
    assert not one.search("quiet", ALL).hits
    assert one.search("hops", ALL).hits


def test_a_refinement_is_asked_for_once(one):
    first = one.refine("s", None, wanted())
    assert (first.state, first.attempts, first.layer) == ("queued", 0, None)
    assert one.refine("s", None, wanted(minute=5)) == first
    one.apply([AddRefinement("s", wanted("other", who=""))])
    assert one.transcript("s", None).refinement == first
    assert one.claim_refinement(automatic=False) == (
        "s",
        replace(first, state="running", attempts=1),
    )
    assert one.claim_refinement(automatic=True) is None
    assert one.refine("s", None, wanted(minute=6)).state == "running"
    with pytest.raises(RequestRefused) as refused:
        one.refine("s", None, wanted("other"))
    assert refused.value.code == "refining"
    one.end_refinement("s", BETTER)
    done = one.refine("s", None, wanted(minute=7))
    assert (done.state, done.layer, done.model) == ("done", "large", "large")
    again = one.refine("s", None, wanted("other"))
    assert (again.state, again.layer, again.model) == ("queued", "large", "other")
    assert text_of(one, "refined") == "The quiet fox leaps the cat"  # until there is better


def test_a_refinement_that_fails_says_why_and_may_be_asked_for_again(one):
    one.refine("s", None, wanted())
    one.claim_refinement(automatic=False)
    one.end_refinement("s", RequestRefused("no_audio", "it is gone"))
    failed = one.transcript("s", None).refinement
    assert (failed.state, failed.error, failed.message) == ("failed", "no_audio", "it is gone")
    assert one.claim_refinement(automatic=True) is None
    assert one.refine("s", None, wanted(minute=1)).state == "queued"
    one.claim_refinement(automatic=False)
    one.end_refinement("s", None)
    assert one.transcript("s", None).refinement.state == "queued"


def test_a_refinement_outlives_its_server_but_not_for_ever(one, monkeypatch):
    one.refine("s", None, wanted())
    for attempt in (1, 2, 3):
        assert one.claim_refinement(automatic=False)[1].attempts == attempt
        assert one.renew_refinement("s")
        with monkeypatch.context() as patch:
            for module in (database, schema):
                patch.setattr(module, "REFINEMENT_STALE_AFTER", timedelta(0))
            assert one.transcript("s", None).refinement.state == "queued"
        monkeypatch.setattr(database, "REFINEMENT_STALE_AFTER", timedelta(0))
    assert one.claim_refinement(automatic=False) is None
    failed = one.transcript("s", None).refinement
    assert (failed.state, failed.error) == ("failed", "interrupted")


def test_who_asks_comes_before_the_servers_own(store):
    for n, who in enumerate(("", "ann", "", "bob")):
        store.apply(spoken(f"s{n}", ["hello"], minute=n))
        store.apply([AddRefinement(f"s{n}", wanted(who=who, minute=n))])
    assert store.claim_refinement(automatic=False, only="s0") is None
    assert store.claim_refinement(automatic=False, only="s3")[0] == "s3"
    assert store.claim_refinement(automatic=False)[0] == "s1"
    assert store.claim_refinement(automatic=False) is None
    claimed = [store.claim_refinement(automatic=True) for _ in range(3)]
    assert [one and one[0] for one in claimed] == ["s0", "s2", None]


def test_what_cannot_be_refined_is_refused(store):
    store.apply([AddSession(session("running"))])
    store.apply([AddRefinement("gone", wanted())])
    with pytest.raises(UnknownSession):
        store.refine("gone", None, wanted())
    store.apply(spoken("s", SAID))
    with pytest.raises(UnknownSession):
        store.refine("s", frozenset({"bob"}), wanted())


def test_a_session_that_is_not_over_is_not_refined(store):
    now = replace(session("s"))
    store.apply([AddSession(now)])
    with pytest.raises(RequestRefused) as refused:
        store.refine("s", None, wanted())
    assert refused.value.code == "still_running"


def test_a_deleted_session_takes_its_layers_with_it(one):
    one.refine("s", None, wanted())
    one.claim_refinement(automatic=False)
    one.delete("s", None)
    assert not one.renew_refinement("s")
    one.end_refinement("s", BETTER)
    one.apply(spoken("s", SAID))
    assert (one.transcript("s", None).refinement, one.transcript("s", None).refined) == (None, ())
    assert not one.search("quiet", ALL).hits


def test_a_store_of_the_first_version_gets_its_layers(location, opened, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", schema.STEPS[:1])
        before = opened(location)
        patch.setattr(database.schema, "refinements_of", lambda *_: {})
        before.apply(spoken("s", SAID))
        before.close()
    store = opened(location)
    assert (store.stats().version, text_of(store, "live")) == (len(schema.STEPS), " ".join(SAID))
    refine(store)
    assert text_of(store, "best") == "The quiet fox leaps the cat"
    assert store.search("cat", ALL).hits


def test_marks_are_added_changed_and_deleted(one):
    one.apply([AddMark("s", SessionMark(5, "recovered", "", "", START))])
    note = SessionMark(1600, "note", "hello", "ann", START)
    one.patch("s", None, marks=[note, replace(note, at=3200)])
    server, first, second = one.transcript("s", None).marks
    assert [(m.at, m.text) for m in (first, second)] == [(1600, "hello"), (3200, "hello")]
    changed = SessionMark(4800, "topic", "bye", "bob", START + timedelta(days=1), first.id)
    one.patch("s", None, marks=[changed], unmarked=[second.id])
    kept = one.transcript("s", None).marks
    assert [(m.id, m.at, m.kind, m.text, m.who) for m in kept] == [
        (server.id, 5, "recovered", "", ""),
        (first.id, 4800, "topic", "bye", "ann"),
    ]
    for change in (
        {"unmarked": [server.id]},
        {"unmarked": [second.id]},
        {"marks": [replace(note, id=server.id)]},
        {"marks": [replace(note, id=99_999)], "title": "new"},
    ):
        with pytest.raises(RequestRefused, match="no mark"):
            one.patch("s", None, **change)
    assert one.transcript("s", None).marks == kept
    assert one.session("s", None).title is None


def test_marks_are_bounded(one, monkeypatch):
    monkeypatch.setattr(database, "MAX_MARKS", 2)
    note = SessionMark(1600, "note", "hello", "ann", START)
    one.patch("s", None, marks=[note, replace(note, at=3200)])
    with pytest.raises(RequestRefused, match="2 marks"):
        one.patch("s", None, marks=[replace(note, at=4800)])


def test_a_mark_of_another_session_is_not_changed(one):
    one.apply(spoken("other", ["x"], minute=1))
    one.patch("other", None, marks=[SessionMark(1, "note", "mine", "bob", START)])
    [theirs] = one.transcript("other", None).marks
    with pytest.raises(RequestRefused, match="no mark"):
        one.patch("s", None, unmarked=[theirs.id])
    assert one.transcript("other", None).marks == (theirs,)
    assert word(0, "x").layer == "live"
