"""The page through hours of captions: frames, memory, and a reload.

    PYTHONPATH=tests python benchmarks/page.py                          # 20,000 words, two hours
    PYTHONPATH=tests python benchmarks/page.py --words 20000 200000
    PYTHONPATH=tests python benchmarks/page.py --fill 1000 --watch 60
    PYTHONPATH=tests python benchmarks/page.py --view --words 20000 200000   # what an update costs

A server that speaks the native protocol and recognises nothing sends the words: most of them at
``--fill`` words a second, so that two hours of speech take a minute or so (its clock is in the
messages, the page's own is that of its fake microphone), then at the rate of speech for ``--watch``
seconds, with a draft for every word. Frames are measured in both, as the time from one to the next,
and what of a core the page's own thread takes, which other programs on the machine hardly change.
Memory is what is left after a collection, at each quarter. Then the page is loaded again in
mid-session: until it offers to continue, until the newest words are painted, and until words come.

``--view`` has no session: a transcript of so many words is shown, then a hundred words come one by
one, each with a draft behind it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import statistics
from dataclasses import dataclass, field

import uvicorn
from playwright.async_api import CDPSession, Page
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from support.browser import browsing, state_is

from voxlive.web.pages import Pages

WORD_S = 0.36  # 167 a minute: two hours are 20,000
SEGMENT_WORDS = 14
MESSAGES_A_SECOND = 100
ACK_S = 2.0
SPOKEN_A_SECOND = 1 / WORD_S
MODEL = "words"
VOCABULARY = ["the", "of", "and", "to", "in", "a", "is", "that", "for", "it"] + [
    "".join(random.Random(n).choices("etaoinshrdlu", k=3 + n % 9)) for n in range(2000)
]
FRAMES = """() => {
  window.frames = [];
  let last = performance.now();
  const next = (now) => {
    window.frames.push(now - last);
    last = now;
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
}"""
VIEW = """async (count) => {
  const { Transcript } = await import("/static/transcript.js");
  const { TranscriptView } = await import("/static/view.js");
  const found = (id) => document.getElementById(id);
  const said = document.createElement("p");
  const view = new TranscriptView(found("captions"), found("paragraphs"), found("jump"), said);
  const transcript = new Transcript();
  let n = 0;
  const word = () => {
    const start = n * 0.36 + 2 * Math.floor(n / 70);
    const text = ` word${(n * 7919) % 2000}${n % 14 === 13 ? "." : ""}`;
    transcript.words(`a/${Math.floor(n / 14)}`, [{ text, start, end: start + 0.3, p: null }]);
    n++;
  };
  found("welcome").hidden = true;
  while (n < count) word();
  view.show(transcript);
  window.more = () => {
    word();
    transcript.drafted(`a/${Math.floor(n / 14)}`, ` guess ${n}`);
    view.show(transcript);
  };
  window.paragraphs = transcript.items.length;
}"""
UPDATES = """async (count) => {
  const times = [];
  for (let i = 0; i < count; i++) {
    window.more();
    const begun = performance.now();
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - begun);
  }
  return times;
}"""
SHOWN = "[...document.querySelectorAll('.paragraph')].at(-1)?.textContent ?? ''"


def health() -> dict[str, object]:
    nothing = {"note": None, "store": None, "commit": None, "delay_ms": None, "error": None}
    lists = {"commit_rules": [], "delays_ms": [], "languages": ["en"], "files": []}
    about = {"engine": MODEL, "model": MODEL, "device": "cpu", "version": "0"}
    places = {"capacity": 1, "in_use": 0, "takes_language": False, "translates": False}
    state = {"status": "ok", "live": True, "ready": True, "key_needed": False}
    return {**nothing, **lists, **about, **places, **state}


@dataclass
class Talk:
    """What is said, how far that is, and how fast it goes on."""

    rate: float
    upto: int
    said: int = 0
    messages: int = 0
    received: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def word(self, at: int) -> dict[str, object]:
        end = "." if at % SEGMENT_WORDS == SEGMENT_WORDS - 1 else ""
        text = f" {VOCABULARY[at * 7919 % len(VOCABULARY)]}{end}"
        start = self.begin(at)
        return {"text": text, "start": start, "end": start + 0.3, "p": None}

    def begin(self, at: int) -> float:
        """A pause of two seconds is before every fifth segment."""
        return round(at * WORD_S + 2 * (at // (5 * SEGMENT_WORDS)), 2)

    async def reached(self) -> None:
        """All that is wanted is said."""
        while self.said < self.upto:
            self.moved.clear()
            await self.moved.wait()

    async def live(self, client: WebSocket) -> None:
        await client.accept()
        first = json.loads(await client.receive_text())
        if first["type"] == "resume":
            answer = {"type": "resumed", "session": "talk", "epoch": 1, "samples": self.received}
            self.messages = first["have"] + 1
        else:
            answer = {"type": "ready", "session": "talk", "resume": "token", "epoch": 0}
            answer |= {"seq": 0, "model": MODEL, "engine": MODEL, "device": "cpu"}
            answer |= {"language": "en", "languages": ["en"], "store": False}
            self.messages = 1
        await client.send_json(answer)
        sending = asyncio.create_task(self._send(client))
        try:
            while True:
                message = await client.receive()
                if message["type"] == "websocket.disconnect":
                    return
                self.received += len(message.get("bytes") or b"") // 2
                if '"stop"' in (message.get("text") or ""):
                    await self._say(client, type="done", duration=self.received / 16_000, text="")
                    return
        finally:
            sending.cancel()

    async def _say(self, client: WebSocket, **message: object) -> None:
        await client.send_json({**message, "seq": self.messages})
        self.messages += 1

    async def _send(self, client: WebSocket) -> None:
        clock = asyncio.get_running_loop().time
        acknowledged = due = clock()
        while True:
            if clock() - acknowledged > ACK_S:
                acknowledged = clock()
                settled = max(0, self.received - 16_000)
                await client.send_json({"type": "ack", "samples": settled})
                await client.send_json({"type": "lag", "behind_s": 0.4})
            if self.said >= self.upto:
                due = clock()
                await asyncio.sleep(0.05)
                continue
            # As an engine does that catches up: several words come together.
            count = max(1, round(self.rate / MESSAGES_A_SECOND))
            due += await self._words(client, count) / self.rate
            await asyncio.sleep(max(0.0, due - clock()))

    async def _words(self, client: WebSocket, most: int) -> int:
        """Words of one segment, with a draft before them; how many."""
        at = self.said
        segment, place = divmod(at, SEGMENT_WORDS)
        count = min(most, SEGMENT_WORDS - place, self.upto - at)
        if place == 0:
            await self._say(client, type="speech_started", t=self.begin(at))
        guess = "".join(str(self.word(n)["text"]) for n in range(at, at + count + 3))
        await client.send_json({"type": "draft", "segment": segment, "text": guess})
        words = [self.word(n) for n in range(at, at + count)]
        await self._say(client, type="words", segment=segment, words=words)
        self.said += count
        self.moved.set()
        if place + count == SEGMENT_WORDS:
            ends = {"start": self.begin(at - place), "end": words[-1]["end"], "text": ""}
            await self._say(client, type="segment", id=segment, **ends)
        return count


async def heap(session: CDPSession) -> tuple[float, float]:
    """MB that are left after a collection, and nodes of the document."""
    await session.send("HeapProfiler.collectGarbage")
    used = await session.send("Runtime.getHeapUsage")
    counts = await session.send("Memory.getDOMCounters")
    return used["usedSize"] / 1e6, counts["nodes"]


async def busy(session: CDPSession) -> float:
    """Seconds of a core that the page's own thread has had so far."""
    found = (await session.send("Performance.getMetrics"))["metrics"]
    return next(one["value"] for one in found if one["name"] == "TaskDuration")


