"""Stored sessions over HTTP: what there is to read, change and follow, in a store of SQLite."""

import asyncio
import io
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import docx
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from support.asgi import HOST, running
from support.keys import bearer
from support.server import serving
from support.storing import START, session, spoken, word

from voxlive.errors import RequestRefused
from voxlive.runners.outputs.formats import EXPORTS
from voxlive.speakers.labels import SpeakerNamed
from voxlive.store.backends import open_store
from voxlive.store.contract import (
    MAX_CORRECTION,
    MAX_TITLE,
    AddMark,
    AddSession,
    AddWords,
    CloseSegment,
    SessionFilter,
    SessionMark,
    SessionStore,
    SetSpeakers,
    SetState,
    StoredSegment,
    StoredWord,
    TranscriptPart,
)
from voxlive.web.access.access import ANYONE
from voxlive.web.access.keys import Key, digest
from voxlive.web.access.middleware import AuditLog
from voxlive.web.config import ConfigError
from voxlive.web.rest import history
from voxlive.web.rest.history import EventPlace

SAID = ["The quick brown fox", "jumps over"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SessionStore]:
    opened = open_store(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def one(store: SessionStore) -> str:
    """The id of a session of two segments, without a title."""
    store.apply(spoken("s1", SAID, ANYONE, languages=("en",), name="hall"))
    return "s1"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def events(text: str) -> list[tuple[str, str, dict]]:
    """Server-sent events as (event, id, data)."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line[0] != ":")
        if fields:
            found.append((fields["event"], fields.get("id", ""), json.loads(fields["data"])))
    return found


async def test_sessions_are_listed_the_newest_first_in_pages(store):
    for n in range(5):
        store.apply(spoken(f"s{n}", [f"talk number {n}"], ANYONE, minute=n))
    async with running(store=store) as server:
        seen, cursor = [], {}
        while True:
            page = await server.http.get("/v1/sessions", params={"limit": 2, **cursor})
            assert page.headers["cache-control"] == "no-store"
            seen.append([one["id"] for one in page.json()["sessions"]])
            if page.json()["next"] is None:
                break
            cursor = {"cursor": page.json()["next"]}
        assert seen == [["s4", "s3"], ["s2", "s1"], ["s0"]]
        [first] = (await server.http.get("/v1/sessions?limit=1")).json()["sessions"]
    assert first == {
        "id": "s4",
        "owner": ANYONE,
        "title": None,
        "name": None,
        "source": None,
        "state": "ended",
        "started_at": "2026-03-01T12:04:00+00:00",
        "ended_at": "2026-03-01T12:05:00+00:00",
        "duration": 0.3,
        "protocol": "live",
        "path": "/v1/live",
        "model": "whisper",
        "languages": [],
        "error": None,
        "word_count": 3,
        "preview": "talk number 4",
        "audio": False,
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["b", "a"]),
        ({"model": "whisper"}, ["b", "a"]),
        ({"model": "other"}, []),
        ({"language": "de"}, ["b"]),
        ({"since": "2026-03-01T12:05:00Z"}, ["b"]),
        ({"since": "2026-03-01T13:05:00+01:00"}, ["b"]),
        ({"before": "2026-03-01T12:05"}, ["a"]),
        ({"before": "2026-03-01"}, []),
        ({"titled": "true"}, ["a"]),
        ({"titled": "0"}, ["b"]),
        ({"owner": ANYONE}, ["b", "a"]),
        ({"owner": "somebody"}, []),
        ({"q": "fox"}, ["a"]),
        ({"q": '"good day"', "language": "de"}, ["b"]),
        ({"q": "fox day"}, []),
    ],
)
async def test_lists_and_searches_are_filtered(store, query, expected):
    store.apply(spoken("a", SAID, ANYONE, title="Hall"))
    store.apply(spoken("b", ["Good day"], ANYONE, minute=10, languages=("de",)))
    async with running(store=store) as server:
        found = (await server.http.get("/v1/sessions", params=query)).json()
    assert [one["id"] for one in found["sessions"]] == expected
    assert all(("snippets" in one) == ("q" in query) for one in found["sessions"])


async def test_a_search_shows_where(one, store):
    async with running(store=store) as server:
        [hit] = (await server.http.get("/v1/sessions?q=fox+QUICK")).json()["sessions"]
    assert hit["snippets"] == [
        {
            "segment": 0,
            "start": 0.0,
            "end": 0.394,
            "text": "The quick brown fox",
            "found": [[4, 9], [16, 19]],
        }
    ]


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("?limit=0", "limit"),
        ("?limit=201", "limit"),
        ("?limit=many", "limit"),
        ("?cursor=x", "cursor"),
        ("?since=yesterday", "since"),
        ("?before=0001-01-01T00:00:00%2B14:00", "before"),
        ("?titled=maybe", "titled"),
        ("?q=", "q"),
        ("?q=...", "q"),
        (f"?q={'x' * 201}", "q"),
        ("/s1?original=maybe", "original"),
        ("/s1.txt?original=", "original"),
        ("/s1?layer=", "layer"),
        ("/s1.srt?layer=worst", "layer"),
        ("/s1/events?from=-1", "from"),
        ("/s1/events?from=1.", "from"),
        ("/s1/events?from=9999999999", "from"),
    ],
)
async def test_a_parameter_that_cannot_be_is_named(one, store, path, param):
    async with running(store=store) as server:
        answer = await server.http.get(f"/v1/sessions{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_parameter")
    assert answer.json()["error"]["param"] == param


async def test_a_session_whole(one, store):
    store.apply([AddMark(one, SessionMark(1600, "recovered", "the engine", "", START))])
    async with running(store=store) as server:
        change = {"corrections": [{"first": 1, "stop": 3, "text": " red "}]}
        assert (await server.http.patch("/v1/sessions/s1", json=change)).status_code == 200
        found = (await server.http.get("/v1/sessions/s1")).json()
        original = (await server.http.get("/v1/sessions/s1?original=true")).json()
    assert (found["text"], original["text"]) == (
        "The red fox jumps over",
        "The quick brown fox jumps over",
    )
    assert [one["text"] for one in found["words"]] == ["The", " red", " fox", " jumps", " over"]
    assert found["words"][1] == {
        "number": 1,
        "segment": 0,
        "text": " red",
        "start": 0.1,
        "end": 0.294,
        "probability": None,
        "original": None,
        "source": None,
        "layer": "corrected",
        "speaker": None,
    }
    assert found["segments"] == original["segments"]
    assert found["segments"][1] == {"id": 1, "start": 0.4, "end": 0.594, "first": 4, "stop": 6}
    [made] = found["corrections"]
    assert made.pop("made_at") > "2026"
    assert made == {"first": 1, "stop": 3, "text": "red", "who": ANYONE}
    [mark] = found["marks"]
    assert (mark["at"], mark["kind"], mark["text"]) == (0.1, "recovered", "the engine")


async def test_a_session_as_files(one, store):
    async with running(store=store) as server:
        change = {"title": "Foxes", "corrections": [{"first": 3, "stop": 4, "text": "cat"}]}
        await server.http.patch("/v1/sessions/s1", json=change)
        files = {name: await server.http.get(f"/v1/sessions/s1.{name}") for name in EXPORTS}
        original = await server.http.get("/v1/sessions/s1.txt", params={"original": "true"})
    for name, file in files.items():
        assert file.status_code == 200
        assert file.headers["content-disposition"] == (
            f"attachment; filename=\"Foxes.{name}\"; filename*=UTF-8''Foxes.{name}"
        )
        assert file.headers["content-type"].startswith(EXPORTS[name].media_type)
        assert file.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in file.headers["content-security-policy"]
    assert files["txt"].text == "The quick brown cat\n\njumps over\n"
    assert original.text == "The quick brown fox\n\njumps over\n"
    assert files["srt"].text.startswith("1\n00:00:00,000 --> ")
    assert files["vtt"].text.startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert "quick brown cat" in files["vtt"].text
    verbose = files["json"].json()
    assert [one["text"] for one in verbose["segments"]] == ["The quick brown cat", "jumps over"]
    assert (verbose["language"], len(verbose["words"]), verbose["duration"]) == ("en", 6, 0.6)
    assert files["md"].text == (
        "# Foxes\n\n- Began: 2026-03-01 12:00 UTC\n- Length: 00:00:00\n- Language: en\n"
        "- Model: whisper\n\n**00:00:00** The quick brown cat\n\n**00:00:00** jumps over\n"
    )
    document = docx.Document(io.BytesIO(files["docx"].content))
    assert [one.text for one in document.paragraphs] == [
        "Foxes",
        "Began: 2026-03-01 12:00 UTC",
        "Length: 00:00:00",
        "Language: en",
        "Model: whisper",
        "00:00:00 The quick brown cat",
        "00:00:00 jumps over",
    ]


async def test_words_of_an_open_segment_are_in_every_file(store):
    store.apply([AddSession(session("s", ANYONE)), AddWords("s", (word(0, "Still"),))])
    async with running(store=store) as server:
        for name in EXPORTS:
            file = await server.http.get(f"/v1/sessions/s.{name}")
            text = file.text
            if name == "docx":
                parts = docx.Document(io.BytesIO(file.content)).paragraphs
                text = "\n".join(part.text for part in parts)
            assert "Still" in text, name


async def test_a_session_without_words_is_a_file_too(store):
    store.apply([AddSession(session("s", ANYONE))])
    async with running(store=store) as server:
        for name in EXPORTS:
            assert (await server.http.get(f"/v1/sessions/s.{name}")).status_code == 200


async def test_a_session_that_is_too_long_is_read_in_parts(one, store, monkeypatch):
    monkeypatch.setattr(history, "MAX_WORDS", 5)
    async with running(store=store) as server:
        answer = await server.http.get("/v1/sessions/s1.docx")
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_big")
        assert "events" in answer.json()["error"]["message"]
        assert (await server.http.get("/v1/sessions/s1/events")).status_code == 200


async def test_title_and_corrections_are_changed(one, store):
    async with running(store=store) as server:
        changed = await server.http.patch("/v1/sessions/s1", json={"title": "  Fox\u200d talk "})
        assert (changed.status_code, changed.json()["title"]) == (200, "Fox\u200d talk")
        again = {"corrections": [{"first": 0, "stop": 1, "text": "A"}]}
        changed = await server.http.patch("/v1/sessions/s1", json=again)
        assert changed.json()["title"] == "Fox\u200d talk"
        changed = await server.http.patch("/v1/sessions/s1", json={"title": None})
        assert changed.json()["title"] is None
    kept = store.transcript("s1", None)
    assert kept.text == "The quick brown fox jumps over"
    assert [(one.first, one.text, one.who) for one in kept.corrections] == [(0, "A", ANYONE)]


async def test_speakers_get_names_for_readers_files_and_history(one, store):
    store.apply([SetSpeakers("s1", ((0, 0), (1, 0), (2, 1), (3, 1)))])
    async with running(store=store) as server:
        reader = server.feeds.open("s1", None, "/v1/live", ANYONE).read()
        await anext(reader)
        both = [{"speaker": 1, "name": "Anna <A>"}, {"speaker": 0, "name": "x"}]
        store.apply([SetState("s1", "running", 0, datetime.now(UTC))])
        assert (
            await server.http.patch("/v1/sessions/s1", json={"speakers": both})
        ).status_code == 200
        named = [await anext(reader), await anext(reader)]
        assert named == [SpeakerNamed(1, "Anna <A>"), SpeakerNamed(0, "x")]
        back = {"speakers": [{"speaker": 0, "name": None}]}
        assert (await server.http.patch("/v1/sessions/s1", json=back)).status_code == 200
        assert await anext(reader) == SpeakerNamed(0, "")
        found = (await server.http.get("/v1/sessions/s1")).json()
        assert found["speakers"] == [{"speaker": 1, "name": "Anna <A>", "source": None}]
        assert [word["speaker"] for word in found["words"]][:4] == [0, 0, 1, 1]
        file = (await server.http.get("/v1/sessions/s1.vtt")).text
        assert re.findall("<v (.*?)>", file) == ["Speaker 1", "Anna &lt;A&gt;"]
        assert "Anna &lt;A&gt;**" in (await server.http.get("/v1/sessions/s1.md")).text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"speakers": {}},
        {"speakers": [{"speaker": 1}]},
        {"speakers": [{"speaker": 20, "name": "x"}]},
        {"speakers": [{"speaker": True, "name": "x"}]},
        {"speakers": [{"speaker": 0, "name": "x" * 65}]},
        {"speakers": [{"speaker": 0, "name": "two\nlines"}]},
        {"speakers": [{"speaker": 0, "name": "x", "voice": "y"}]},
        {"titel": "x"},
        {"title": 5},
        {"title": "x" * (MAX_TITLE + 1)},
        {"title": "two\nlines"},
        {"title": "bell\a"},
        {"title": "half \ud800"},
        {"title": "line\u2028"},
        {"corrections": {}},
        {"corrections": []},
        {"corrections": ["x"]},
        {"corrections": [{"first": 0, "stop": 1}]},
        {"corrections": [{"first": 0, "stop": 1, "text": "x", "who": "the boss"}]},
        {"corrections": [{"first": 1, "stop": 1, "text": "x"}]},
        {"corrections": [{"first": True, "stop": 2, "text": "x"}]},
        {"corrections": [{"first": -1, "stop": 2, "text": "x"}]},
        {"corrections": [{"first": 0, "stop": 2**70, "text": "x"}]},
        {"corrections": [{"first": 0, "stop": 2**31 - 1, "text": "x"}]},
        {"corrections": [{"first": 0, "stop": 7, "text": "x"}]},
        {"corrections": [{"first": 0, "stop": 1, "text": "x" * (MAX_CORRECTION + 1)}]},
        {"corrections": [{"first": 0, "stop": 1, "text": "\0"}]},
        {"corrections": [{"first": 0, "stop": 1, "text": "x"}] * 1001},
        {"marks": {}},
        {"marks": ["x"]},
        {"marks": [{}]},
        {"marks": [{"at": -1}]},
        {"marks": [{"at": "1"}]},
        {"marks": [{"at": 1e300}]},
        {"marks": [{"at": 1, "who": "the boss"}]},
        {"marks": [{"at": 1, "kind": "x" * 41}]},
        {"marks": [{"at": 1, "text": "two\nlines"}]},
        {"marks": [{"at": 1, "text": "x" * (MAX_CORRECTION + 1)}]},
        {"marks": [{"id": 7, "at": 1}]},
        {"marks": [{"id": 7, "delete": True}]},
        {"marks": [{"delete": True}]},
        {"marks": [{"id": 7, "at": 1, "delete": True}]},
        {"marks": [{"id": True, "delete": True}]},
        {"marks": [{"id": 2**64, "at": 1}]},
        {"marks": [{"at": 1}] * 1001},
        {"title": "new", "corrections": [{"first": 9, "stop": 10, "text": "x"}]},
    ],
)
async def test_a_wrong_change_changes_nothing(one, store, body):
    before = store.transcript("s1", None)
    async with running(store=store) as server:
        answer = await server.http.patch("/v1/sessions/s1", content=json.dumps(body))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
    assert store.transcript("s1", None) == before


async def test_a_change_is_a_json_object_of_bounded_size(one, store):
    async with running(store=store) as server:
        for body, status in ((b"{", 400), (b"[]", 400), (b" " * 1_000_001, 413)):
            answer = await server.http.patch("/v1/sessions/s1", content=body)
            assert answer.status_code == status


async def test_a_deleted_session_is_gone(one, store):
    async with running(store=store) as server:
        gone = await server.http.delete("/v1/sessions/s1")
        assert (gone.status_code, gone.content) == (204, b"")
        paths = ("", ".txt", "/events", "/audio")
        for method, path in (*(("GET", path) for path in paths), ("DELETE", "")):
            answer = await server.http.request(method, f"/v1/sessions/s1{path}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_session")
        assert (await server.http.get("/v1/sessions")).json()["sessions"] == []


async def test_a_server_without_a_store_says_how_to_have_one():
    async with running() as server:
        for method, path in (("GET", ""), ("GET", "/s"), ("PATCH", "/s"), ("DELETE", "/s")):
            answer = await server.http.request(method, f"/v1/sessions{path}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (501, "no_store")
            assert "--store" in answer.json()["error"]["message"]


# Events.


async def test_events_of_a_session_from_the_start(one, store):
    async with running(store=store) as server:
        answer = await server.http.get("/v1/sessions/s1/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    (about, *read, done) = events(answer.text)
    assert (about[0], about[2]["id"], done[0]) == ("session", "s1", "done")
    assert [(kind, place) for kind, place, _ in read] == [
        ("words", "4"),
        ("segment", "4.0"),
        ("words", "6.0"),
        ("segment", "6.1"),
    ]
    words = [one for kind, _, data in read if kind == "words" for one in data["words"]]
    assert "".join(one["text"] for one in words) == "The quick brown fox jumps over"
    assert [one["number"] for one in words] == list(range(6))


async def test_a_reader_goes_on_behind_every_event(one, store):
    async with running(store=store) as server:
        (_, *whole, _) = events((await server.http.get("/v1/sessions/s1/events")).text)
        for number, (_, place, _) in enumerate(whole, 1):
            rest = await server.http.get("/v1/sessions/s1/events", headers={"last-event-id": place})
            assert events(rest.text)[1:-1] == whole[number:]
        part = await server.http.get("/v1/sessions/s1/events", params={"from": "5"})
    assert [one["text"] for _, _, data in events(part.text) for one in data.get("words", [])] == [
        " over"
    ]


segmented = st.lists(st.integers(1, 4), min_size=1, max_size=6)


@given(segmented, st.data())
def test_words_and_segments_come_once_however_they_are_cut(lengths, data):
    """The store answers with any number of words, and readers drop out anywhere."""
    words, closed = [], []
    for ident, length in enumerate(lengths):
        first = len(words)
        words += [word(first + n, " w", ident) for n in range(length)]
        closed.append(StoredSegment(ident, first, first + length, first, first + length))
    place, seen = EventPlace(0), []
    for _ in range(200):
        limit = data.draw(st.integers(1, 5))
        found = [one for one in words if one.number >= place.number][:limit]
        stop = found[-1].number + 1 if found else place.number
        ended = [one for one in closed if place.number <= one.stop <= stop]
        part = TranscriptPart(session("s"), tuple(found), tuple(ended))
        for kind, ident, body in events("".join(place.read(part))):
            if kind == "words":
                seen += [one["number"] for one in body["words"]]
            else:
                seen.append(body["id"] + 0.5)
            if data.draw(st.booleans()):
                place = EventPlace(*history.parse_place(ident))
                break
        if place.number == len(words) and place.segment == len(closed) - 1:
            break
    assert [one for one in seen if one == int(one)] == list(range(len(words)))
    assert [one - 0.5 for one in seen if one != int(one)] == list(range(len(closed)))


async def test_a_running_session_is_followed_to_its_end(store):
    store.apply([AddSession(session("s", ANYONE)), AddWords("s", (word(0, "One"),))])
    async with running(store=store) as server:
        reading = asyncio.create_task(server.http.get("/v1/sessions/s/events"))
        await asyncio.sleep(0.7)
        store.apply([AddWords("s", (word(1, " two"),))])
        store.apply([CloseSegment("s", StoredSegment(0, 0, 3100, 0, 2), 3200)])
        store.apply([SetState("s", "ended", 3200, START, "idle")])
        (_, *read, done) = events((await reading).text)
    assert [kind for kind, _, _ in read][-1] == "segment"
    words = [one["text"] for kind, _, data in read if kind == "words" for one in data["words"]]
    assert (words, done[2]) == (["One", " two"], {"error": "idle"})


async def test_a_request_for_the_head_of_events_does_not_wait_for_the_end(store):
    store.apply([AddSession(session("s", ANYONE))])
    async with running(store=store) as server:
        answer = await server.http.head("/v1/sessions/s/events")
    assert answer.headers["content-type"] == "text/event-stream"


async def test_readers_of_a_session_that_is_deleted_are_told(store):
    store.apply([AddSession(session("s", ANYONE))])
    async with running(store=store) as server:
        reading = asyncio.create_task(server.http.get("/v1/sessions/s/events"))
        await asyncio.sleep(0.3)
        store.delete("s", None)
        (_, failed) = events((await reading).text)
    assert (failed[0], failed[2]["code"]) == ("failed", "unknown_session")


async def test_readers_are_bounded_and_end_with_the_server(store):
    store.apply([AddSession(session("s", ANYONE))])
    closing: list[bool] = []
    audit = AuditLog()
    endpoints = history.HistoryEndpoints(store, audit, lambda: bool(closing))
    grant = SimpleNamespace(name="ann", readable=None)
    bob = SimpleNamespace(name="bob", readable=None)
    readers = []

    async def follow(who) -> None:
        reader = endpoints._follow(store, who, "s", 0, -1)
        assert "event: session" in await anext(reader)
        readers.append(reader)

    for _ in range(history.MAX_FOLLOWERS // 2):
        await follow(grant)
    with pytest.raises(RequestRefused) as refused:
        await follow(grant)
    assert (refused.value.code, refused.value.status) == ("too_many_readers", 503)
    await follow(bob)
    await readers[0].aclose()
    await follow(grant)
    closing.append(True)
    for reader in readers[1:]:
        assert [event async for event in reader] == []
    assert not endpoints._followers.total()


def test_readers_come_and_go_and_end_with_a_real_server(store, tmp_path):
    store.apply([AddSession(session("s", ANYONE)), AddWords("s", (word(0, "One"),))])
    with serving("--store", str(tmp_path / "store")) as server, httpx.Client(timeout=60) as http:
        path = f"{server.url}/v1/sessions/s/events"
        for _ in range(history.MAX_FOLLOWERS + 1):
            with http.stream("GET", path) as answer:
                assert answer.status_code == 200
                assert next(answer.iter_lines()) == "event: session"
        with http.stream("GET", path) as answer:
            read = answer.iter_lines()
            while '"One"' not in next(read):
                pass
            server.process.terminate()
            assert "done" not in "".join(read)  # so that it comes back: the session goes on
        assert server.process.wait(60) == 0


async def test_marks_are_added_changed_and_deleted(one, store):
    async with running(store=store) as server:

        async def patch(*marks: dict) -> list[dict]:
            answer = await server.http.patch("/v1/sessions/s1", json={"marks": list(marks)})
            assert answer.status_code == 200
            return (await server.http.get("/v1/sessions/s1")).json()["marks"]

        [first, second] = await patch({"at": 0.1, "text": "here"}, {"at": 0.2, "kind": "topic"})
        assert (first["at"], first["kind"], first["text"]) == (0.1, "note", "here")
        assert (second["at"], second["kind"], second["who"]) == (0.2, "topic", ANYONE)
        [changed] = await patch(
            {"id": first["id"], "at": 0.3, "text": "there"}, {"id": second["id"], "delete": True}
        )
        assert (changed["id"], changed["at"], changed["text"]) == (first["id"], 0.3, "there")


# Layers.


async def test_a_session_is_queued_for_refining_and_shown_by_layers(one, store):
    give_audio(store, one)
    better = [StoredWord(n, n, text, 0, 800, layer="refined") for n, text in enumerate(["A", " b"])]
    async with running(store=store) as server:
        for layer, code in (("refined", "not_refined"), ("worse", "bad_parameter")):
            answer = await server.http.get(f"/v1/sessions/s1?layer={layer}")
            assert answer.json()["error"]["code"] == code
        assert (await server.http.get("/v1/sessions/s1")).json()["refinement"] is None
        for _ in range(2):
            asked = await server.http.post("/v1/sessions/s1/refine", json={})
            assert (asked.status_code, asked.json()["state"]) == (202, "queued")
        claimed = store.claim_refinement(automatic=False)
        assert claimed is not None
        assert claimed[1].who == ANYONE
        assert (await server.http.post("/v1/sessions/s1/refine")).json()["state"] == "running"
        store.end_refinement("s1", better)
        done = await server.http.post("/v1/sessions/s1/refine", json={"model": claimed[1].model})
        assert (done.status_code, done.json()["layer"]) == (200, claimed[1].model)
        change = {"corrections": [{"first": 5, "stop": 6, "text": "under"}]}
        await server.http.patch("/v1/sessions/s1", json=change)
        texts = {}
        for layer in ("live", "refined", "corrected", "best"):
            shown = (await server.http.get("/v1/sessions/s1", params={"layer": layer})).json()
            assert shown["layer"] == layer
            file = await server.http.get("/v1/sessions/s1.txt", params={"layer": layer})
            texts[layer] = shown["text"]
            assert file.text.split() == shown["text"].split()
        both = await server.http.get("/v1/sessions/s1?layer=refined&original=true")
    assert texts == {
        "live": "The quick brown fox jumps over",
        "refined": "A b",
        "corrected": "The quick brown fox jumps under",
        "best": "A jumps under",
    }
    assert (both.json()["text"], both.json()["layer"]) == (texts["live"], "live")


async def test_what_cannot_be_refined_is_refused(one, store):
    store.apply([AddSession(session("now", ANYONE))])
    store.apply(spoken("french", SAID, ANYONE, languages=("fr",)))
    for ident in ("now", "french"):
        give_audio(store, ident)
    async with running(store=store) as server:
        for ident, body, status, code in (
            ("s1", {}, 404, "no_audio"),
            ("gone", {}, 404, "unknown_session"),
            ("now", {}, 409, "still_running"),
            ("french", {}, 422, "unsupported_language"),
            ("now", {"model": "no-such-model"}, 404, "model_not_found"),
            ("now", {"model": "../../etc/passwd"}, 404, "model_not_found"),
            ("now", {"model": 5}, 400, "invalid_value"),
            ("now", {"model": ""}, 400, "invalid_value"),
            ("now", {"model": "x" * 201}, 400, "invalid_value"),
            ("now", {"modell": "x"}, 400, "invalid_value"),
            ("now", [], 400, "invalid_json"),
        ):
            answer = await server.http.post(f"/v1/sessions/{ident}/refine", json=body)
            found = answer.status_code, answer.json()["error"]["code"]
            assert found == (status, code), (ident, body)
    assert store.claim_refinement(automatic=True) is None


# Audio.

SOUND = bytes(range(256)) * 40


def give_audio(store: SessionStore, ident: str, content: bytes = SOUND) -> Path:
    """Any bytes: the route does not look into them."""
    store.audio.make_folder()
    path = store.audio.path / f"{ident}.ogg"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("ranged", "status", "part"),
    [
        (None, 200, slice(None)),
        ("bytes=0-", 206, slice(None)),
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=100-199", 206, slice(100, 200)),
        ("bytes=10000-", 206, slice(10_000, None)),
        ("bytes=10000-99999999", 206, slice(10_000, None)),
        ("bytes=-40", 206, slice(-40, None)),
        ("bytes=-999999", 206, slice(None)),
        ("bytes=9-3", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("bytes=1-2,5-6", 200, slice(None)),
        ("bytes=a-b", 200, slice(None)),
        ("bytes=" + "9" * 40 + "-", 200, slice(None)),
        ("seconds=1-2", 200, slice(None)),
    ],
)
async def test_audio_is_sent_whole_or_in_a_range(one, store, ranged, status, part):
    give_audio(store, one)
    headers = {"range": ranged} if ranged else {}
    async with running(store=store) as server:
        answer = await server.http.get("/v1/sessions/s1/audio", headers=headers)
        head = await server.http.head("/v1/sessions/s1/audio", headers=headers)
        assert (await server.http.get("/v1/sessions/s1")).json()["audio"] is True
    assert (answer.status_code, answer.content) == (status, SOUND[part])
    assert (head.status_code, head.content) == (status, b"")
    for sent in (answer.headers, head.headers):
        assert (sent["content-type"], sent["accept-ranges"]) == ("audio/ogg", "bytes")
        assert int(sent["content-length"]) == len(SOUND[part])
        assert (sent["cache-control"], sent["x-content-type-options"]) == ("no-store", "nosniff")
        assert sent["content-disposition"].startswith('attachment; filename="hall.ogg"')
    if status == 206:
        start, stop, _ = part.indices(len(SOUND))
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(SOUND)}"


@pytest.mark.parametrize("ranged", [f"bytes={len(SOUND)}-", "bytes=999999-", "bytes=-0"])
async def test_a_range_beyond_the_audio_is_refused(one, store, ranged):
    give_audio(store, one)
    async with running(store=store) as server:
        answer = await server.http.get("/v1/sessions/s1/audio", headers={"range": ranged})
    assert (answer.status_code, answer.json()["error"]["code"]) == (416, "bad_range")


async def test_audio_that_is_not_kept_or_deleted_is_not_there(one, store):
    async with running(store=store) as server:
        answer = await server.http.get("/v1/sessions/s1/audio")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_audio")
        path = give_audio(store, one)
        assert (await server.http.delete("/v1/sessions/s1")).status_code == 204
    assert not path.exists()


async def test_answers_with_audio_are_bounded_and_give_their_place_back(one, store, monkeypatch):
    monkeypatch.setattr(history, "MAX_LISTENERS", 2)
    path = give_audio(store, one)
    async with running(store=store) as server:
        for _ in range(3):
            assert (await server.http.get("/v1/sessions/s1/audio")).status_code == 200
            beyond = await server.http.get("/v1/sessions/s1/audio", headers={"range": "bytes=-0"})
            assert beyond.status_code == 416
        path.unlink()
        assert (await server.http.get("/v1/sessions/s1/audio")).status_code == 404
    endpoints = history.HistoryEndpoints(store, AuditLog(), lambda: False)
    endpoints._listeners["ann"] = 1
    give_audio(store, one)
    scope = {"type": "http", "headers": [], "path_params": {"session": "s1"}}
    scope["voxlive.grant"] = SimpleNamespace(name="ann", readable=None)
    with pytest.raises(RequestRefused) as refused:
        await endpoints.audio(Request(scope))
    assert (refused.value.code, refused.value.status) == ("too_many_readers", 503)
    assert endpoints._listeners["ann"] == 1


# What a store does wrong, and bounds.


class Stuck(SimpleNamespace):
    """A store whose lists wait until they are let go."""

    def __init__(self) -> None:
        super().__init__(go=threading.Event(), began=threading.Semaphore(0), calls=0)

    def sessions(self, *_: object) -> object:
        self.calls += 1
        self.began.release()
        self.go.wait()
        return SimpleNamespace(sessions=(), next=None)


async def test_a_store_that_does_not_answer_takes_a_bounded_number_of_requests(monkeypatch):
    stuck = Stuck()
    async with running(store=stuck) as server:
        asked = [
            asyncio.create_task(server.http.get("/v1/sessions")) for _ in range(history.MAX_CALLS)
        ]
        for _ in range(4):
            await asyncio.to_thread(stuck.began.acquire)
        more = await server.http.get("/v1/sessions")
        assert (more.status_code, more.json()["error"]["code"]) == (503, "store_busy")
        assert more.headers["retry-after"] == "1"
        assert stuck.calls == 4
        assert (await server.http.get("/health")).status_code == 200
        stuck.go.set()
        assert {(await one).status_code for one in asked} == {200}
        assert (await server.http.get("/v1/sessions")).status_code == 200


async def test_a_call_that_takes_too_long_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(history, "CALL_TIMEOUT_S", 0.05)
    stuck = Stuck()
    async with running(store=stuck) as server:
        answer = await server.http.get("/v1/sessions")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_busy")
        stuck.go.set()


# Markup, formulas and names.

MARKUP = [
    "<script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "# heading",
    "1. list",
    "--- \u200b| table |",
    "`code` *bold* __bold__ ~~gone~~ $x$",
    "&lt;b&gt; &#60;i&#62; &amp;",
    "00:00:01.000 --> 00:00:02.000",
    "<v Roger><c.red>--->",
    "NOTE WEBVTT STYLE ::cue{}",
    '=HYPERLINK("http://evil.example")',
    "+cmd|' /C calc'!A0",
    "@SUM(1+1)",
]


@pytest.mark.parametrize("text", MARKUP)
async def test_no_text_is_markup_in_a_file(store, text):
    """In the title, in a recognised word and in a correction."""
    store.apply([AddSession(session("s", ANYONE)), AddWords("s", (word(0, text), word(1, " x")))])
    store.apply([CloseSegment("s", StoredSegment(0, 0, 3100, 0, 2), 48_000)])
    async with running(store=store) as server:
        change = {"title": text, "corrections": [{"first": 1, "stop": 2, "text": text}]}
        assert (await server.http.patch("/v1/sessions/s", json=change)).status_code == 200
        files = {name: await server.http.get(f"/v1/sessions/s.{name}") for name in EXPORTS}
    line = re.sub(r"\s+", " ", text)

    markdown = files["md"].text
    assert not re.search(r"<|(?<!\\)[`|\[\]~$]|(?<!\\)_", markdown)
    heading, _, paragraph = markdown.strip().split("\n\n")
    assert heading.startswith("# ")
    assert paragraph.startswith("**00:00:00** ")
    assert plain(heading[2:]) == plain(paragraph[13:]).rpartition(" " + line)[0] == line

    head, *cues = files["vtt"].text.strip().split("\n\n")
    assert head == "WEBVTT"
    for cue in cues:
        timing, *said = cue.split("\n")
        assert re.fullmatch(r"[\d:.]{12} --> [\d:.]{12}", timing)
        assert not re.search("<|>|&(?!amp;|lt;|gt;)", "\n".join(said))
    for number, cue in enumerate(files["srt"].text.strip().split("\n\n"), 1):
        index, timing, *said = cue.split("\n")
        assert int(index) == number
        assert "-->" not in "\n".join(said)

    document = docx.Document(io.BytesIO(files["docx"].content))
    paragraphs = document.paragraphs
    assert [paragraphs[0].text, paragraphs[-1].text] == [line, f"00:00:00 {line} {line}"]
    assert "<script>" not in document.element.xml
    assert not document.element.xpath(".//w:hyperlink | .//w:instrText | .//w:fldSimple")
    assert files["json"].json()["text"] == f"{text} {text}"
    for name, file in files.items():
        assert not re.search("csv|html|spreadsheet|excel", file.headers["content-type"]), name
        assert file.headers["content-disposition"].startswith("attachment; ")


def plain(markdown: str) -> str:
    """What CommonMark shows of escaped text."""
    text = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


async def test_characters_that_xml_has_not_do_not_break_a_document(store):
    store.apply([AddSession(session("s", ANYONE)), AddWords("s", (word(0, "a\x01b\uffffc\x0b"),))])
    async with running(store=store) as server:
        file = await server.http.get("/v1/sessions/s.docx")
    paragraphs = docx.Document(io.BytesIO(file.content)).paragraphs
    assert paragraphs[-1].text == "00:00:00 a\ufffdb\ufffdc"


@pytest.mark.parametrize(
    ("title", "plain_name", "name"),
    [
        ("Budget 2026", "Budget 2026", "Budget%202026"),
        ("../../etc/passwd", "etc passwd", "etc%20passwd"),
        ("..\\..\\boot.ini", "boot.ini", "boot.ini"),
        ('a"; filename="x.exe', "a _ filename_ x.exe", "a%20%3B%20filename%3D%20x.exe"),
        ("会议", "transcript", "%E4%BC%9A%E8%AE%AE"),
        ("Café", "Cafe", "Caf%C3%A9"),
        ("evil\u202etxt.exe", "evil txt.exe", "evil%20txt.exe"),
        ("nul", "_nul", "_nul"),
        ("COM1.log", "_COM1.log", "_COM1.log"),
        ("...", "session 2026-03-01 12.00", "session%202026-03-01%2012.00"),
        ("100%25 \u20ac", "100_25 ", "100%2525%20%E2%82%AC"),
        ("é" * 200, "e" * 100, "%C3%A9" * 100),
    ],
)
async def test_file_names_cannot_lead_anywhere(store, title, plain_name, name):
    store.apply(spoken("s", ["x"], ANYONE, title=title))
    async with running(store=store) as server:
        file = await server.http.get("/v1/sessions/s.md")
    given = file.headers["content-disposition"]
    found = re.fullmatch(
        r"""attachment; filename="([^"\\]*)"; filename\*=UTF-8''([\w.%~-]+)""", given
    )
    assert found, given
    assert (found[1], found[2]) == (f"{plain_name}.md", f"{name}.md")


