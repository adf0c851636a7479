"""Links for reading along: who can make and revoke them, and what whoever has one can read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from support.asgi import running
from support.browser import browsing, shows
from support.keys import bearer
from support.storing import session, spoken, word

from voxlive.errors import VoxliveError
from voxlive.speakers.labels import SpeakerRange, SpeakersFound
from voxlive.store.backends import open_store
from voxlive.store.contract import AddSession, AddWords, Correction, SetState
from voxlive.streaming.events import Draft, SegmentClosed, Words
from voxlive.values import Word
from voxlive.web.access.access import Access
from voxlive.web.access.keys import Key, digest
from voxlive.web.access.middleware import AuditLog, Authenticator, AuthMiddleware
from voxlive.web.captions import shares as shares_module
from voxlive.web.captions.events import corrected_segments
from voxlive.web.captions.feeds import CaptionFeeds
from voxlive.web.captions.shares import ShareEndpoints, Shares
from voxlive.web.errors import openai_error
from voxlive.web.pages import Pages
from voxlive.web.recorder import Recorder

ANN, BOB, FILES = (f"the-key-of-number-{n}" for n in range(3))
KEYS = (
    Key("ann", digest(ANN), frozenset({"live"})),
    Key("bob", digest(BOB), frozenset({"live", "captions:all"})),
    Key("files", digest(FILES), frozenset({"files", "captions"})),
)


async def made(http: httpx.AsyncClient, key: str | None = ANN, **body: object) -> dict:
    answer = await http.post("/v1/shares", json=body, headers=bearer(key))
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_link_is_made_listed_and_revoked_by_its_key_alone():
    async with running(*KEYS) as server:
        http = server.http
        page = "https://hall.example/speech/"
        link = await made(http, captions="main hall", expires_in=3600, page=page)
        assert link["url"] == f"https://hall.example/speech/read#{link['token']}"
        assert link["qr"].startswith("<svg")
        assert link["token"] not in link["id"]
        lasts = datetime.fromisoformat(link["expires_at"]) - datetime.now(UTC)
        assert timedelta(minutes=59) < lasts <= timedelta(hours=1)
        # Without a name it is for a session that is to have the one that comes with it.
        other = await made(http, ends_with_session=True)
        assert other["captions"].startswith("page-")
        assert other["ends_with_session"]

        async def listed(key: str) -> list[str]:
            links = (await http.get("/v1/shares", headers=bearer(key))).json()["links"]
            assert all("token" not in one and "qr" not in one for one in links)
            return [one["id"] for one in links]

        assert await listed(ANN) == [link["id"], other["id"]]
        assert await listed(BOB) == []
        at = f"/v1/shares/{link['id']}"
        longer = {"expires_in": 7200}
        assert (await http.patch(at, json=longer, headers=bearer(BOB))).status_code == 404
        changed = (await http.patch(at, json=longer, headers=bearer(ANN))).json()
        assert changed["expires_at"] > link["expires_at"]
        shown = (await http.get("/read/state", headers=bearer(link["token"]))).json()
        assert shown == {**changed, "live": False}
        assert (await http.delete(at, headers=bearer(BOB))).status_code == 404
        assert (await http.get("/read/state", headers=bearer(link["token"]))).status_code == 200
        assert (await http.delete(at, headers=bearer(ANN))).status_code == 204
        assert (await http.delete(at, headers=bearer(ANN))).status_code == 404
        refused = await http.get("/read/state", headers=bearer(link["token"]))
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "no_such_link")
        assert await listed(ANN) == [other["id"]]

        for key, status in ((None, 401), (FILES, 403), (link["token"], 401)):
            for method in ("GET", "POST"):
                answer = await http.request(method, "/v1/shares", headers=bearer(key))
                assert answer.status_code == status, (key, method)
        ticket = (await http.post("/v1/auth/grant", headers=bearer(ANN))).json()["access_token"]
        assert (await http.post("/v1/shares", headers=bearer(ticket))).status_code == 403
        for wrong in (
            {"captions": "a/b"},
            {"captions": ""},
            {"captions": "x" * 65},
            {"expires_in": 59},
            {"expires_in": 31 * 86_400},
            {"ends_with_session": 1},
            {"page": "javascript:alert(1)//"},
            {"owner": "bob"},
        ):
            answer = await http.post("/v1/shares", json=wrong, headers=bearer(ANN))
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")


async def test_a_key_has_so_many_links_at_most(monkeypatch):
    monkeypatch.setattr(shares_module, "MAX_LINKS", 2)
    async with running(*KEYS) as server:
        for _ in range(2):
            await made(server.http)
        answer = await server.http.post("/v1/shares", headers=bearer(ANN))
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "too_many_links")
        await made(server.http, BOB)


async def test_the_token_of_a_link_opens_its_captions_and_nothing_else():
    async with running(*KEYS) as server:
        http = server.http
        token = (await made(http, captions="main-hall"))["token"]
        for path in ("/captions", "/captions/main-hall", "/v1/models", "/v1/sessions", "/metrics"):
            assert (await http.get(path, headers=bearer(token))).status_code == 401, path
            query = {"token": token}
            assert (await http.get(path, params=query)).status_code == 401, path
        code, _ = await server.refused("/v1/live", headers=bearer(token))
        assert code == 4401
        assert (await http.get("/health", headers=bearer(token))).json()["key_needed"]
        # The pages are open and have nothing of anybody's; a key is no link.
        for path in ("/read", "/overlay/main-hall"):
            answer = await http.get(path)
            assert answer.status_code == 200
            assert "main-hall" not in answer.text
            assert "microphone=()" in answer.headers["permissions-policy"]
        for wrong in (
            None,
            "",
            ANN,
            token[:-1],
            f"{token}x",
            token.swapcase(),
            "rd_" + "a" * 32,
            "rd_../../../captions/stage?x=aaaa",
            "rd_" + "é" * 32,
        ):
            for path in ("/read/state", "/read/events"):
                answer = await http.get(path, params={"token": wrong or ""})
                assert answer.status_code == 404, wrong
                assert answer.json()["error"]["code"] == "no_such_link"
        for path in ("/read/../v1/shares", "/read/%2e%2e/v1/shares", "/read/events/x", "/read/x"):
            answer = await http.get(path, headers=bearer(token))
            assert answer.status_code in (401, 404), path


class Reading:
    """The endpoints of links over feeds that a test fills, and a client of them."""

    def __init__(self, access: Access, recorder: Recorder | None, audit: AuditLog) -> None:
        self.feeds = CaptionFeeds()
        self.shares = Shares(access, self.feeds, recorder)
        self.endpoints = ShareEndpoints(self.shares, self.feeds, Pages(), audit, recorder, 60)
        self.url = ""

    @asynccontextmanager
    async def read(self, token: str, last: str = "", **query: str) -> AsyncIterator[Stream]:
        """What a reader gets; ``last`` is the id of the last event that it had."""
        headers = {**bearer(token), **({"last-event-id": last} if last else {})}
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=30) as http,
            http.stream("GET", "/read/events", params=query, headers=headers) as response,
        ):
            assert response.status_code == 200
            yield Stream(response)

    async def state(self, token: str) -> dict:
        async with httpx.AsyncClient(base_url=self.url) as http:
            return (await http.get("/read/state", params={"token": token})).json()


class Stream:
    """Server-sent events, as (kind, data); ``last`` is the id of the last that had one."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.last = ""

    async def next(self) -> tuple[str, dict]:
        kind = data = ""
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "id":
                self.last = value
            elif name == "data":
                data = value
            elif not line and kind:
                return kind, json.loads(data)
        return "end", {}

    async def until(self, *kinds: str) -> tuple[str, dict]:
        while True:
            kind, data = await self.next()
            if kind in (*kinds, "end"):
                return kind, data