async def frames(page: Page, what: str, share: float) -> None:
    times = sorted(await page.evaluate("window.frames.splice(0)"))[:-1]
    p50, p95, p99 = (times[int(len(times) * q)] for q in (0.5, 0.95, 0.99))
    print(
        f"  {what}: {len(times)} frames, p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms, "
        f"longest {times[-1]:.0f} ms; {share:.0%} of a core"
    )


async def shown(page: Page, talk: Talk) -> None:
    """Wait until the newest word is on the page."""
    text = str(talk.word(talk.said - 1)["text"])
    await page.wait_for_function(f"(text) => ({SHOWN}).includes(text)", arg=text, timeout=120_000)


async def since(page: Page, what: str) -> float:
    """Milliseconds from the beginning of the document until this holds and is painted."""
    return await page.evaluate(
        f"""() => new Promise((done) => {{
          const look = () => ({what})
            ? requestAnimationFrame(() => setTimeout(() => done(performance.now())))
            : setTimeout(look, 5);
          look();
        }})"""
    )


async def measure(url: str, talk: Talk, words: int, fill: float, watch: float) -> None:
    print(
        f"{words} words, {talk.begin(words) / 3600:.1f} h of speech, filled at {fill:.0f} a second"
    )
    async with browsing(url, whole=True) as watched:
        page = watched.page
        session = await page.context.new_cdp_session(page)
        await session.send("Performance.enable", {"timeDomain": "threadTicks"})
        await page.wait_for_selector('#engine[data-health="ok"]')
        await page.click("#toggle")
        await state_is(page, "listening")
        await page.evaluate(FRAMES)
        talk.rate, begun = fill, asyncio.get_running_loop().time()
        before = await busy(session)
        for quarter in range(1, 5):
            talk.upto = words * quarter // 4
            await talk.reached()
            await shown(page, talk)
            size, nodes = await heap(session)
            print(f"  {talk.said} words: {size:.1f} MB of objects, {nodes:.0f} nodes")
        took = asyncio.get_running_loop().time() - begun
        share = (await busy(session) - before) / took
        await frames(page, f"while all came, in {took:.0f} s", share)
        talk.rate, talk.upto = SPOKEN_A_SECOND, words + 10**9
        await asyncio.sleep(1)
        await page.evaluate("void (window.frames.length = 0)")
        before = await busy(session)
        await asyncio.sleep(watch)
        share = (await busy(session) - before) / watch
        await frames(page, f"at the rate of speech, for {watch:.0f} s", share)
        talk.upto = talk.said
        await shown(page, talk)
        await asyncio.sleep(1.5)  # the journal writes once a second
        loads = []
        for _ in range(3):
            page.once("dialog", lambda dialog: dialog.accept())
            await page.reload(wait_until="commit")
            loads.append(
                await since(page, "document.querySelector('#continue')?.checkVisibility()")
            )
        print(f"  reload, until it offers to continue: {statistics.median(loads):.0f} ms")
        before = await page.evaluate("performance.now()")
        await page.click("#continue-go")
        after = await since(page, f"({SHOWN}).length > 1")
        print(f"  continue, until the newest words are painted: {after - before:.0f} ms")
        await state_is(page, "listening")
        talk.rate, talk.upto = SPOKEN_A_SECOND, talk.said + 20
        before = await page.evaluate("performance.now()")
        await talk.reached()
        await shown(page, talk)
        whole = await page.evaluate("document.querySelector('#paragraphs').textContent.length")
        print(f"  words come again; {whole} characters are on the page")
        await page.click("#toggle")
        await state_is(page, "stopped", "error")


