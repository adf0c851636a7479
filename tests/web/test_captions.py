"""Captions: feeds, events and WebVTT cues without sockets; then over HTTP and in a browser."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import aclosing, asynccontextmanager
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from support.browser import Browsers
from support.clips import clip
from support.wire import START, dial, listen, receive_until, s16le, send

from voxlive.runners.outputs.subtitles import CueStyle
from voxlive.streaming.events import Draft, Flushed, SegmentClosed, Words
from voxlive.values import Word
from voxlive.web.access.access import Access
from voxlive.web.access.middleware import Authenticator, AuthMiddleware
from voxlive.web.captions.cues import LiveCues
from voxlive.web.captions.endpoints import CaptionEndpoints
from voxlive.web.captions.events import CaptionSnapshot, ClosedCaption, CorrectedCaption, sse_event
from voxlive.web.captions.feed import (
    MAX_READERS,
    MAX_SEGMENTS,
    MAX_UNREAD,
    CaptionFeed,
    TooManyReaders,
)
from voxlive.web.captions.feeds import CaptionFeeds, is_valid_name
from voxlive.web.pages import Pages

GOOD, DAY = Word("Good", 1600, 8000), Word(" day.", 8000, 16_000)


def spoken(feed: CaptionFeed, segment: int, *words: Word) -> None:
    feed.on_event(Words(segment, words))
    text = "".join(word.text for word in words)
    feed.on_event(SegmentClosed(segment, words[0].start, words[-1].end, text))


async def snapshot_of(feed: CaptionFeed) -> CaptionSnapshot:
    async with aclosing(feed.read()) as reader:
        return await anext(reader)


async def test_a_reader_gets_a_snapshot_and_then_events():
    feed = CaptionFeed("s1", "stage", "/v1/live")
    spoken(feed, 0, GOOD)
    feed.on_event(Words(1, (DAY,)))
    feed.on_event(Draft(1, " and"))
    feed.on_event(Flushed("x"))
    reader = feed.read()
    snapshot = await anext(reader)
    assert [closed.text for closed in snapshot.segments] == ["Good"]
    assert (snapshot.words, snapshot.draft) == ((DAY,), " and")
    feed.on_event(SegmentClosed(1, 8000, 16_000, " day."))
    closed = await anext(reader)
    assert (closed.text, closed.words) == (" day.", (DAY,))
    feed.close()
    assert [caption async for caption in reader] == []


async def test_a_slow_reader_is_ended_and_others_go_on():
    feed = CaptionFeed("s1", "s1", "/asr")
    slow, quick = feed.read(), feed.read()
    await anext(slow)
    await anext(quick)
    for n in range(MAX_UNREAD + 5):
        feed.on_event(Draft(0, str(n)))
        assert await anext(quick) == Draft(0, str(n))
    assert len([caption async for caption in slow]) == MAX_UNREAD
    assert (await snapshot_of(feed)).draft == str(MAX_UNREAD + 4)


async def test_segments_and_readers_of_a_feed_are_bounded():
    feed = CaptionFeed("s1", "s1", "/asr")
    for n in range(MAX_SEGMENTS + 10):
        spoken(feed, n, GOOD)
    segments = (await snapshot_of(feed)).segments
    assert [closed.id for closed in segments] == [*range(10, MAX_SEGMENTS + 10)]
    readers = [feed.read() for _ in range(MAX_READERS)]
    for reader in readers:
        await anext(reader)
    with pytest.raises(TooManyReaders):
        await snapshot_of(feed)
    await readers[0].aclose()
    assert await snapshot_of(feed)


async def test_what_a_client_corrects_reaches_the_readers_of_now_and_later():
    feed = CaptionFeed("s1", "s1", "/v1/live")
    for n in range(MAX_SEGMENTS + 1):
        spoken(feed, n, GOOD, DAY)
    feed.on_event(Words(MAX_SEGMENTS + 1, (GOOD,)))
    reader = feed.read()
    await anext(reader)
    before = feed.place
    last, opened = MAX_SEGMENTS, MAX_SEGMENTS + 1
    assert feed.amend(last, 1, "Bad")  # its client did not have the second word yet
    assert await anext(reader) == CorrectedCaption(last, "Bad day.")
    assert feed.amend(last, 2, "Bad day.")
    assert feed.amend(opened, 1, "Fine")
    assert await anext(reader) == CorrectedCaption(opened, "Fine")
    assert feed.amend(0, 2, "Gone")  # it is not kept any more
    assert await anext(reader) == CorrectedCaption(0, "Gone")
    assert not feed.amend(opened + 1, 1, "Never said")
    feed.on_event(Words(opened, (DAY,)))
    feed.on_event(SegmentClosed(opened, 1600, 16_000, "Good day."))
    assert [caption.text async for caption in reader_until(reader, ClosedCaption)] == [
        " day.",
        "Fine day.",
    ]
    snapshot = await snapshot_of(feed)
    assert [one.text for one in snapshot.segments[-2:]] == ["Bad day.", "Fine day."]
    assert feed.place.corrections == before.corrections + 3


async def reader_until(reader, kind):
    async for caption in reader:
        yield caption
        if isinstance(caption, kind):
            return


async def test_a_silent_feed_yields_keep_alives():
    feed = CaptionFeed("s1", "s1", "/asr")
    reader = feed.read(keep_alive_s=0.001)
    await anext(reader)
    assert await anext(reader) is None


def test_a_name_stands_for_its_newest_session():
    feeds = CaptionFeeds()
    first, second = feeds.open("s1", "stage", "/asr"), feeds.open("s2", "stage", "/asr")
    assert feeds.find("stage") is second
    assert feeds.find("s1") is first
    feeds.close(second)
    assert feeds.find("stage") is first
    feeds.close(first)
    assert feeds.find("stage") is None
    assert list(feeds) == []


def test_valid_names():
    assert is_valid_name("Bühne 1 <b>")
    assert not any(map(is_valid_name, ["", "a/b", "a\nb", "x" * 65]))


@pytest.mark.parametrize("text", ["a\n\ndata: x", "<script>", "日本", '"quoted" \\ \u2028'])
def test_an_event_is_one_line_of_json(text):
    written = sse_event(Words(0, (Word(text, 0, 1600),)))
    kind, data, *rest = written.split("\n")
    assert (kind, rest) == ("event: words", ["", ""])
    assert json.loads(data.removeprefix("data: "))["text"] == text


words = st.lists(
    st.tuples(
        st.text("abc,.", min_size=1, max_size=12), st.integers(0, 24_000), st.integers(1, 24_000)
    ),
    min_size=1,
    max_size=30,
)


@given(st.lists(words, max_size=4), st.integers(1, 5))
async def test_live_cues_have_every_word_once_in_order(said, together):
    """Words come a few at a time; a cue never changes, so what is written is all there is."""
    feed, cues, now = CaptionFeed("s", "s", "/"), LiveCues(CueStyle()), 0
    reader, expected = feed.read(), ""
    written = cues.on_caption(await anext(reader))
    for segment, spec in enumerate(said):
        heard = []
        for text, gap, length in spec:
            heard.append(Word(f" {text}", now + gap, now + gap + length))
            now += gap + length
        for at in range(0, len(heard), together):
            feed.on_event(Words(segment, tuple(heard[at : at + together])))
        whole = "".join(word.text for word in heard)
        feed.on_event(SegmentClosed(segment, heard[0].start, heard[-1].end, whole))
        expected += whole
    feed.close()
    async for caption in reader:
        written += cues.on_caption(caption)
    blocks = [block.split("\n") for block in written.split("\n\n") if block]
    assert "".join("".join(block[1:]) for block in blocks).replace(" ", "") == expected.replace(
        " ", ""
    )
    stamps = [stamp for block in blocks for stamp in block[0].split(" --> ")]
    assert stamps == sorted(stamps)


def test_cues_of_a_long_segment_come_before_its_end():
    cues = LiveCues()
    heard = [Word(f" word{n}", n * 8000, (n + 1) * 8000) for n in range(40)]
    written = [cues.on_caption(Words(0, (word,))) for word in heard]
    assert sum(map(bool, written)) >= 2
    text = "".join(word.text for word in heard)
    written.append(cues.on_caption(ClosedCaption(0, 0, 40 * 8000, text, tuple(heard))))
    assert all(f"word{n}" in "".join(written) for n in range(40))


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        (("on", " our", " no", " map"), "on our own map"),
        (("on", " our", " no", " map"), "on our map"),
        (("on", " our", " map"), "on our own map"),
        (("map",), "maps. And"),
        (("a", " b"), ""),
        (("我們", "的", "地圖"), "我們地圖集"),
    ],
)
def test_a_late_reader_of_cues_has_what_was_corrected(heard, text):
    said = tuple(Word(one, n * 8000, (n + 1) * 8000) for n, one in enumerate(heard))
    end = 8000 * len(said)
    written = LiveCues().on_caption(ClosedCaption(0, 0, end, text, said))
    found = re.findall(r"(\S+) --> (\S+)\n(.*)\n", written)
    assert [(begin, words) for begin, _, words in found] == (
        [("00:00:00.000", text)] if text else []
    )


def test_cues_have_the_corrections_that_come_before_they_are_complete():
    cues = LiveCues()
    heard = [Word(f" word{n}", n * 8000, (n + 1) * 8000) for n in range(40)]
    written = [cues.on_caption(Words(0, (word,))) for word in heard]
    told = "".join(written)
    assert "word0" in told
    assert "word39" not in told
    text = "".join(word.text for word in heard)
    text = text.replace(" word0", " first").replace(" word39", " the end")
    assert cues.on_caption(CorrectedCaption(7, " of another segment")) == ""
    assert cues.on_caption(CorrectedCaption(0, text)) == ""
    more = Word(" more", 40 * 8000, 41 * 8000)
    rest = cues.on_caption(Words(0, (more,)))
    rest += cues.on_caption(ClosedCaption(0, 0, 41 * 8000, text + " more", (*heard, more)))
    said = re.findall(r"^[a-z].*", told + rest, re.MULTILINE)
    assert " ".join(said) == " ".join(f"word{n}" for n in range(39)) + " the end more"


@pytest.mark.parametrize(("received", "end"), [(None, "00:00:02.000"), (20_000, "00:00:01.250")])
def test_a_live_cue_does_not_outlast_the_audio(received, end):
    heard = (Word(" yes", 16_000, 19_200),)
    written = LiveCues().on_caption(ClosedCaption(0, 16_000, 19_200, " yes", heard, received))
    assert written == f"00:00:01.000 --> {end}\nyes\n\n"


EVIL = '<img src=x onerror="document.title=1">'
SECOND = 32_000


def words_of(text):
    return re.findall(r"[a-z']+", text.lower())


@asynccontextmanager
async def speaking(server, name, path="/v1/live"):
    """A session with this name, after its first segment."""
    async with dial(f"{server.ws}{path}?captions={quote(name)}") as socket:
        await send(socket, START)
        audio = s16le(clip("message").samples)
        await send(socket, *(audio[at : at + SECOND] for at in range(0, len(audio), SECOND)))
        await send(socket, {"type": "flush", "id": "told"})
        await receive_until(socket, "flushed")
        yield socket


async def events(response):
    """The events of a stream as pairs of kind and data."""
    kind = None
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


async def test_server_sent_events_follow_a_session_to_its_end(server):
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        speaking(server, "stage 1") as socket,
    ):
        listed = (await client.get("/captions")).json()["sessions"]
        # Beside it there may be sessions that wait for a page which was closed.
        named = [(s["name"], s["path"]) for s in listed if s["name"] == "stage 1"]
        assert named == [("stage 1", "/v1/live")]
        async with client.stream("GET", "/captions/stage%201") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            followed = events(response)
            kind, snapshot = await anext(followed)
            assert kind == "snapshot"
            first = snapshot["segments"][0]
            count = len(first["text"].split())
            correction = {"type": "correct", "segment": first["id"], "words": count, "text": " Hm."}
            await send(socket, {**correction, "segment": 99}, correction)
            assert "no such segment" in (await receive_until(socket, "error"))[-1]["message"]
            async for kind, data in followed:
                if kind == "corrected":
                    assert data == {"segment": first["id"], "text": " Hm."}
                    break
            audio = s16le(clip("yes").samples)
            await send(socket, audio, {"type": "stop"})
            heard = await listen(socket)
            told = [data["text"] async for kind, data in followed if kind == "words"]
    before = [segment["text"] for segment in snapshot["segments"]]
    assert "".join([*before, *told]) == heard.of("done")[0]["text"]
    assert words_of("".join(before))
    assert words_of("".join(told))


async def test_webvtt_follows_a_session(server):
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        speaking(server, "stage") as socket,
        client.stream("GET", "/captions/stage.vtt") as response,
    ):
        assert response.headers["content-type"].startswith("text/vtt")
        body = response.aiter_text()
        written = await anext(body)
        await send(socket, {"type": "stop"})
        heard = await listen(socket)
        written += "".join([piece async for piece in body])
    assert written.startswith("WEBVTT\n\n")
    shown = [line for line in written.splitlines()[2:] if line and "-->" not in line]
    assert words_of(" ".join(shown)) == words_of(heard.of("done")[0]["text"])


async def test_webvtt_by_the_accept_header_and_for_any_protocol(server):
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        dial(f"{server.ws}/v1/listen?encoding=linear16&sample_rate=16000&captions=room"),
        client.stream("GET", "/captions/room", headers={"accept": "text/vtt"}) as response,
    ):
        assert await anext(response.aiter_text()) == "WEBVTT\n\n"


def test_an_unknown_session_is_404(server):
    answer = httpx.get(f"{server.url}/captions/nobody.vtt")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_such_session")


async def test_an_invalid_name_is_refused(server):
    async with dial(f"{server.ws}/v1/live?captions=a%2Fb") as socket:
        heard = await listen(socket)
    assert (heard.errors, heard.code) == (["bad_parameter"], 4400)


async def test_a_reader_that_disconnects_is_removed(server):
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        speaking(server, "brief") as socket,
    ):
        async with client.stream("GET", "/captions/brief") as response:
            await anext(response.aiter_text())
        await send(socket, {"type": "stop"})
        assert (await listen(socket)).code == 1000


@asynccontextmanager
async def overlay(url, *, source=True):
    browsers, options = Browsers.here(), {"viewport": {"width": 1280, "height": 720}}
    async with browsers.browser() as browser, browsers.page(browser, url, options) as page:
        if source:
            await page.add_init_script("window.obsstudio = {}")
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        await page.goto(url)
        yield page
        assert errors == []


async def shows(page, text):
    await page.wait_for_function(
        "(text) => document.querySelector('#text').textContent.includes(text)", arg=text
    )


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.usefixtures("browsers")
async def test_the_overlay_follows_a_name_from_session_to_session(server):
    async with overlay(f"{server.url}/overlay/stage?size=60&color=ffcc00&position=top") as page:
        for _ in range(2):
            async with speaking(server, "stage") as socket:
                await page.wait_for_selector("body[data-state=following]")
                # Behind what is committed there may be a draft, which the end changes.
                shown = await (
                    await page.wait_for_function(
                        "() => document.querySelector('#text b')?.firstChild?.data"
                    )
                ).json_value()
                await send(socket, {"type": "stop"})
                said = (await listen(socket)).of("done")[0]["text"]
                assert words_of(shown)
                assert " ".join(words_of(shown)) in " ".join(words_of(said))
            await page.evaluate("document.querySelector('#text').replaceChildren()")
        style = "getComputedStyle(document.querySelector('#frame'))"
        assert await page.evaluate(f"{style}.fontSize") == "60px"
        assert await page.evaluate("getComputedStyle(document.querySelector('#text')).color") == (
            "rgb(255, 204, 0)"
        )
        assert (await page.evaluate("getComputedStyle(document.body).backgroundColor")) == (
            "rgba(0, 0, 0, 0)"
        )


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.usefixtures("browsers")
async def test_a_person_who_opens_the_overlay_sees_what_it_is():
    async with feeding() as (feeds, url), overlay(f"{url}/overlay/s1", source=False) as page:
        await page.wait_for_selector("#hint [data-when=waiting]:not([hidden])")
        assert "browser source" in await page.inner_text("#hint")
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(20, 24, 27)"
        feed = feeds.open("s1", "s1", "/v1/live")
        feed.on_event(Words(0, (Word("Good day", 0, 1),)))
        await shows(page, "Good day")
        assert await page.is_hidden("#hint [role=status]")
        # What people correct is corrected there: of an open segment, and of one that is closed.
        feed.amend(0, 1, "Good evening")
        feed.on_event(Words(0, (Word(" all", 1, 2),)))
        await shows(page, "Good evening all")
        feed.on_event(SegmentClosed(0, 0, 2, "Good day all"))
        feed.on_event(Words(1, (Word(" Welcome", 3, 4),)))
        feed.amend(0, 2, "Good night all")
        await shows(page, "Good night all Welcome")


@asynccontextmanager
async def feeding():
    """The real endpoints over feeds that a test fills: an engine says no markup by itself."""
    feeds, pages = CaptionFeeds(), Pages()
    captions = CaptionEndpoints(feeds, pages)
    routes = [
        Route("/captions/{session}", captions.follow),
        Route("/overlay/{session}", captions.overlay),
        Mount("/static", pages),
    ]
    middleware = [Middleware(AuthMiddleware, authenticator=Authenticator(Access()))]
    config = uvicorn.Config(
        Starlette(routes=routes, middleware=middleware), port=0, lifespan="off", log_level="error"
    )
    running = uvicorn.Server(config)
    serving = asyncio.create_task(running.serve())
    while not running.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        yield feeds, f"http://127.0.0.1:{port}"
    finally:
        for feed in feeds:
            feeds.close(feed)
        running.should_exit = True
        await serving


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.usefixtures("browsers")
async def test_markup_is_shown_as_text():
    wishes = {
        "size": f"1px;}}</style>{EVIL}",
        "color": "red;background:url(http://127.0.0.1:9/x)",
        "font": f"x;{EVIL}",
        "lines": "__proto__",
        "position": "constructor",
        "shadow": "url(http://127.0.0.1:9/x)",
        "token": EVIL,
    }
    query = "&".join(f"{name}={quote(value)}" for name, value in wishes.items())
    name = EVIL.replace("/", "")
    async with feeding() as (feeds, url):
        feed = feeds.open("s1", name, "/v1/live")
        async with overlay(f"{url}/overlay/{quote(name)}?{query}") as page:
            requests = []
            page.on("request", lambda request: requests.append(request.url))
            await page.wait_for_selector("body[data-state=following]")
            feed.on_event(Words(0, (Word(EVIL, 0, 1600),)))
            await shows(page, EVIL)
            feed.on_event(SegmentClosed(0, 0, 1600, EVIL))
            feed.on_event(Draft(1, f" {EVIL} twice"))
            await shows(page, f"{EVIL} {EVIL} twice")
            assert await page.title() == "voxlive captions"
            assert await page.query_selector("img") is None
            assert not [url for url in requests if "/x" in url]


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.usefixtures("browsers")
async def test_the_overlay_shows_the_last_lines_and_fades():
    async with feeding() as (feeds, url):
        feed = feeds.open("s1", "s1", "/v1/live")
        feed.on_event(Words(0, tuple(Word(f" word{n}", n, n + 1) for n in range(200))))
        async with overlay(f"{url}/overlay/s1?lines=3&size=40&fade=0.2") as page:
            await shows(page, "word199")
            box = await page.locator("#text").bounding_box()
            assert box["height"] == pytest.approx(3 * 1.3 * 40, abs=1)
            last = await page.evaluate(
                "document.querySelector('#text span').getBoundingClientRect().bottom"
            )
            assert last == pytest.approx(box["y"] + box["height"], abs=1)
            await page.wait_for_selector("#text.gone", state="attached")
