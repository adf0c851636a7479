"""Wrong keys are limited per address."""

import asyncio

from support.asgi import running
from support.keys import KEYED, KEYS, LIVE, bearer

from voxlive.web.access import middleware
from voxlive.web.access.keys import MAX_ADDRESSES, WRONG_KEY_BURST, WRONG_KEYS_PER_MINUTE, WrongKeys


def test_wrong_keys_are_limited_per_address():
    wrong = WrongKeys()
    assert [wrong.wait_s("192.0.2.1", 0.0) for _ in range(WRONG_KEY_BURST)] == [0] * WRONG_KEY_BURST
    waits = [wrong.wait_s("192.0.2.1", 0.0) for _ in range(1000)]
    assert set(waits) == {60 / WRONG_KEYS_PER_MINUTE}  # those that are refused cost nothing more
    assert wrong.wait_s("192.0.2.2", 0.0) == 0
    assert wrong.wait_s("192.0.2.1", 60 / WRONG_KEYS_PER_MINUTE) == 0
    assert wrong.wait_s("192.0.2.1", 60 / WRONG_KEYS_PER_MINUTE) > 0
    assert wrong.wait_s("192.0.2.1", 3600.0) == 0


def test_an_ipv6_network_counts_as_one_address():
    wrong = WrongKeys()
    for n in range(WRONG_KEY_BURST):
        assert wrong.wait_s(f"2001:db8::{n:x}", 0.0) == 0
    assert wrong.wait_s("2001:db8::ffff", 0.0) > 0
    assert wrong.wait_s("2001:db8:0:1::1", 0.0) == 0
    for n in range(WRONG_KEY_BURST):
        assert wrong.wait_s(f"::ffff:192.0.2.{n}", 0.0) == 0
    assert wrong.wait_s("::ffff:192.0.2.200", 0.0) == 0


def test_the_least_recent_address_is_dropped_at_the_bound():
    wrong = WrongKeys()
    for _ in range(WRONG_KEY_BURST):
        wrong.wait_s("192.0.2.1", 0.0)
    for n in range(MAX_ADDRESSES - 1):
        wrong.wait_s(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 0.0)
    assert len(wrong._buckets) == MAX_ADDRESSES
    assert wrong.wait_s("192.0.2.1", 0.0) > 0
    for n in range(MAX_ADDRESSES):
        wrong.wait_s(f"11.{n >> 16}.{n >> 8 & 255}.{n & 255}", 0.0)
    assert len(wrong._buckets) == MAX_ADDRESSES
    assert wrong.wait_s("192.0.2.1", 0.0) == 0


async def test_wrong_keys_over_http_are_limited_and_a_right_one_is_admitted(monkeypatch):
    monkeypatch.setattr(middleware, "_DELAY_S", 0.01)
    async with running(*KEYED) as server:

        async def attempt(n: int) -> int:
            key = bearer(f"wrong-wrong-wrong-{n}")
            answer = await server.http.get("/v1/models", headers=key)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["code"] == "rate_limit_exceeded"
            return answer.status_code

        statuses = await asyncio.gather(*(attempt(n) for n in range(300)))
        assert statuses.count(401) == WRONG_KEY_BURST
        assert statuses.count(429) == 300 - WRONG_KEY_BURST
        assert (await server.http.get("/v1/models", headers=bearer(LIVE))).status_code == 200
        # Who sends none has tried none.
        assert (await server.http.get("/v1/models")).status_code == 401
        code, said = await server.refused("/v1/live", headers=bearer("wrong-wrong-wrong-x"))
        # Another address: the socket of this test has none.
        assert (code, said["code"]) == (4401, "invalid_api_key")
        query = {"token": KEYS["captions"]}
        assert (await server.http.get("/captions", params=query)).status_code == 200


async def test_wrong_keys_over_websocket_are_limited(monkeypatch):
    monkeypatch.setattr(middleware, "_DELAY_S", 0.01)
    async with running(*KEYED) as server:
        codes = [
            (await server.refused("/v1/live", headers=bearer(f"wrong-wrong-wrong-{n}")))[0]
            for n in range(WRONG_KEY_BURST + 5)
        ]
        assert codes == [4401] * WRONG_KEY_BURST + [4429] * 5
        async with server.dial("/v1/live", headers=bearer(LIVE)) as talk:
            assert talk.code is None
