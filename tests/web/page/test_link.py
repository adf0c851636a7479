"""The page's link to the server, driven without a microphone: how it bridges broken lines."""

import asyncio
import base64
import json
import random

import psutil
import pytest
from support.browser import line_to, without_the_page
from support.clips import clip
from support.scoring import spelt
from support.server import AT_PAUSES, serving
from support.wire import dial, receive_until, s16le, send

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

RATE = 16_000
BROKEN = ["WebSocket connection", "Failed to load resource", "net::ERR"]

# A link whose events are kept in window.told, and ways to feed it.
OPEN = """async (options) => {
  const { Link } = await import("/static/link.js");
  const { liveUrl } = await import("/static/live.js");
  window.told = [];
  const tell = (kind) => (...values) => window.told.push([kind, ...values]);
  window.link = new Link(liveUrl(), {}, {
    ready: tell("ready"), event: tell("event"), waiting: tell("waiting"),
    resumed: tell("resumed"), restarted: tell("restarted"), ended: tell("ended"),
  }, options);
  const push = (pcm) => {
    for (let at = 0; at < pcm.length; at += 640) window.link.push(pcm.subarray(at, at + 640));
  };
  window.silence = (seconds) => push(new Int16Array(seconds * 16000));
  window.speech = (base64) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    push(new Int16Array(bytes.buffer));
  };
}"""


async def opened(page, **options):
    await page.evaluate(OPEN, options)
    return await told(page, "ready")


async def told(page, kind):
    """Wait for an event of the link; its values."""
    await page.wait_for_function("(kind) => window.told.some(([k]) => k === kind)", arg=kind)
    return await page.evaluate("(kind) => told.find(([k]) => k === kind).slice(1)", kind)


async def count(page, kind):
    return await page.evaluate("(kind) => told.filter(([k]) => k === kind).length", kind)


async def events(page, kind):
    return await page.evaluate(
        "(kind) => told.filter(([k, e]) => k === 'event' && e.type === kind).map(([, e]) => e)",
        kind,
    )


async def speak(page, data):
    await page.evaluate("(data) => speech(data)", base64.b64encode(data).decode())


async def speech_has_begun(page):
    await page.wait_for_function(
        "() => window.told.some(([k, e]) => k === 'event' && e.type === 'speech_started')"
    )


async def all_sent(page):
    await page.wait_for_function("() => link.unsent === 0")


async def whole(page):
    """Stop, and wait for the end, which everything was there for."""
    await page.evaluate("link.stop()")
    assert await told(page, "ended") == [None, 0]


def pcm(name):
    return s16le(clip(name).samples)


async def words(page):
    return [word for event in await events(page, "words") for word in event["words"]]


async def text(page):
    return "".join(word["text"] for word in await words(page))


async def uncut(server, data, **options):
    """The words and segments of a line that holds, without the session's name."""
    async with without_the_page(server.url) as watched:
        await opened(watched.page, **options)
        await speak(watched.page, data)
        await whole(watched.page)
        return await what_was_said(watched.page)


_RECOGNISED = {}


async def recognised(server, name):
    """The words of a clip over a line that holds."""
    if name not in _RECOGNISED:
        said, _ = await uncut(server, pcm(name))
        _RECOGNISED[name] = spelt("".join(word["text"] for word in said))
    return _RECOGNISED[name]


async def what_was_said(page):
    closed = await events(page, "segment")
    named = [(e["segment"].split("/")[1], e["start"], e["end"], e["text"]) for e in closed]
    return await words(page), named


async def test_times_are_those_of_the_transcript(server):
    async with without_the_page(server.url) as watched:
        page = watched.page
        await opened(page, origin=100)
        await page.evaluate("silence(7)")
        await speak(page, pcm("doctor"))
        await whole(page)
        said = await words(page)
        assert said[0]["start"] == pytest.approx(107 + clip("doctor").sentences[0].start, abs=0.3)
        assert said[-1]["end"] == pytest.approx(107 + clip("doctor").sentences[0].end, abs=0.3)
        (segment,) = await events(page, "segment")
        assert segment["start"] == said[0]["start"]
        assert {event["segment"] for event in await events(page, "words")} == {segment["segment"]}
        assert await page.evaluate("link.captured") == pytest.approx(7 + clip("doctor").duration)