TRICKS = [
    "..",
    "../sessions.db",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "..%5c..%5cboot.ini",
    "%00",
    "s1%00",
    "s1%0a",
    "s1%2fevents%2f..",
    "*",
    "%25",
    "s1'--",
    "s1%22",
    "s1;x",
    "$(id)",
    "\uff53\uff11",
    "s" * 65,
    "x" * 3000,
    ".",
]


@pytest.mark.parametrize("ident", TRICKS)
async def test_an_id_that_is_none_leads_nowhere(one, store, ident):
    async with running(store=store) as server:
        for method, suffix in [
            *(("GET", f".{name}") for name in EXPORTS),
            ("GET", "/events"),
            ("GET", "/audio"),
            ("GET", "."),
            ("GET", ".exe"),
            ("PATCH", ""),
            ("POST", "/refine"),
            ("DELETE", ""),
        ]:
            path = f"/v1/sessions/{ident}{suffix}"
            answer = await server.http.request(method, path, json={"title": "x"})
            assert answer.status_code in (404, 405, 307), (method, path)
            assert len(answer.content) < 4000
    assert store.session("s1", None).title is None


# Keys.

SCOPES_OF = {
    "ann": {"history"},
    "bob": {"history", "live", "files"},
    "reader": {"history:all"},
    "lead": {"history", "history:all"},
    "boss": {"admin"},
    "live": {"live"},
    "files": {"files"},
    "captions": {"captions", "captions:all"},
    "metrics": {"metrics"},
}
SECRETS = {name: f"the-secret-of-{name}-alone" for name in SCOPES_OF}
KEYED = [
    # ``for`` is about captions: it opens no stored session.
    Key(name, digest(SECRETS[name]), frozenset(scopes), reads=frozenset(SCOPES_OF) - {name})
    for name, scopes in SCOPES_OF.items()
]


