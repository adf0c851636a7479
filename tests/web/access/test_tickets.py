"""Short-lived keys, in the shapes of those who know such, and what they carry."""

from datetime import datetime

import pytest
from support.asgi import Running, running
from support.keys import KEYS, LIVE, bearer, every_protocol, let_in, url

from voxlive.web.access.keys import Key, digest
from voxlive.web.access.tickets import Tickets

HALL = Key("hall", digest(LIVE))


async def secret_of(server: Running, **body) -> str:
    path = "/v1/realtime/client_secrets"
    answer = await server.http.post(path, json=body, headers=bearer(LIVE))
    assert answer.status_code == 200
    return answer.json()["value"]


@every_protocol
async def test_one_opens_each_protocol_until_it_expires(path):
    async with running(HALL) as server:
        secret = await secret_of(server, expires_after={"seconds": 10})
        assert await let_in(server, path, offered=("token", secret))
        server.clock[0] += 9
        assert await let_in(server, path, headers=bearer(secret))
        server.clock[0] += 1
        code, _ = await server.refused(url(path), offered=("token", secret))
        assert code in (401, 4401, 1008)


async def test_a_session_that_began_with_one_may_outlast_it():
    async with running(HALL) as server:
        secret = await secret_of(server, expires_after={"seconds": 10})
        async with server.dial("/v1/live", offered=("token", secret)) as talk:
            server.clock[0] += 3600
            talk.send('{"type": "start", "format": "s16le"}')
            talk.send('{"type": "stop"}')
            await talk.over.wait()
            assert talk.code == 1000


async def test_one_makes_no_others_and_reads_no_counters():
    async with running(HALL) as server:
        secret = await secret_of(server)
        for path in ("/v1/realtime/client_secrets", "/v1/auth/grant", "/v1/client/sessions"):
            assert (await server.http.post(path, headers=bearer(secret))).status_code == 403
        assert (await server.http.get("/metrics", headers=bearer(secret))).status_code == 403
        assert (await server.http.get("/v1/models", headers=bearer(secret))).status_code == 200


@pytest.mark.parametrize("keys", [(), (HALL,)])
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
    async with running(HALL) as server:
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
    async with running(HALL) as server:
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