# A client in Node has the same link, over lines that break too: test_reference_client.py.
@pytest.mark.endurance
async def test_cuts_in_mid_word_change_nothing(server):
    data = pcm("market")
    expected = await uncut(server, data)
    chance = random.Random(5)
    async with line_to(server.url) as line, without_the_page(line.url) as watched:
        watched.expected = BROKEN
        page = watched.page
        [ready] = await opened(page)
        at = cuts = 0
        while at < len(data):
            piece = 640 * chance.randint(1, 40)
            await speak(page, data[at : at + piece])
            at += piece
            if chance.random() < 0.25:
                line.cut()
                cuts += 1
                await page.wait_for_timeout(chance.randint(0, 300))
                line.mend()
        await whole(page)
        assert cuts >= 5
        assert await count(page, "resumed") >= 1
        assert await count(page, "restarted") == 0
        assert await what_was_said(page) == expected
        assert {e["segment"].split("/")[0] for e in await events(page, "segment")} == {
            ready["session"]
        }


@pytest.mark.long
async def test_audio_beyond_the_bound_is_a_gap_and_the_rest_is_sent(server):
    async with line_to(server.url) as line, without_the_page(line.url) as watched:
        watched.expected = BROKEN
        page = watched.page
        await opened(page, keptS=30)
        await speak(page, pcm("doctor"))
        await speech_has_begun(page)
        await all_sent(page)
        line.cut()
        await told(page, "waiting")
        await page.evaluate("silence(60)")
        dropped = await page.evaluate("link.dropped")
        line.mend()
        (gap,) = await told(page, "restarted")
        # What the session had of the audio comes to its end first, then the next one begins.
        late = clip("doctor").duration + 60 - 30
        assert gap["at"] == pytest.approx(late)
        assert gap["lost"] == pytest.approx(dropped) == pytest.approx(30)
        assert (gap["replayed"], gap["code"]) == (0, "lost")
        await speak(page, pcm("yes"))
        await whole(page)
        said = await words(page)
        doctor = await recognised(server, "doctor")
        text = "".join(word["text"] for word in said)
        assert spelt(text) == [*doctor, *await recognised(server, "yes")]
        first = clip("doctor").duration + 60 + clip("yes").sentences[0].start
        assert next(word for word in said if word["start"] > 40)["start"] == pytest.approx(
            first, abs=0.3
        )


async def test_stopping_on_a_broken_line_waits_for_it(server):
    async with line_to(server.url) as line, without_the_page(line.url) as watched:
        watched.expected = BROKEN
        page = watched.page
        await opened(page)
        data = pcm("doctor")
        await speak(page, data[: 3 * RATE * 2])
        await speech_has_begun(page)
        line.cut()
        await told(page, "waiting")
        await speak(page, data[3 * RATE * 2 :])
        await page.evaluate("link.stop()")
        await page.wait_for_timeout(500)
        assert await count(page, "ended") == 0
        line.mend()
        assert await told(page, "ended") == [None, 0]
        assert spelt(await text(page)) == await recognised(server, "doctor")
        assert await count(page, "resumed") == 1


async def test_stopping_on_a_line_that_stays_broken_says_what_is_missing(server):
    async with line_to(server.url) as line, without_the_page(line.url) as watched:
        watched.expected = BROKEN
        page = watched.page
        await opened(page, giveUpS=1)
        await page.evaluate("silence(30)")
        await all_sent(page)
        line.cut()
        await told(page, "waiting")
        await page.evaluate("silence(3)")
        await page.evaluate("link.stop()")
        failure, missing = await told(page, "ended")
        assert failure["code"] == "unreachable"
        # Of the first 30 s, the last 15 may not have arrived, or all since the last message.
        assert 18 <= missing <= 33


async def test_another_client_that_takes_over_does_not_end_the_recording(server):
    async with without_the_page(server.url) as watched:
        page = watched.page
        [ready] = await opened(page)
        await page.evaluate("silence(2)")
        await all_sent(page)
        async with dial(f"{server.ws}/v1/live") as other:
            await send(other, {"type": "resume", "token": ready["resume"], "have": 0})
            await receive_until(other, "resumed")
            (gap,) = await told(page, "restarted")
            assert (gap["lost"], gap["code"]) == (0, "taken_over")
            await send(other, {"type": "stop"})
            await receive_until(other, "done")
        await speak(page, pcm("doctor"))
        await whole(page)
        assert spelt(await text(page)) == await recognised(server, "doctor")