@asynccontextmanager
async def reading(folder=None, audit=None) -> AsyncIterator[Reading]:
    recorder = Recorder(open_store(folder), resume=timedelta(seconds=60)) if folder else None
    access = Access(KEYS)
    log = AuditLog(audit)
    found = Reading(access, recorder, log)
    routes = [
        Route("/read/events", found.endpoints.events),
        Route("/read/state", found.endpoints.state),
        Route("/read", found.endpoints.page),
        Mount("/static", Pages()),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(AuthMiddleware, authenticator=Authenticator(access))],
        exception_handlers={VoxliveError: lambda _, error: openai_error(error)},
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    found.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        for feed in found.feeds:
            found.feeds.close(feed, over=False)
        server.should_exit = server.force_exit = True
        await serving
        if recorder:
            recorder.close()


def words(segment: int, *texts: str) -> Words:
    return Words(segment, tuple(Word(text, 100 * n, 100 * n + 90) for n, text in enumerate(texts)))


async def test_a_reader_waits_reads_and_stays_from_session_to_session():
    async with reading() as at:
        token, share = await at.shares.make("ann", "stage", 3600, with_session=False)
        async with at.read(token) as stream, at.read(token, count="0") as overlay:
            assert await stream.next() == ("waiting", {})
            assert await overlay.next() == ("waiting", {})
            state = await at.state(token)
            assert (state["live"], state["readers"]) == (False, 1)
            # Neither another key's session of this name nor another session is for it.
            at.feeds.open("b1", "stage", "/v1/live", "bob").on_event(words(0, "secret"))
            at.feeds.open("a0", "kitchen", "/v1/live", "ann").on_event(words(0, "secret"))
            for session_id in ("a1", "a2"):
                feed = at.feeds.open(session_id, "stage", "/v1/live", "ann")
                kind, snapshot = await stream.next()
                assert (kind, snapshot["session"], snapshot["segments"]) == (
                    "snapshot",
                    session_id,
                    [],
                )
                feed.on_event(words(0, "Good", " day"))
                feed.on_event(Draft(0, " to all"))
                feed.on_event(SegmentClosed(0, 0, 16_000, "Good day"))
                assert (await stream.next())[1]["text"] == "Good day"
                assert await stream.next() == ("draft", {"segment": 0, "text": " to all"})
                assert (await stream.next())[1] == {
                    "id": 0,
                    "start": 0.0,
                    "end": 1.0,
                    "text": "Good day",
                }
                assert (await at.state(token))["live"]
                at.feeds.close(feed)
                assert (await stream.next())[0] == "done"
            assert await at.shares.revoke(share.id, "ann")
            assert await stream.next() == ("over", {"reason": "revoked"})
            assert (await overlay.until("over"))[1] == {"reason": "revoked"}
            assert (await stream.next())[0] == "end"