def reads(key: str, owner: str) -> bool:
    scopes = SCOPES_OF[key]
    return bool(scopes & {"history:all", "admin"}) or ("history" in scopes and key == owner)


def changes(key: str, owner: str) -> bool:
    scopes = SCOPES_OF[key]
    return "admin" in scopes or ("history" in scopes and key == owner)


def enters(key: str) -> bool:
    return bool(SCOPES_OF[key] & {"history", "history:all", "admin"})


@pytest.fixture
def everybodys(store) -> SessionStore:
    for owner in SCOPES_OF:
        store.apply(spoken(f"of-{owner}", [f"secret word{owner}"], owner))
        give_audio(store, f"of-{owner}", f"word{owner}".encode())
    return store


def test_the_routes_that_are_tested_are_all_there_are():
    """Another one has to be added to the tests below."""

    async def routes() -> list[tuple[str, str]]:
        async with running() as server:
            return sorted(
                (route.path, method)
                for route in server.app.routes
                if route.path.startswith("/v1/sessions")
                for method in route.methods
            )

    assert asyncio.run(routes()) == [
        ("/v1/sessions", "GET"),
        ("/v1/sessions", "HEAD"),
        ("/v1/sessions/{session}", "DELETE"),
        ("/v1/sessions/{session}", "GET"),
        ("/v1/sessions/{session}", "HEAD"),
        ("/v1/sessions/{session}", "PATCH"),
        ("/v1/sessions/{session}/audio", "GET"),
        ("/v1/sessions/{session}/audio", "HEAD"),
        ("/v1/sessions/{session}/events", "GET"),
        ("/v1/sessions/{session}/events", "HEAD"),
        ("/v1/sessions/{session}/refine", "POST"),
    ]


