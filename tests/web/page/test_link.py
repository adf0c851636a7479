"""The page's link to the server, driven without a microphone: how it bridges broken lines."""

import base64

import pytest
from support.browser import browsing, line_to
from support.clips import clip
from support.scoring import spelt
from support.wire import s16le

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

RATE = 16_000
BROKEN = ["WebSocket connection", "Failed to load resource", "net::ERR"]

# A link whose events are kept in window.told, and ways to feed it.
OPEN = """async (origin) => {
  const { Link } = await import("/static/link.js");
  const { liveUrl } = await import("/static/live.js");
  window.told = [];
  const tell = (kind) => (...values) => window.told.push([kind, ...values]);
  window.link = new Link(liveUrl(), {}, origin, {
    ready: tell("ready"), event: tell("event"), waiting: tell("waiting"),
    resumed: tell("resumed"), ended: tell("ended"),
  });
  const push = (pcm) => {
    for (let at = 0; at < pcm.length; at += 640) window.link.push(pcm.subarray(at, at + 640));
  };
  window.silence = (seconds) => push(new Int16Array(seconds * 16000));
  window.speech = (base64) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    push(new Int16Array(bytes.buffer));
  };
}"""


async def told(page, kind):
    """Wait for an event of the link; its values."""
    await page.wait_for_function(
        "(kind) => window.told.some(([k]) => k === kind)", arg=kind, timeout=60_000
    )
    return await page.evaluate("(kind) => told.find(([k]) => k === kind).slice(1)", kind)


async def events(page, kind):
    return await page.evaluate(
        "(kind) => told.filter(([k, e]) => k === 'event' && e.type === kind).map(([, e]) => e)",
        kind,
    )


async def speak(page, name):
    await page.evaluate("(data) => speech(data)", base64.b64encode(pcm(name)).decode())


def pcm(name):
    return s16le(clip(name).samples)


async def test_times_are_those_of_the_transcript(server):
    async with browsing(server.url) as watched:
        page = watched.page
        await page.evaluate(OPEN, 100)
        await told(page, "ready")
        await page.evaluate("silence(7)")
        await speak(page, "doctor")
        await page.evaluate("link.stop()")
        assert await told(page, "ended") == [None, 0]
        said = [word for event in await events(page, "words") for word in event["words"]]
        assert said[0]["start"] == pytest.approx(107 + clip("doctor").sentences[0].start, abs=0.3)
        assert said[-1]["end"] == pytest.approx(107 + clip("doctor").sentences[0].end, abs=0.3)
        (segment,) = await events(page, "segment")
        assert segment["start"] == said[0]["start"]
        assert {event["segment"] for event in await events(page, "words")} == {segment["segment"]}
        assert await page.evaluate("link.captured") == pytest.approx(7 + clip("doctor").duration)


async def test_what_the_ring_keeps_is_sent_again_and_the_rest_is_told(server):
    async with line_to(server.url) as line, browsing(line.url) as watched:
        watched.expected = BROKEN
        page = watched.page
        await page.evaluate(OPEN, 0)
        await told(page, "ready")
        await page.evaluate("silence(10)")
        await page.wait_for_function("() => link.behind === 0")
        line.cut()
        (failure,) = await told(page, "waiting")
        assert failure["code"] == "lost"
        await page.evaluate("silence(50)")
        line.mend()
        (gap,) = await told(page, "resumed")
        # 60 s were taken and 30 are kept; of the first 10, the last 5 may not have arrived.
        assert gap == {"at": 30, "lost": 25, "replayed": 0, "code": gap["code"]}
        await page.wait_for_function("() => link.behind === 0")
        await speak(page, "doctor")
        await page.evaluate("link.stop()")
        assert await told(page, "ended") == [None, 0]
        said = [word for event in await events(page, "words") for word in event["words"]]
        assert said[0]["start"] == pytest.approx(60 + clip("doctor").sentences[0].start, abs=0.3)


async def test_an_open_utterance_is_heard_again_whole(server):
    async with line_to(server.url) as line, browsing(line.url) as watched:
        watched.expected = BROKEN
        page = watched.page
        await page.evaluate(OPEN, 0)
        await told(page, "ready")
        half = base64.b64encode(pcm("doctor")[: 3 * RATE * 2]).decode()
        await page.evaluate("(data) => speech(data)", half)
        await page.wait_for_function(
            "() => window.told.some(([k, e]) => k === 'event' && e.type === 'draft' && e.text)"
        )
        line.cut()
        await told(page, "waiting")
        rest = base64.b64encode(pcm("doctor")[3 * RATE * 2 :]).decode()
        await page.evaluate("(data) => speech(data)", rest)
        line.mend()
        (gap,) = await told(page, "resumed")
        assert (gap["at"], gap["lost"], gap["replayed"]) == (0, 0, 3)
        await page.evaluate("link.stop()")
        assert await told(page, "ended") == [None, 0]
        said = [word for event in await events(page, "words") for word in event["words"]]
        assert len({event["segment"] for event in await events(page, "words")}) == 1
        text = spelt("".join(word["text"] for word in said))
        assert text[:2] == ["the", "doctor"]
        assert text[-1] == "results"


async def test_stopping_on_a_broken_line_ends_and_says_what_is_missing(server):
    async with line_to(server.url) as line, browsing(line.url) as watched:
        watched.expected = BROKEN
        page = watched.page
        await page.evaluate(OPEN, 0)
        await told(page, "ready")
        await page.evaluate("silence(10)")
        await page.wait_for_function("() => link.behind === 0")
        line.cut()
        await told(page, "waiting")
        await page.evaluate("silence(3)")
        await page.evaluate("link.stop()")
        failure, missing = await told(page, "ended")
        assert failure["code"] == "unreachable"
        assert missing == 8