async def test_a_reader_begins_where_it_likes_and_goes_on_where_it_was():
    async with reading() as at:
        token, _ = await at.shares.make("ann", "a1", 3600, with_session=False)
        feed = at.feeds.open("a1", None, "/v1/live", "ann")
        for n in range(3):
            feed.on_event(words(n, f"one{n}", f" two{n}"))
            feed.on_event(SegmentClosed(n, n, n + 1, f"one{n} two{n}"))
        feed.on_event(words(3, "now"))

        async def snapshot(last: str = "", **query: str) -> tuple[list[str], list[str], str]:
            async with at.read(token, last, **query) as stream:
                kind, data = await stream.next()
                assert kind == "snapshot"
                assert data["complete"]
                closed = [one["text"] for one in data["segments"]]
                return closed, [one["text"] for one in data["open"]], stream.last

        texts = [f"one{n} two{n}" for n in range(3)]
        everything = await snapshot()
        assert everything[:2] == (texts, ["now"])
        place = everything[2]
        assert (await snapshot(**{"from": "now"}))[:2] == ([], ["now"])
        feed.on_event(words(3, " then"))
        assert (await snapshot(place))[:2] == ([], ["now then"])
        assert (await snapshot(after="a1/3.0"))[:2] == (texts[1:], ["now then"])
        # Of another session, of more than there is, or no place at all: from the start.
        for other in ("b1/3.0", "a1/99.0", "a1/3", "../3.0", "a1/3.0\n"):
            assert (await snapshot(after=other))[:2] == (texts, ["now then"]), other


async def test_a_reader_who_comes_back_has_the_speakers_that_it_missed():
    async with reading() as at:
        token, _ = await at.shares.make("ann", "stage", 3600, with_session=False)
        feed = at.feeds.open("a1", "stage", "/v1/live", "ann")
        async with at.read(token) as stream:
            feed.on_event(words(0, "Hello", " there"))
            feed.on_event(SegmentClosed(0, 0, 19, "Hello there"))
            await stream.until("segment")
        found = SpeakersFound((SpeakerRange(0, 0, 0, 0), SpeakerRange(0, 1, 1, 1)), 2)
        feed.on_event(found)
        async with at.read(token, last=stream.last) as again:
            kind, snapshot = await again.next()
            assert (kind, snapshot["segments"]) == ("snapshot", [])
            kind, data = await again.next()
        assert (kind, data["segment"]) == ("speakers", 0)
        parts = [(one["speaker"], one["text"]) for one in data["parts"]]
        assert parts == [(0, "Hello"), (1, " there")]