@pytest.mark.long
async def test_a_key_reads_what_it_may(everybodys):
    paths = ["", *(f".{name}" for name in EXPORTS), "/events", "/audio"]
    async with running(*KEYED, store=everybodys) as server:
        for key, owner in product(SCOPES_OF, SCOPES_OF):
            for method, path in product(("GET", "HEAD"), paths):
                answer = await server.http.request(
                    method, f"/v1/sessions/of-{owner}{path}", headers=bearer(SECRETS[key])
                )
                expected = 200 if reads(key, owner) else 404 if enters(key) else 403
                assert answer.status_code == expected, (key, method, path, owner)
                assert reads(key, owner) or f"word{owner}" not in answer.text


@pytest.mark.parametrize("query", ["", "?q=secret", "?limit=200&titled=false"])
async def test_a_key_lists_and_finds_what_it_may(everybodys, query):
    async with running(*KEYED, store=everybodys) as server:
        for key in SCOPES_OF:
            expected = [f"of-{owner}" for owner in reversed(SCOPES_OF) if reads(key, owner)]
            answer = await server.http.get(f"/v1/sessions{query}", headers=bearer(SECRETS[key]))
            if not enters(key):
                assert answer.status_code == 403, key
                continue
            assert [one["id"] for one in answer.json()["sessions"]] == expected, key
            for owner in SCOPES_OF:
                mark = "&" if query else "?"
                only = await server.http.get(
                    f"/v1/sessions{query}{mark}owner={owner}", headers=bearer(SECRETS[key])
                )
                found = [one["id"] for one in only.json()["sessions"]]
                assert found == ([f"of-{owner}"] if reads(key, owner) else []), (key, owner)


