"""Readers of another replica's session, by a real Redis, while messages are lost on the way."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

import pytest
from support.redis_server import redis_serving

from voxlive.streaming.events import SegmentClosed, SessionClosed, Words
from voxlive.values import Word
from voxlive.web import redis_state
from voxlive.web.captions import relay
from voxlive.web.captions.events import CaptionSnapshot, ClosedCaption
from voxlive.web.captions.feeds import CaptionFeeds
from voxlive.web.captions.relay import CaptionRelay
from voxlive.web.redis_state import RedisState, SessionPlace


@pytest.fixture(scope="module")
def redis():
    with redis_serving() as server:
        yield server


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    for module in (redis_state, relay):
        monkeypatch.setattr(module, "BEAT_S", 0.2)
    monkeypatch.setattr(relay, "_ASKED_S", 0.05)
    monkeypatch.setattr(relay, "_LOADED_S", 60.0)


async def replica(stack: AsyncExitStack, url: str, losing: random.Random | None = None):
    """Its feeds; of the messages to it two in five are lost if ``losing``."""
    state, feeds = RedisState(url), CaptionFeeds()
    relayed = CaptionRelay(feeds, state)
    if losing:
        receive = state.on_message
        state.on_message = lambda one: receive(one) if losing.random() > 0.4 else None
    relayed.start()
    stack.push_async_callback(relayed.aclose)
    return feeds


async def located(feeds: CaptionFeeds, name: str):
    while (feed := await feeds.locate(name)) is None:  # noqa: ASYNC110, another one writes it
        await asyncio.sleep(0.02)
    return feed


def say(feed, segment: int, *, closed: bool) -> None:
    at = 16_000 * segment
    feed.on_event(Words(segment, (Word(f" word{segment}", at, at + 8000, None),)))
    if closed:
        feed.on_event(SegmentClosed(segment, at, at + 8000, f" word{segment}"))


@pytest.mark.parametrize("seed", range(4))
async def test_a_reader_gets_every_segment_whatever_is_lost(redis, seed):
    async with AsyncExitStack() as stack:
        here = await replica(stack, redis.url, random.Random(seed))
        there = await replica(stack, redis.url, random.Random(seed + 100))
        feed = here.open(f"session{seed}", "stage", "/v1/live")
        for segment in range(5):
            say(feed, segment, closed=True)
        reading = (await located(there, "stage")).read()
        read: dict[int, str] = {}

        async def read_until(segments: int) -> None:
            while len(read) < segments:
                match await anext(reading):
                    case CaptionSnapshot() as snapshot:
                        read.update((one.id, one.text) for one in snapshot.segments)
                    case ClosedCaption(ident, _, _, text):
                        read[ident] = text

        await read_until(5)
        for segment in range(5, 40):
            say(feed, segment, closed=True)
            await asyncio.sleep(0.005)
        await read_until(40)
        assert read == {segment: f" word{segment}" for segment in range(40)}
        feed.on_event(SessionClosed(640_000))
        async for _ in reading:
            pass  # it ends


@pytest.mark.parametrize("where", ["where it is read", "elsewhere"])
async def test_who_waits_for_a_replica_that_is_gone_reads_the_session_where_it_goes_on(
    redis, where
):
    async with AsyncExitStack() as stack:
        there, other = [await replica(stack, redis.url) for _ in "ab"]
        gone = RedisState(redis.url)  # it answers nobody
        stack.push_async_callback(gone.aclose)
        gone.start()
        gone.announce(SessionPlace(where, "stage", "/v1/live", "", 0.0))
        reading = asyncio.create_task(located(there, where))
        while where not in there.relay._followed:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        now = there if where == "where it is read" else other
        say(now.open(where, "stage", "/v1/live"), 0, closed=True)
        async with asyncio.timeout(30):
            feed = await reading
        snapshot = await anext(feed.read())
        assert [one.text for one in snapshot.segments] == [" word0"]


async def test_what_a_session_sends_is_that_of_where_it_is(redis):
    """The state of the replica that it has left may come late, and has higher numbers."""
    async with AsyncExitStack() as stack:
        before, now, there = [await replica(stack, redis.url) for _ in "abc"]
        feed = before.open("moved", "stage", "/v1/live")
        reader = await located(there, "stage")
        for segment in range(10):
            say(feed, segment, closed=True)
        old = there.relay._followed["moved"].replica
        while reader.place.words < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        moved = now.open("moved", "stage", "/v1/live")
        say(moved, 0, closed=True)
        while there.relay._followed["moved"].replica == old:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        late = {"kind": "state", "session": "moved", "number": 50, "state": feed.state}
        before.relay._state.tell(there.relay._state.replica, late)
        for segment in range(1, 4):
            say(moved, segment, closed=True)
            await asyncio.sleep(0.05)
        while (await located(there, "stage")).place.words != 4:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