async def test_many_readers_get_every_word_and_drafts_that_count():
    async with reading() as at:
        feed = at.feeds.open("a1", "stage", "/v1/live", "ann")
        token, share = await at.shares.make("ann", "stage", 3600, with_session=False)
        said = [f" word{n}" for n in range(150)]

        async def read() -> tuple[str, int]:
            text, drafts = "", 0
            async with at.read(token) as stream:
                await stream.until("snapshot")
                joined.release()
                while (event := await stream.next())[0] != "done":
                    assert event[0] != "end"
                    text += event[1]["text"] if event[0] == "words" else ""
                    drafts += event[0] == "draft"
            return text, drafts

        joined = asyncio.Semaphore(0)
        readers = [asyncio.create_task(read()) for _ in range(60)]
        for _ in readers:
            await joined.acquire()
        assert at.shares.count(share) == feed.readers == 60
        for text in said:
            feed.on_event(Draft(0, text))
            feed.on_event(words(0, text))
            while any(len(one.unread) > 100 for one in feed._readers):  # noqa: ASYNC110
                await asyncio.sleep(0)
        at.feeds.close(feed)
        for text, drafts in await asyncio.gather(*readers):
            assert text == "".join(said)
            assert drafts < len(said)


async def test_a_link_ends_at_its_time_and_soon_after_its_session(monkeypatch, tmp_path):
    monkeypatch.setattr(shares_module, "GRACE_S", 0.2)
    async with reading(tmp_path / "store") as at:
        token, share = await at.shares.make("ann", "stage", 3600, with_session=False)
        async with at.read(token) as stream:
            assert (await stream.next())[0] == "waiting"
            assert await at.shares.change(share.id, "ann", 0.2, with_session=False)
            assert await stream.until("over") == ("over", {"reason": "expired"})
        assert await at.shares.find(token) is None
        token, _ = await at.shares.make("ann", "stage", 3600, with_session=True)
        other, _ = await at.shares.make("ann", "kitchen", 3600, with_session=True)
        feed = at.feeds.open("a1", "stage", "/v1/live", "ann")
        async with at.read(token) as stream:
            feed.on_event(words(0, "last"))
            at.feeds.close(feed)
            assert (await stream.until("done"))[0] == "done"
            assert await stream.until("over") == ("over", {"reason": "expired"})
        assert await at.shares.find(other)
    async with reading(tmp_path / "store") as again:
        assert await again.shares.find(token) is None
        assert await again.shares.find(other)


async def test_corrections_reach_readers_and_those_who_come_later(tmp_path):
    async with reading(tmp_path / "store") as at:
        store = open_store(tmp_path / "store")
        token, _ = await at.shares.make("ann", "stage", 3600, with_session=False)
        feed = at.feeds.open("a1", "stage", "/v1/live", "ann")
        store.apply([AddSession(session("a1", "ann", name="stage"))])
        for segment, texts in enumerate((("See", " you"), ("At", " ate"))):
            numbered = [word(2 * segment + n, text, segment) for n, text in enumerate(texts)]
            store.apply([AddWords("a1", tuple(numbered))])
            feed.on_event(words(segment, *texts))
            if segment == 0:
                feed.on_event(SegmentClosed(0, 0, 1, "See you"))

        def correct(first: int, text: str) -> None:
            made = Correction(first, first + 1, text, "ann", datetime.now(UTC))
            store.patch("a1", None, corrections=[made])
            found = store.transcript("a1", None)
            feed.correct(corrected_segments(found), len(found.corrections))

        async with at.read(token) as stream:
            await stream.next()
            place = stream.last
            correct(3, "eight")
            assert await stream.next() == ("corrected", {"segment": 1, "text": "At eight"})
            correct(0, "Meet")
            assert await stream.next() == ("corrected", {"segment": 0, "text": "Meet you"})
            feed.on_event(words(1, " sharp"))
            feed.on_event(SegmentClosed(1, 1, 2, "At ate sharp"))
            await stream.until("segment")
        # Whoever comes back gets what has changed of what it had, too.
        for last in ("", place):
            async with at.read(token, last) as stream:
                _, data = await stream.next()
                assert [one["text"] for one in data["segments"]] == ["Meet you", "At eight sharp"]
        store.close()