@pytest.mark.parametrize("key", SCOPES_OF)
async def test_a_key_changes_and_deletes_what_it_may(everybodys, key):
    async with running(*KEYED, store=everybodys) as server:
        for owner in SCOPES_OF:
            before = everybodys.transcript(f"of-{owner}", None)
            refused = 403 if reads(key, owner) or not enters(key) else 404
            for method, path, body, fine in (
                ("PATCH", "", {"title": "mine"}, 200),
                ("POST", "/refine", {}, 202),
                ("DELETE", "", None, 204),
            ):
                answer = await server.http.request(
                    method,
                    f"/v1/sessions/of-{owner}{path}",
                    json=body,
                    headers=bearer(SECRETS[key]),
                )
                expected = fine if changes(key, owner) else refused
                assert answer.status_code == expected, (method, owner)
                if not changes(key, owner):
                    assert everybodys.transcript(f"of-{owner}", None) == before
                    assert f"word{owner}" not in answer.text
        left = {one.owner for one in everybodys.sessions(SessionFilter(None)).sessions}
    assert left == {owner for owner in SCOPES_OF if not changes(key, owner)}


@pytest.mark.parametrize("key", ["ann", "boss"])
async def test_a_cursor_of_another_key_shows_nothing_more(everybodys, key):
    async with running(*KEYED, store=everybodys) as server:
        page = await server.http.get("/v1/sessions?limit=1", headers=bearer(SECRETS["boss"]))
        cursor = {"cursor": page.json()["next"]}
        rest = await server.http.get("/v1/sessions", params=cursor, headers=bearer(SECRETS[key]))
        owners = {one["owner"] for one in rest.json()["sessions"]}
    assert owners == ({"ann"} if key == "ann" else set(SCOPES_OF) - {"metrics"})


