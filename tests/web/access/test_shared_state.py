"""What replicas count together: the same of one process, and of two by a real Redis."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from support.redis_server import redis_serving

from voxlive.errors import RequestRefused
from voxlive.web import redis_state
from voxlive.web.access.shared_state import LocalState
from voxlive.web.redis_state import RedisState, SessionPlace


@pytest.fixture(scope="module")
def redis():
    with redis_serving() as server:
        yield server


@pytest.fixture
def short_leases(monkeypatch):
    monkeypatch.setattr(redis_state, "LEASE_S", 0.6)
    monkeypatch.setattr(redis_state, "BEAT_S", 0.2)


@asynccontextmanager
async def replicas(url: str, count: int = 2):
    states = [RedisState(url) for _ in range(count)]
    for state in states:
        state.start()
    try:
        yield states
    finally:
        for state in states:
            await state.aclose()


@asynccontextmanager
async def both(kind: str, redis):
    """Two ends of one state."""
    if kind == "local":
        yield [LocalState()] * 2
    else:
        async with replicas(redis.url) as states:
            yield states


async def until(condition) -> None:
    """Another end writes: there is nothing to wait on but what it has written."""
    while not await condition():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def nothing_at(state):
    async def nothing() -> bool:
        return not (await state.find_place("s") or await state.all_places())

    return nothing


everywhere = pytest.mark.parametrize("kind", ["local", "redis"])


@everywhere
async def test_sessions_of_a_key_are_counted_once_for_all(kind, redis):
    async with both(kind, redis) as (one, two):
        assert [await state.take_session("hall", 2) for state in (one, two, one, two)] == [
            *(True, True),
            *(False, False),
        ]
        assert await one.take_session("kitchen", 1)
        one.give_session_back("hall")
        await until(lambda: two.take_session("hall", 2))
        assert not await one.take_session("hall", 2)
        taken = await asyncio.gather(
            *(s.take_session("lift", 5) for s in (one, two) for _ in "abcd")
        )
        assert sum(taken) == 5


@everywhere
async def test_a_rate_is_that_of_all(kind, redis):
    async with both(kind, redis) as (one, two):
        slow, fast = {"key hall": 3.0}, {"key hall": 3.0, "server": 60_000.0}
        assert [await state.take_token(fast) for state in (one, two, one)] == [0, 0, 0]
        for state in (one, two):  # a refusal takes nothing, of no bucket
            assert 19 < await state.take_token(slow) <= 20
            assert 19 < await state.take_token(fast) <= 20
        assert await two.take_token({"server": 60_000.0}) == 0
        assert await one.take_token({"key hurried": 6000.0}) == 0


@everywhere
async def test_a_captions_name_is_one_keys(kind, redis):
    async with both(kind, redis) as (one, two):
        assert await one.claim_name("stage", "hall")
        assert await two.claim_name("stage", "hall")
        assert not await two.claim_name("stage", "kitchen")
        one.free_name("stage")
        assert not await one.claim_name("stage", "kitchen")
        two.free_name("stage")
        await until(lambda: one.claim_name("stage", "kitchen"))
        assert not await two.claim_name("stage", "hall")


async def test_what_a_dead_replica_had_is_free_soon(redis, short_leases):
    async with replicas(redis.url, 1) as [alive]:
        dead = RedisState(redis.url)
        dead.start()
        dead.places = lambda: [SessionPlace("s", "stage", "/v1/live", "hall", 1.0)]
        dead.announce(*dead.places())
        assert await dead.take_session("hall", 1)
        assert await dead.claim_name("stage", "hall")
        await until(lambda: alive.find_place("stage"))
        await asyncio.sleep(3 * redis_state.LEASE_S)  # it lives, and renews
        assert not await alive.take_session("hall", 1)
        assert not await alive.claim_name("stage", "kitchen")
        assert [one.session for one in await alive.all_places()] == ["s"]
        for task in dead._tasks:  # as when its process is killed
            task.cancel()
        await until(lambda: alive.take_session("hall", 1))
        await until(lambda: alive.claim_name("stage", "kitchen"))
        await until(nothing_at(alive))


async def test_redis_may_be_restarted(redis, short_leases):
    async with replicas(redis.url) as (one, two):
        place = SessionPlace("s", "stage", "/v1/live", "hall", 1.0)
        one.places = lambda: [place]
        one.announce(place)
        assert await one.take_session("hall", 2)
        heard: list[str] = []
        two.on_message = lambda message: heard.append(message["kind"])
        await until(lambda: two.find_place("s"))
        redis.stop()
        with pytest.raises(RequestRefused) as refusal:
            await two.take_session("hall", 2)
        assert (refusal.value.code, refusal.value.status) == ("state_unavailable", 503)
        assert await two.find_place("s") is None
        redis.start()  # it has lost all

        async def told() -> bool:
            one.tell_all({"kind": "here"})
            return bool(heard)

        await until(lambda: two.find_place("stage"))
        await until(told)
        assert await two.take_session("hall", 2)
        assert not await two.take_session("hall", 2)


async def test_nothing_stays_behind_however_sessions_come_and_go(redis):
    """Everything is given back while some of it is on its way to Redis."""
    seeded = random.Random(15)
    async with replicas(redis.url, 3) as states:
        for state in states:
            state.places = tuple

        async def come_and_go(state: RedisState, number: int) -> None:
            place = SessionPlace(f"s{number}", f"name{number % 5}", "/v1/live", "hall", number)
            if not await state.take_session("hall", 8):
                return
            named = await state.claim_name(place.name, "hall")
            state.announce(place)
            await asyncio.sleep(seeded.choice((0, 0.001, 0.004)))
            state.withdraw(place)
            if named:
                state.free_name(place.name)
            state.give_session_back("hall")

        for number in range(0, 600, 12):
            some = enumerate(seeded.choices(states, k=12), number)
            await asyncio.gather(*(come_and_go(state, n) for n, state in some))
        await until(lambda: _all_free(states))
        assert not any(task.done() for state in states for task in state._tasks)


async def _all_free(states: list[RedisState]) -> bool:
    keys = [key async for key in states[0]._redis.scan_iter("{voxlive}:[sn]*")]
    found = [key for key in keys if not key.endswith(":replicas")]
    return not found and not await states[0].all_places()