async def test_a_link_outlives_the_server_and_shows_what_was_said_after_the_end(tmp_path):
    folder, audit = tmp_path / "store", tmp_path / "audit"
    async with reading(folder) as before:
        token, share = await before.shares.make("ann", "stage", 3600, with_session=False)
        gone, lost = await before.shares.make("ann", "stage", 3600, with_session=False)
    async with reading(folder, audit) as at:
        assert (await at.shares.find(token)) == share
        assert await at.shares.revoke(lost.id, "ann")
        async with at.read(token) as stream:
            assert await stream.next() == ("waiting", {})
        store = open_store(folder)
        now = datetime.now(UTC)
        operations = spoken("a1", ["good day", "to all"], name="stage")
        store.apply([*operations, SetState("a1", "ended", 0, now)])
        store.apply([*spoken("old", ["last week"], name="stage")])  # over before the link was made
        store.apply([*spoken("b1", ["secret"], "bob", name="stage")])
        at.endpoints._looked.clear()
        async with at.read(token) as stream:
            kind, data = await stream.next()
            assert (kind, data["session"]) == ("snapshot", "a1")
            assert [one["text"] for one in data["segments"]] == ["good day", " to all"]
            assert (await stream.next())[0] == "done"
        [line] = audit.read_text().splitlines()
        assert json.loads(line)["who"] == f"ann ({share.id})"
        assert "good" not in line
        store.close()
    async with reading(folder) as later:
        assert await later.shares.find(gone) is None