async def view(url: str, words: int) -> None:
    """What a word that comes costs, with so many before it."""
    async with browsing(url, whole=True) as watched:
        page = watched.page
        session = await page.context.new_cdp_session(page)
        await session.send("Performance.enable", {"timeDomain": "threadTicks"})
        await page.evaluate(VIEW, words)
        await page.wait_for_function(
            "() => document.querySelectorAll('.paragraph').length >= window.paragraphs"
        )
        await asyncio.sleep(1)
        before, count = await busy(session), 100
        times = sorted(await page.evaluate(UPDATES, count))
        cost = 1000 * (await busy(session) - before) / count
        p50, p95 = (times[int(count * q)] for q in (0.5, 0.95))
        print(f"{words} words, {await page.evaluate('window.paragraphs')} paragraphs: an update")
        print(f"  takes {cost:.1f} ms of a core; on screen in p50 {p50:.0f} ms, p95 {p95:.0f} ms")


async def run(args: argparse.Namespace) -> None:
    pages = Pages()
    talks: list[Talk] = []

    async def answer(_: Request) -> Response:
        return JSONResponse(health())

    async def live(client: WebSocket) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            await talks[-1].live(client)

    routes = [
        Route("/", pages.index),
        Mount("/static", pages),
        Route("/health", answer),
        WebSocketRoute("/v1/live", live),
    ]
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="warning"))
    serving = asyncio.create_task(server.serve([listening]))
    port = listening.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    for words in args.words:
        talks.append(Talk(args.fill, 0))
        if args.view:
            await view(url, words)
        else:
            await measure(url, talks[-1], words, args.fill, args.watch)
    server.should_exit = True
    await serving


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, nargs="+", default=[20_000])
    parser.add_argument("--view", action="store_true")
    parser.add_argument("--fill", type=float, default=300.0)
    parser.add_argument("--watch", type=float, default=30.0)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