async def test_short_lived_keys_and_strangers_read_nothing(everybodys):
    bob = bearer(SECRETS["bob"])
    async with running(*KEYED, store=everybodys) as server:
        made = await server.http.post("/v1/auth/grant", json={}, headers=bob)
        ticket = bearer(made.json()["access_token"])
        for headers, status in ((ticket, 403), ({}, 401), (bearer("wrong-wrong-wrong"), 401)):
            for path in ("", "/of-bob", "/of-bob.txt", "/of-bob/events", "/of-bob/audio"):
                answer = await server.http.get(f"/v1/sessions{path}", headers=headers)
                assert answer.status_code == status
            answer = await server.http.get(f"/v1/sessions?token={SECRETS['bob']}", headers=headers)
            assert answer.status_code == status


async def test_without_keys_everything_is_the_one_users(everybodys):
    async with running(store=everybodys) as server:
        found = (await server.http.get("/v1/sessions")).json()["sessions"]
        assert len(found) == len(SCOPES_OF)
        assert (await server.http.delete("/v1/sessions/of-ann")).status_code == 204


# Other sites.


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("PATCH", "/s1"), ("DELETE", "/s1")])
async def test_pages_of_other_sites_are_refused(one, store, method, path):
    async with running(store=store) as server:
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"sec-fetch-mode": "no-cors", "sec-fetch-site": "cross-site"},
            {"sec-fetch-mode": "no-cors", "sec-fetch-site": "same-site"},
        ):
            answer = await server.http.request(
                method, f"/v1/sessions{path}", json={"title": "x"}, headers=headers
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
        for headers in (
            {"sec-fetch-mode": "navigate", "sec-fetch-site": "cross-site"},
            {"sec-fetch-mode": "no-cors", "sec-fetch-site": "same-origin"},
            {"origin": f"http://{HOST}", "sec-fetch-site": "same-origin"},
        ):
            answer = await server.http.get("/v1/sessions/s1", headers=headers)
            assert answer.status_code == 200
    assert store.session("s1", None).title is None


async def test_an_allowed_site_may_change_sessions(one, store):
    site = "https://friend.example"
    async with running(store=store, allow=frozenset({site})) as server:
        for method in ("PATCH", "DELETE"):
            asked = {"origin": site, "access-control-request-method": method}
            answer = await server.http.options("/v1/sessions/s1", headers=asked)
            assert answer.status_code == 200
            assert method in answer.headers["access-control-allow-methods"]
        file = await server.http.get("/v1/sessions/s1.txt", headers={"origin": site})
        assert "Content-Disposition" in file.headers["access-control-expose-headers"]
        foreign = {"origin": "https://evil.example", "access-control-request-method": "DELETE"}
        assert (await server.http.options("/v1/sessions/s1", headers=foreign)).status_code == 400


async def test_without_keys_another_host_name_is_refused(one, store):
    async with running(store=store, hosts=frozenset()) as server:
        answer = await server.http.delete("/v1/sessions/s1", headers={"host": "evil.example"})
    assert answer.status_code == 421
    assert store.session("s1", None).id == "s1"


# The audit log.


async def test_the_audit_log_has_who_did_what_and_nothing_that_was_said(everybodys, tmp_path):
    log = tmp_path / "audit.jsonl"
    async with running(*KEYED, store=everybodys, audit=log) as server:

        async def ask(key: str, method: str, path: str, body: object = None) -> str:
            answer = await server.http.request(
                method, f"/v1/sessions{path}", headers=bearer(SECRETS[key]), json=body
            )
            return answer.headers["x-request-id"]

        fix = {"title": "secretly", "corrections": [{"first": 0, "stop": 1, "text": "secret2"}]}
        asked = [
            await ask("ann", "GET", ""),
            await ask("boss", "GET", "?q=secret&owner=bob"),
            await ask("ann", "GET", "/of-ann"),
            await ask("ann", "GET", "/of-bob.docx"),
            await ask("ann", "GET", "/of-ann/events?from=1"),
            await ask("ann", "GET", "/of-ann/audio"),
            await ask("ann", "GET", "/of-bob/audio"),
            await ask("ann", "PATCH", "/of-ann", fix),
            await ask("reader", "DELETE", "/of-ann"),
            await ask("live", "GET", "/of-live"),
            await ask("boss", "DELETE", "/of-ann"),
        ]
        await server.http.get("/v1/sessions", headers=bearer("wrong-wrong-wrong-wrong"))
    written = lines(log)
    assert log.stat().st_mode & 0o777 == 0o600
    assert "secret" not in log.read_text()
    assert {one["from"] for one in written} == {"127.0.0.1"}
    assert all(re.fullmatch(r"20\d\d-.*Z", one["time"]) for one in written)
    assert list(dict.fromkeys(one["request"] for one in written)) == asked
    shown = ("who", "action", "session", "result")
    assert [tuple(one.get(name) for name in shown) for one in written] == [
        ("ann", "list", None, "ok"),
        ("boss", "search", None, "ok"),
        ("ann", "read", "of-ann", "ok"),
        ("ann", "export", "of-bob", "unknown_session"),
        ("ann", "follow", "of-ann", "ok"),
        ("ann", "listen", "of-ann", "ok"),
        ("ann", "listen", "of-bob", "unknown_session"),
        ("ann", "change", "of-ann", "begun"),
        ("ann", "change", "of-ann", "ok"),
        ("reader", "delete", "of-ann", "begun"),
        ("reader", "delete", "of-ann", "forbidden"),
        ("live", "GET", None, "forbidden"),
        ("boss", "delete", "of-ann", "begun"),
        ("boss", "delete", "of-ann", "ok"),
    ]
    assert [written[n]["sessions"] for n in (0, 1)] == [["of-ann"], ["of-bob"]]
    assert written[11]["path"] == "/v1/sessions/of-live"
    assert (written[3]["format"], written[4]["word"]) == ("docx", 1)
    assert (written[8]["title"], written[8]["corrections"]) == (True, [[0, 1]])


async def test_what_cannot_be_recorded_is_not_done(one, store, tmp_path):
    log = tmp_path / "audit.jsonl"
    async with running(store=store, audit=log) as server:
        log.unlink()
        log.mkdir()
        for method in ("GET", "PATCH", "DELETE"):
            answer = await server.http.request(method, "/v1/sessions/s1", json={"title": "x"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "audit_failed")
            assert "quick" not in answer.text
        assert store.session("s1", None).title is None
        log.rmdir()
        for _ in range(2 * history.MAX_FILES):  # no place is lost by a failure
            assert (await server.http.get("/v1/sessions/s1")).status_code == 200
    assert {one["result"] for one in lines(log)} == {"ok"}


def test_an_audit_log_that_cannot_be_is_refused_at_the_start(tmp_path):
    with pytest.raises(ConfigError, match="audit_log"):
        AuditLog(tmp_path / "no" / "such" / "folder")