async def test_the_beginning_of_a_long_session_comes_from_the_store(tmp_path):
    async with reading(tmp_path / "store") as at:
        store = open_store(tmp_path / "store")
        token, _ = await at.shares.make("ann", "a1", 3600, with_session=False)
        texts = [f"part {n}" for n in range(150)]
        store.apply(spoken("a1", texts))
        feed = at.feeds.open("a1", None, "/v1/live", "ann")
        for n in range(150):
            feed.on_event(words(n, "part", f" {n}"))
            feed.on_event(SegmentClosed(n, n, n + 1, f"part {n}"))
        async with at.read(token) as stream:
            _, data = await stream.next()
            assert [one["text"].strip() for one in data["segments"]] == texts
            assert data["complete"]
        feed.on_event(words(150, "more"))
        feed.on_event(SegmentClosed(150, 150, 151, "more"))
        async with at.read(token, after="a1/20.0") as stream:
            _, data = await stream.next()
            shown = [one["text"].strip() for one in data["segments"]]
            assert set(texts[10:]) <= set(shown)
            assert shown[-1] == "more"
        other = at.feeds.open("a2", None, "/v1/live", "ann")
        unstored, _ = await at.shares.make("ann", "a2", 3600, with_session=False)
        for n in range(150):
            other.on_event(words(n, f"{n}"))
            other.on_event(SegmentClosed(n, n, n + 1, f"{n}"))
        async with at.read(unstored) as stream:
            _, data = await stream.next()
            assert (len(data["segments"]), data["complete"]) == (100, False)
        store.close()


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.usefixtures("browsers")
async def test_the_reading_page_shows_what_is_said_whatever_the_line_does(tmp_path):
    async with reading() as at:
        token, share = await at.shares.make("ann", "stage", 3600, with_session=False)
        url = f"{at.url}/read#{token}"
        phone = {"viewport": {"width": 390, "height": 700}, "locale": "en"}
        ready = "body[data-state=waiting]"
        async with browsing(url, granted=False, ready=ready, **phone) as watched:
            watched.expected = ["net::ERR", "Failed to load"]
            page = watched.page
            assert await page.inner_text("#blank-title") == "Waiting for the speaker"
            feed = at.feeds.open("a1", "stage", "/v1/live", "ann")
            await page.wait_for_selector("body[data-state=live]")
            for n in range(30):
                feed.on_event(words(n, f"This is sentence {n}", " of all."))
                text = f"This is sentence {n} of all."
                feed.on_event(SegmentClosed(n, 32_000 * n, 32_000 * n + 1, text))
            feed.on_event(Draft(30, "and a"))
            await shows(page, "#text", "sentence 29 of all.")
            await shows(page, "#text .draft", "and a")
            await shows(page, "#announcer", "sentence 29 of all.")
            await page.wait_for_function(f"() => {AT_END}")
            # Whoever has scrolled up stays there; a button leads back.
            assert await page.is_hidden("#newest")
            await page.mouse.wheel(0, -800)
            await page.wait_for_selector("#newest:not([hidden])")
            top = await page.evaluate("scrollY")
            feed.on_event(words(30, "New words."))
            await shows(page, "#text", "New words.")
            assert await page.evaluate("scrollY") == top
            await page.click("#newest")
            await page.wait_for_function(f"() => {AT_END}")
            # A correction is in its place, and what is said without a line comes with the next.
            feed.correct({4: ("That was sentence four.", 2)}, 1)
            await shows(page, "#text", "of all.That was sentence four.This is sentence 5")
            await page.context.set_offline(True)
            await page.wait_for_selector("body[data-state=offline]")
            assert await page.inner_text("#status") == "You are offline"
            feed.on_event(words(30, " Said meanwhile."))
            feed.on_event(SegmentClosed(30, 960_000, 970_000, "New words. Said meanwhile."))
            thanks = Word("\u0634\u0643\u0631\u0627", 2_000_000, 2_010_000)
            feed.on_event(Words(31, (thanks,)))
            await page.context.set_offline(False)
            await shows(page, "#text", "New words. Said meanwhile.")
            text = await page.text_content("#text")
            assert text.count("sentence 3 ") == text.count("New words.") == 1
            last = "#text p:last-of-type"
            assert await page.eval_on_selector(last, "e => getComputedStyle(e).direction") == "rtl"
            # It looks as its reader likes, also the next time, and in another language.
            await page.click("#open-look")
            await page.fill("#size", "60")
            await page.select_option("[name=colours]", "yellow")
            await page.select_option("#page-language", "de")
            await page.click("#look [value=done]")
            await shows(page, "#newest", "Neueste Wörter")
            style = "getComputedStyle(document.querySelector('#text'))"
            for _ in range(2):
                assert await page.evaluate(f"{style}.fontSize") == "60px"
                assert await page.evaluate(f"{style}.color") == "rgb(255, 233, 74)"
                await page.reload()
                await shows(page, "#text", "sentence 0 of all.")
                assert "That was sentence four." in await page.text_content("#text")
            width = "document.documentElement.scrollWidth <= innerWidth"
            assert await page.evaluate(width)
            await page.emulate_media(media="print")
            assert await page.is_hidden(".bar")
            assert await page.evaluate(f"{style}.color") == "rgb(0, 0, 0)"
            await page.emulate_media(media="screen")
            # The text stays when the session is over, and when the link is.
            at.feeds.close(feed)
            await page.wait_for_selector("body[data-state=ended]")
            again = at.feeds.open("a2", "stage", "/v1/live", "ann")
            again.on_event(words(0, "Another session."))
            await shows(page, "#text", "Another session.")
            await at.shares.revoke(share.id, "ann")
            await page.wait_for_selector("body[data-state=revoked]")
            assert "sentence 29" in await page.text_content("#text")
            await page.reload()
            await page.wait_for_selector("body[data-state=invalid]")
            # Nobody is asked for a microphone.
            state = "navigator.permissions.query({name: 'microphone'}).then((found) => found.state)"
            assert await page.evaluate(state) != "granted"


AT_END = "scrollY + innerHeight >= document.documentElement.scrollHeight - 2"


@pytest.mark.parametrize("key", ["ann", "bob"])
def test_links_in_a_store_belong_to_their_keys(tmp_path, key):
    store = open_store(tmp_path / key)
    now = datetime.now(UTC)
    mine = shares_module.Share("link_1", "d1", "ann", "stage", now, now + timedelta(hours=1))
    store.add_share(mine)
    assert store.shares(key) == ((mine,) if key == "ann" else ())
    assert store.share("d1") == mine
    assert store.share("d2") is None
    assert store.revoke_share("link_1", key) == (key == "ann")
    assert (store.share("d1") is None) == (key == "ann")
    store.close()