def engine_of(server):
    """The process of its engine."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    (found,) = [child for child in children if "voxlive.engines.remote.child" in child.cmdline()]
    return found


@pytest.mark.endurance
async def test_an_engine_that_is_killed_in_mid_word_is_a_word_beside_and_nothing_else():
    data = pcm("doctor")
    with serving(*AT_PAUSES) as server:
        expected = await uncut(server, data)
        async with without_the_page(server.url) as watched:
            watched.expected = ["status of 503"]  # /health, until the next engine is there
            page = watched.page
            await opened(page)
            await speak(page, data[: 2 * RATE * 2])
            await speech_has_begun(page)
            engine_of(server).kill()
            await speak(page, data[2 * RATE * 2 :])
            await whole(page)
            assert len(await events(page, "recovered")) >= 1
            assert await count(page, "waiting") == 0
            assert await what_was_said(page) == expected


@pytest.mark.endurance
async def test_a_server_that_is_started_again_gets_what_the_other_had_not_said(server):
    data = pcm("doctor")
    with serving(*AT_PAUSES) as first:
        async with line_to(first.url) as line, without_the_page(line.url) as watched:
            watched.expected = BROKEN
            page = watched.page
            await opened(page, origin=5)
            await page.evaluate("silence(3)")
            await speak(page, data[: 2 * RATE * 2])
            await speech_has_begun(page)
            first.process.kill()
            line.cut()
            await told(page, "waiting")
            await speak(page, data[2 * RATE * 2 :])
            with serving(*AT_PAUSES) as second:
                line.lead_to(second.url)
                line.mend()
                (gap,) = await told(page, "restarted")
                assert gap["lost"] == 0
                assert gap["replayed"] > 1.5
                assert gap["code"] in ("lost", "engine_failed")
                await whole(page)
            said = await words(page)
            assert spelt("".join(word["text"] for word in said)) == await recognised(
                server, "doctor"
            )
            assert said[0]["start"] == pytest.approx(8 + clip("doctor").sentences[0].start, abs=0.3)


@pytest.mark.long
async def test_without_resumable_sessions_an_open_utterance_is_recognised_again(server):
    with serving(*AT_PAUSES, "--resume-seconds", "0") as plain:
        async with line_to(plain.url) as line, without_the_page(line.url) as watched:
            watched.expected = BROKEN
            page = watched.page
            [ready] = await opened(page)
            assert "resume" not in ready
            data = pcm("doctor")
            await speak(page, data[: 3 * RATE * 2])
            await speech_has_begun(page)
            await all_sent(page)
            line.cut()
            await told(page, "waiting")
            await speak(page, data[3 * RATE * 2 :])
            line.mend()
            (gap,) = await told(page, "restarted")
            assert (gap["at"], gap["lost"], gap["replayed"]) == (0, 0, 3)
            await whole(page)
            assert await count(page, "resumed") == 0
            assert len({event["segment"] for event in await events(page, "words")}) == 1
            assert spelt(await text(page)) == await recognised(server, "doctor")


@pytest.mark.endurance
async def test_a_session_that_the_server_has_given_up_is_followed_by_another(server):
    with serving(*AT_PAUSES, "--resume-seconds", "0.5") as brief:
        async with line_to(brief.url) as line, without_the_page(line.url) as watched:
            watched.expected = BROKEN
            page = watched.page
            await opened(page)
            data = pcm("doctor")
            await speak(page, data[: 3 * RATE * 2])
            await speech_has_begun(page)
            line.cut()
            await told(page, "waiting")
            await speak(page, data[3 * RATE * 2 :])
            await asyncio.sleep(1.5)
            line.mend()
            (gap,) = await told(page, "restarted")
            assert (gap["lost"], gap["code"]) == (0, "lost")
            await whole(page)
            assert spelt(await text(page)) == await recognised(server, "doctor")
            assert json.dumps(await events(page, "error")) == "[]"
