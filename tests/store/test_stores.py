"""What every store does, SQLite and PostgreSQL alike."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from support.storing import START, session, spoken, word

from voxlive.errors import RequestRefused
from voxlive.store import schema
from voxlive.store.contract import (
    MAX_CORRECTED,
    MAX_CORRECTION,
    MAX_CORRECTIONS,
    MAX_SNIPPET,
    MAX_TITLE,
    AddLanguage,
    AddMark,
    AddName,
    AddSession,
    AddWords,
    Correction,
    KeepAlive,
    SessionFilter,
    SessionMark,
    SessionStore,
    SetState,
    StoredName,
    StoredProfile,
    UnknownSession,
)

ANN = frozenset({"ann"})
BOB = frozenset({"bob"})
ALL = SessionFilter(None)


def ids(page) -> list[str]:
    return [one.id for one in page.sessions]


def found(page) -> list[str]:
    return [hit.session.id for hit in page.hits]


def test_a_session_comes_back_as_it_was_written(store: SessionStore):
    begun = session("s", languages=("en",), name="hall", source="mic")
    words = tuple(
        replace(word(n, text), original=original, source="mic", probability=probability)
        for n, (text, original, probability) in enumerate(
            [("Grüße", None, 0.5), (" 世界", "x", None), (" \U0001f600'", None, 1.0)]
        )
    )
    mark = SessionMark(5, "recovered", "the engine", "", START)
    store.apply([AddSession(begun), AddWords("s", words[:2])])
    store.apply([AddWords("s", words[2:]), AddLanguage("s", "de"), AddLanguage("s", "en")])
    store.apply([AddMark("s", mark), SetState("s", "suspended", 9, START)])
    kept = store.transcript("s", ANN)
    expected = replace(begun, languages=("en", "de"), state="suspended", samples=9, words=3)
    assert kept.session == expected == store.session("s", None)
    assert (kept.words, kept.segments, kept.marks) == (words, (), (mark,))
    assert kept.text == "Grüße 世界 \U0001f600'"


def test_segments_and_the_end_are_kept(store: SessionStore):
    store.apply(spoken("s", ["one two", "three"]))
    kept = store.transcript("s", ANN)
    assert [(one.id, one.first, one.stop) for one in kept.segments] == [(0, 0, 2), (1, 2, 3)]
    assert kept.session.ended_at == START + timedelta(minutes=1)
    assert (kept.session.state, kept.session.samples, kept.session.error) == ("ended", 4800, None)


def test_what_is_applied_twice_is_there_once(store: SessionStore):
    operations = [*spoken("s", ["one two", "three"]), AddLanguage("s", "de")]
    operations.append(AddMark("s", SessionMark(5, "recovered", "", "", START)))
    store.apply(operations)
    once = store.transcript("s", None)
    store.apply(operations[3:])
    store.apply(operations)
    assert store.transcript("s", None) == once
    assert found(store.search("three", ALL)) == ["s"]


def test_all_of_a_batch_is_written_or_nothing(store: SessionStore):
    broken = AddWords("s", (replace(word(0, "x"), start="not a number" * 9),))
    with pytest.raises(Exception, match=r"."):
        store.apply([AddSession(session("s")), broken, SetState("s", "ended", object(), START)])
    assert ids(store.sessions(ALL)) == []


def test_text_that_no_database_takes_is_marked(store: SessionStore):
    store.apply([AddSession(session("s")), AddWords("s", (word(0, "a\0b\ud83dc"),))])
    assert store.transcript("s", None).text == "a\ufffdb?c"


def test_operations_of_a_session_that_is_not_there_are_dropped(store: SessionStore):
    store.apply([AddWords("gone", (word(0, "x"),)), SetState("gone", "ended", 1, START)])
    assert store.stats().sessions == 0


def test_the_newest_session_is_first_and_pages_follow_each_other(store: SessionStore):
    for n in range(7):
        store.apply(spoken(f"s{n}", [f"word number {n}"], minute=n))
    pages, cursor = [], None
    while True:
        page = store.sessions(ALL, 3, cursor)
        pages.append(ids(page))
        store.apply([AddSession(session(f"later{len(pages)}", minute=60))])
        if (cursor := page.next) is None:
            break
    assert pages == [["s6", "s5", "s4"], ["s3", "s2", "s1"], ["s0"]]
    assert store.sessions(ALL).sessions[-1].preview == "word number 0"


@pytest.mark.parametrize("cursor", ["x", "-1", "9" * 40, "1;", "¹"])
def test_a_cursor_of_no_page_is_refused(store: SessionStore, cursor):
    for read in (store.sessions, lambda *more: store.search("x", *more)):
        with pytest.raises(RequestRefused, match="cursor"):
            read(ALL, 3, cursor)


def test_lists_and_searches_are_filtered(store: SessionStore):
    store.apply(spoken("a", ["hello"], minute=0, languages=("en",)))
    store.apply(spoken("b", ["hello"], "bob", minute=10, languages=("de", "en")))
    store.apply(spoken("c", ["hello"], minute=20, title="Hall"))
    for chosen, expected in [
        (SessionFilter(ANN), ["c", "a"]),
        (SessionFilter(BOB), ["b"]),
        (SessionFilter(ANN | BOB), ["c", "b", "a"]),
        (SessionFilter(frozenset()), []),
        (SessionFilter(None, model="whisper"), ["c", "b", "a"]),
        (SessionFilter(None, model="other"), []),
        (SessionFilter(None, language="en"), ["b", "a"]),
        (SessionFilter(None, language="e"), []),
        (SessionFilter(None, language="%"), []),
        (SessionFilter(None, since=START + timedelta(minutes=10)), ["c", "b"]),
        (SessionFilter(None, before=START + timedelta(minutes=10)), ["a"]),
        (SessionFilter(None, titled=True), ["c"]),
        (SessionFilter(ANN, titled=False), ["a"]),
    ]:
        assert ids(store.sessions(chosen)) == expected
        assert found(store.search("hello", chosen)) == expected


TEXTS = {
    "english": "The Quick brown-fox doesn't jump",
    "french": "Le café est fermé",
    "chinese": "我们明天开会讨论预算",
    "japanese": "東京タワーへ行きました",
    "thai": "สวัสดีครับทุกคน",
    "korean": "회의를 시작합니다",
    "mixed": "GPT会議 is at 10",
    "hindi": "नमस्ते दुनिया",
}


SEARCHES = [
    ("quick", ["english"]),
    ("QUICK the", ["english"]),
    ("fox", ["english"]),
    ('"quick brown"', ["english"]),
    ('"brown quick"', []),
    ('"quick brown', ["english"]),
    ("quic", []),
    ("doesn't", ["english"]),
    ("cafe", ["french"]),
    ("CAFÉ fermé", ["french"]),
    ("明天", ["chinese"]),
    ("开会讨论", ["chinese"]),
    ("会讨", ["chinese"]),
    ("预", ["chinese"]),
    ("算", ["chinese"]),
    ("天明", []),
    ("タワー", ["japanese"]),
    ("สวัสดี", ["thai"]),
    ("회의", ["korean"]),
    ("gpt", ["mixed"]),
    ("会議", ["mixed"]),
    ("gpt会議", ["mixed"]),
    ("会", ["mixed", "chinese"]),
    ("नमस्ते", ["hindi"]),
    ("quick 明天", []),
    ("AND OR NOT quick", []),
    ("quick*", ["english"]),
    ("terms:quick", []),
]


def test_search_finds_words_and_parts_without_spaces(store: SessionStore):
    for ident, said in TEXTS.items():
        store.apply(spoken(ident, [said]))
    for text, expected in SEARCHES:
        page = store.search(text, SessionFilter(ANN))
        assert found(page) == expected, text
        assert all(hit.snippets[0].found for hit in page.hits), text


def test_a_search_for_no_word_is_refused(store: SessionStore):
    for text in ("", "  ", '""', "...", "*", "'\"; --"):
        with pytest.raises(RequestRefused) as refused:
            store.search(text, ALL)
        assert (refused.value.code, refused.value.param) == ("bad_parameter", "q"), text


def test_a_snippet_is_around_what_was_found(store: SessionStore):
    long = " ".join(f"word{n}" for n in range(300))
    store.apply(spoken("s", ["nothing here", f"{long} <b>needle</b> {long}"]))
    (hit,) = store.search("needle", ALL).hits
    (snippet,) = hit.snippets
    assert len(snippet.text) <= MAX_SNIPPET
    assert [snippet.text[start:end] for start, end in snippet.found] == ["needle"]
    assert "<b>needle</b> word0 word1" in snippet.text
    assert (snippet.segment, snippet.start) == (1, 2 * 1600)


def test_a_session_with_many_finds_is_one_hit(store: SessionStore):
    store.apply(spoken("few", ["the end"]))
    store.apply(spoken("many", ["the word"] * 900))
    store.apply(spoken("new", ["the start"]))
    page = store.search("the", ALL, 2)
    assert [(hit.session.id, len(hit.snippets)) for hit in page.hits] == [("new", 1), ("many", 3)]
    page = store.search("the", ALL, 2, page.next)
    assert (found(page), page.next) == (["few"], None)


def test_a_search_that_looks_far_for_little_goes_on_where_it_stopped(store: SessionStore):
    store.apply(spoken("mine", ["the word"], languages=("de",)))
    for n in range(3):
        store.apply(spoken(f"other{n}", ["the word"] * 500))
    chosen, seen, cursor = SessionFilter(None, language="de"), [], None
    while True:
        page = store.search("the", chosen, 50, cursor)
        seen += found(page)
        if (cursor := page.next) is None:
            break
    assert seen == ["mine"]


def test_a_reader_goes_on_from_any_word(store: SessionStore):
    store.apply(spoken("s", ["one two", "three four five"]))
    part = store.since("s", ANN, 2, 2)
    assert [one.text for one in part.words] == [" three", " four"]
    assert [one.id for one in part.segments] == [0]
    part = store.since("s", ANN, 4)
    assert ([one.number for one in part.words], [one.id for one in part.segments]) == ([4], [1])
    part = store.since("s", ANN, 5)
    assert (part.words, [one.id for one in part.segments]) == ((), [1])


def test_a_title_is_set_found_and_removed(store: SessionStore):
    store.apply(spoken("s", ["hello"]))
    assert store.patch("s", ANN, title="  Budget talk ").title == "Budget talk"
    (hit,) = store.search("budget", ALL).hits
    assert (hit.snippets[0].segment, hit.snippets[0].text) == (None, "Budget talk")
    assert store.patch("s", ANN, title="").title is None
    assert found(store.search("budget", ALL)) == []


def test_corrections_stand_beside_what_was_recognised_and_are_found(store: SessionStore):
    store.apply(spoken("s", ["the quick brown fox", "runs"]))
    made = Correction(1, 3, "red", "ann", START)
    store.patch("s", ANN, corrections=[made])
    kept = store.transcript("s", ANN)
    assert kept.corrections == (made,)
    assert (kept.text, "".join(one.text for one in kept.corrected())) == (
        "the quick brown fox runs",
        "the red fox runs",
    )
    for text, shown in (("red", "the red fox"), ("quick", "the quick brown fox")):
        (hit,) = store.search(text, ALL).hits
        assert hit.snippets[0].text == shown
    mark = SessionMark(3, "note", "look here", "ann", START)
    store.patch("s", ANN, marks=[mark])
    assert store.transcript("s", ANN).marks == (mark,)


@pytest.mark.parametrize(
    "change",
    [
        {"title": "x" * (MAX_TITLE + 1)},
        {"corrections": [Correction(0, 1, "x" * (MAX_CORRECTION + 1), "ann", START)]},
        {"corrections": [Correction(0, 1, "fine", "ann", START), Correction(0, 3, "", "", START)]},
        {"corrections": [Correction(-1, 1, "x", "ann", START)]},
        {"corrections": [Correction(1, 1, "x", "ann", START)]},
        {"marks": [SessionMark(0, "note", "x" * (MAX_CORRECTION + 1), "ann", START)]},
    ],
)
def test_a_wrong_change_changes_nothing(store: SessionStore, change):
    store.apply(spoken("s", ["one two"]))
    before = store.transcript("s", ANN)
    with pytest.raises(RequestRefused) as refused:
        store.patch("s", ANN, **{"title": "new", **change})
    assert refused.value.code == "invalid_value"
    assert store.transcript("s", ANN) == before


def test_a_session_has_a_bounded_number_of_corrections(store: SessionStore):
    store.apply(spoken("s", ["one two"]))
    made = Correction(0, 1, "x" * MAX_CORRECTION, "ann", START)
    for corrections, fine in (
        ([made] * (MAX_CORRECTED // MAX_CORRECTION), True),
        ([made], False),
        ([replace(made, text="")] * (MAX_CORRECTIONS - MAX_CORRECTED // MAX_CORRECTION), True),
        ([replace(made, text="")], False),
    ):
        if fine:
            store.patch("s", ANN, corrections=corrections)
            continue
        with pytest.raises(RequestRefused, match="corrections"):
            store.patch("s", ANN, corrections=corrections)


def test_a_session_of_another_key_is_not_there(store: SessionStore):
    store.apply(spoken("s", ["secret"]))
    for use in (
        lambda: store.session("s", BOB),
        lambda: store.transcript("s", BOB),
        lambda: store.since("s", BOB, 0),
        lambda: store.patch("s", BOB, title="mine"),
        lambda: store.delete("s", BOB),
        lambda: store.delete("s", frozenset()),
        lambda: store.session("none", None),
    ):
        with pytest.raises(UnknownSession):
            use()
    assert store.sessions(SessionFilter(BOB)).sessions == ()
    assert store.search("secret", SessionFilter(BOB)).hits == ()
    assert store.transcript("s", ANN).text == "secret"


def test_a_recognised_name_gives_way_to_one_that_people_have_said(store: SessionStore):
    store.apply(spoken("s", ["hello"]))
    store.patch("s", ANN, names=[StoredName(0, "Robert"), StoredName(2, "Eve")])
    by_voice = [StoredName(0, "Bob"), StoredName(1, "Cleo"), StoredName(0, "Bob", "hall")]
    store.apply([AddName("s", one) for one in by_voice])
    store.patch("s", ANN, names=[StoredName(2, "")])
    assert store.transcript("s", ANN).names == (
        StoredName(0, "Robert"),
        StoredName(1, "Cleo"),
        StoredName(0, "Bob", "hall"),
    )


def test_a_profile_is_kept_once_for_its_key_and_deleted_by_it(store: SessionStore):
    first, other = (StoredProfile(name, name, START, f"sealed {name}") for name in ("ann", "bob"))
    newer = replace(first, made_at=START + timedelta(days=1), sealed="sealed anew")
    for one in (first, other, newer):
        store.keep_profile(one)
    assert store.profiles(ANN) == (newer,)
    assert store.profiles(None) == (other, newer)
    assert store.profiles(frozenset()) == ()
    assert not store.delete_profile("ann", BOB)
    assert store.delete_profile("ann", ANN)
    assert not store.delete_profile("ann", ANN)
    assert store.profiles(None) == (other,)


def test_a_deleted_session_is_gone_and_written_no_more(store: SessionStore):
    store.apply(spoken("s", ["secret words"]))
    store.apply(spoken("other", ["secret too"]))
    store.patch("s", ANN, title="secret", corrections=[Correction(0, 1, "x", "ann", START)])
    store.delete("s", ANN)
    store.apply([AddWords("s", (word(2, "late"),))])
    assert found(store.search("secret", ALL)) == ids(store.sessions(ALL)) == ["other"]
    with pytest.raises(UnknownSession):
        store.session("s", None)
    stats = store.stats()
    assert (stats.sessions, stats.words, stats.version) == (1, 2, len(schema.STEPS))


def test_the_sweep_takes_what_ended_before(store: SessionStore):
    for n in range(150):
        store.apply(spoken(f"old{n}", ["old words"]))
    store.apply(spoken("new", ["new words"], minute=60))
    store.apply([AddSession(session("running"))])
    assert store.sweep(START + timedelta(minutes=30)) == 150
    assert ids(store.sessions(ALL)) == ["running", "new"]
    assert store.sweep(datetime.now(UTC)) == 1
    assert store.sweep(datetime.now(UTC) + timedelta(days=2)) == 1


def test_a_session_that_nobody_writes_to_was_interrupted(store: SessionStore, monkeypatch):
    for ident in ("alive", "dead", "over"):
        store.apply([AddSession(session(ident)), AddWords(ident, (word(0, "x"),))])
    store.apply([SetState("over", "ended", 5, START, "idle")])
    monkeypatch.setattr(schema, "INTERRUPTED_AFTER", timedelta(0))
    dead = store.session("dead", None)
    assert (dead.state, dead.error) == ("ended", "interrupted")
    assert dead.ended_at >= START
    monkeypatch.setattr(schema, "INTERRUPTED_AFTER", timedelta(seconds=0.3))
    time.sleep(0.4)
    store.apply([KeepAlive(("alive", "over", "gone"))])
    errors = {one.id: one.error for one in store.sessions(ALL).sessions}
    assert errors == {"alive": None, "dead": "interrupted", "over": "idle"}
    store.apply([SetState("dead", "running", 9, START)])
    assert store.session("dead", None).state == "running"


def test_another_connection_sees_what_is_written(store: SessionStore, location, opened):
    other = opened(location)
    store.apply(spoken("s", ["one"]))
    other.apply(spoken("t", ["two"]))
    assert ids(store.sessions(ALL)) == ids(other.sessions(ALL)) == ["t", "s"]
    assert store.stats().size > 0
    assert "store" in store.location or "test_" in store.location
