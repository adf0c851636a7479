"""Short-lived keys, in the shapes of those who know such, and what they carry."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.asgi import Running, running
from support.keys import KEYS, LIVE, bearer, every_protocol, let_in, url

from voxlive.errors import RequestRefused
from voxlive.web.access.access import MAX_TICKETS, Access, Tickets
from voxlive.web.access.keys import SCOPES, Key, Limits, TokenBucket, digest
from voxlive.web.errors import error_headers

HALL, KITCHEN = "hall-hall-hall-hall", "kitchen-kitchen-kitchen"
UNLIMITED = Limits()


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def access(time, limits=UNLIMITED, **of_hall) -> Access:
    keys = [
        Key("hall", digest(HALL), limits=Limits(**of_hall)),
        Key("kitchen", digest(KITCHEN), frozenset({"captions"})),
    ]
    return Access(keys, limits, time, time)


def refused(admit, *args) -> RequestRefused:
    with pytest.raises(RequestRefused) as refusal:
        admit(*args)
    return refusal.value


def test_without_keys_everyone_is_let_in(time):
    for secret in (None, "anything"):
        grant = Access((), Limits(), time, time).admit(secret, "live")
        assert grant.scopes == set(SCOPES)


def test_with_keys_nobody_else_is(time):
    door = access(time)
    assert door.admit(HALL, "live").name == "hall"
    assert refused(door.admit, None, "live").status == 401
    wrong = refused(door.admit, HALL + "x", None)
    assert (wrong.code, wrong.status) == ("invalid_api_key", 401)
    assert HALL not in wrong.message
    assert error_headers(wrong)["www-authenticate"] == "Bearer"


def test_a_key_opens_its_scopes_alone(time):
    door = access(time)
    assert door.admit(KITCHEN, "captions").name == "kitchen"
    assert door.admit(KITCHEN, None).name == "kitchen"
    assert refused(door.admit, KITCHEN, "live").status == 403


def test_a_ticket_is_its_keys_and_expires(time):
    door = access(time, sessions=1)
    secret, ticket = door.issue(door.admit(HALL, "live"), 60, "settings")
    grant = door.admit(secret, "live")
    assert (grant.name, grant.settings, ticket.expires_at) == ("hall", "settings", 1060)
    assert refused(door.admit, secret, "metrics").code == "forbidden"
    assert refused(door.issue, grant, 60).code == "forbidden"
    with door.admit(HALL, "live").session():
        assert refused(grant.session().__enter__).code == "too_many_sessions"
    time.now = 1060
    assert refused(door.admit, secret, "live").code == "invalid_api_key"


def test_a_ticket_opens_no_more_than_its_key(time):
    door = access(time)
    secret, _ = door.issue(door.admit(KITCHEN, "captions"), 60)
    assert refused(door.admit, secret, "live").code == "forbidden"


def test_tickets_have_a_bound_that_time_clears(time):
    door = access(time)
    hall = door.admit(HALL, "live")
    for _ in range(MAX_TICKETS):
        door.issue(hall, 60)
    full = refused(door.issue, hall, 60)
    assert (full.status, error_headers(full)["retry-after"]) == (429, "60")
    door.issue(door.admit(KITCHEN, None), 60)
    time.now += 60
    door.issue(hall, 60)


def test_a_place_is_free_again_when_its_session_is_over(time):
    door = access(time, sessions=2)
    hall = door.admit(HALL, "live")
    with hall.session():
        second = hall.session()
        second.__enter__()
        refused(hall.session().__enter__)
        assert not second.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        with hall.session():
            pass


def test_each_key_has_its_own_rate_and_all_share_the_servers(time):
    door = access(time, Limits(rate=3), rate=1)
    door.admit(HALL, "live")
    slow = refused(door.admit, HALL, "live")
    assert (slow.status, error_headers(slow)["retry-after"]) == (429, "60")
    door.admit(KITCHEN, "captions")
    door.admit(KITCHEN, "captions")
    assert error_headers(refused(door.admit, KITCHEN, "captions"))["retry-after"] == "20"
    time.now += 20
    door.admit(KITCHEN, "captions")


def test_whoever_is_refused_uses_nothing_up(time):
    door = access(time, Limits(rate=1))
    for _ in range(5):
        refused(door.admit, "wrong-wrong-wrong-wrong", "live")
        refused(door.admit, KITCHEN, "live")
    door.admit(HALL, "live")


def test_refusals_are_counted_and_watched(time):
    door, seen = access(time), []
    door.error_listeners.append(lambda *what: seen.append(what))
    door.count_error("invalid_api_key", "/v1/listen")
    assert door.errors["invalid_api_key", "/v1/listen"] == 1
    assert seen == [("invalid_api_key", "/v1/listen")]


steps = st.lists(st.floats(0, 120), min_size=1, max_size=60)


@given(st.floats(0.1, 600), steps)
def test_never_more_than_a_rest_and_the_rate_allow(per_minute, gaps):
    """In any stretch of time there are at most a full bucket and what flowed into it."""
    bucket = TokenBucket(per_minute)
    now, taken = 0.0, []
    for gap in gaps:
        now += gap
        if bucket.wait_s(now) == 0:
            bucket.take(now)
            taken.append(now)
    for first, start in enumerate(taken):
        for count, end in enumerate(taken[first:], 1):
            assert count <= max(1.0, per_minute) + (end - start) * per_minute / 60 + 1e-6


@given(st.floats(0.1, 600), st.integers(0, 700))
def test_whoever_waits_as_long_as_told_gets_one(per_minute, tries):
    bucket = TokenBucket(per_minute)
    now = 0.0
    for _ in range(min(tries, 50)):
        now += bucket.wait_s(now) * (1 + 1e-9) + 1e-9
        assert bucket.wait_s(now) <= 1e-6
        bucket.take(now)


def test_a_rest_fills_it_and_no_more():
    bucket = TokenBucket(3)
    for _ in range(3):
        assert bucket.wait_s(0) == 0
        bucket.take(0)
    assert bucket.wait_s(0) == 20
    assert bucket.wait_s(15) == 5
    for _ in range(3):
        assert bucket.wait_s(1e6) == 0
        bucket.take(1e6)
    assert bucket.wait_s(1e6) == 20


HALL_TICKETS = Key("hall", digest(LIVE))


async def secret_of(server: Running, **body) -> str:
    path = "/v1/realtime/client_secrets"
    answer = await server.http.post(path, json=body, headers=bearer(LIVE))
    assert answer.status_code == 200
    return answer.json()["value"]


@every_protocol
async def test_one_opens_each_protocol_until_it_expires(path):
    async with running(HALL_TICKETS) as server:
        secret = await secret_of(server, expires_after={"seconds": 10})
        assert await let_in(server, path, offered=("token", secret))
        server.clock[0] += 9
        assert await let_in(server, path, headers=bearer(secret))
        server.clock[0] += 1
        code, _ = await server.refused(url(path), offered=("token", secret))
        assert code in (401, 4401, 1008)


async def test_a_session_that_began_with_one_may_outlast_it():
    async with running(HALL_TICKETS) as server:
        secret = await secret_of(server, expires_after={"seconds": 10})
        async with server.dial("/v1/live", offered=("token", secret)) as talk:
            server.clock[0] += 3600
            talk.send('{"type": "start", "format": "s16le"}')
            talk.send('{"type": "stop"}')
            await talk.over.wait()
            assert talk.code == 1000


async def test_one_makes_no_others_and_reads_no_counters():
    async with running(HALL_TICKETS) as server:
        secret = await secret_of(server)
        for path in ("/v1/realtime/client_secrets", "/v1/auth/grant", "/v1/client/sessions"):
            assert (await server.http.post(path, headers=bearer(secret))).status_code == 403
        assert (await server.http.get("/metrics", headers=bearer(secret))).status_code == 403
        assert (await server.http.get("/v1/models", headers=bearer(secret))).status_code == 200


@pytest.mark.parametrize("keys", [(), (HALL_TICKETS,)])
async def test_the_session_that_it_was_made_for_is_in_force(keys):
    session = {"audio": {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None}}}
    async with running(*keys) as server:
        secret = await secret_of(server, session=session)
        offered = ("realtime", f"openai-insecure-api-key.{secret}")
        async with server.dial("/v1/realtime", offered=offered) as talk:
            while not talk.said:
                talk.answered.clear()
                await talk.answered.wait()
            inside = talk.said[0]["session"]["audio"]["input"]
    assert inside["format"] == {"type": "audio/pcmu"}
    assert inside["turn_detection"] is None


async def test_deepgrams_grant():
    async with running(HALL_TICKETS) as server:
        for body, lasts in (({}, 30), ({"ttl_seconds": 90}, 90)):
            answer = await server.http.post("/v1/auth/grant", json=body, headers=bearer(LIVE))
            assert answer.json()["expires_in"] == lasts
            token = answer.json()["access_token"]
            assert await let_in(server, "/v1/listen", headers=bearer(token))
            server.clock[0] += lasts
            assert (await server.refused(url("/v1/listen"), headers=bearer(token)))[0] == 401
        body = {"ttl_seconds": 0}
        answer = await server.http.post("/v1/auth/grant", json=body, headers=bearer(LIVE))
        assert (answer.status_code, answer.json()["err_code"]) == (400, "Bad Request")


async def test_mistrals_client_sessions():
    path = "/v1/client/sessions"
    body = {"model": "any", "purpose": "realtime", "ttl_seconds": 60}
    async with running(HALL_TICKETS) as server:
        answer = await server.http.post(path, json=body, headers=bearer(LIVE))
        assert answer.status_code == 201
        made = answer.json()
        assert (made["object"], made["purpose"]) == ("client.session", "realtime")
        expires = datetime.fromisoformat(made["client_secret"]["expires_at"])
        assert expires.timestamp() == server.clock[0] + 60
        secret = made["client_secret"]["value"]
        assert await let_in(server, "/v1/audio/transcriptions/realtime", headers=bearer(secret))
        answer = await server.http.post(path, json={"ttl_seconds": "x"}, headers=bearer(LIVE))
        assert (answer.status_code, answer.json()["param"]) == (400, "ttl_seconds")


async def test_a_key_without_live_sessions_makes_none():
    only_files = Key("files", digest(KEYS["files"]), frozenset({"files"}))
    async with running(only_files) as server:
        answer = await server.http.post("/v1/auth/grant", headers=bearer(KEYS["files"]))
        assert answer.status_code == 403


@pytest.mark.parametrize("noticed", [True, False])
def test_one_that_has_expired_stays_so_when_the_calendar_is_set_back(noticed):
    calendar, clock = [1e9], [0.0]
    tickets = Tickets(lambda: calendar[0], lambda: clock[0])
    secret, _ = tickets.issue("hall", frozenset({"live"}), 60)
    calendar[0], clock[0] = 1e9 + 59, 59
    assert tickets.find(secret)
    calendar[0], clock[0] = 1e9 + 61, 61
    if noticed:
        assert tickets.find(secret) is None
        clock[0] = 0  # as if only the calendar counted
    calendar[0] = 1e9 - 3600
    assert tickets.find(secret) is None
